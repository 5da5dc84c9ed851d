"""What every test may ask for."""

import os
from pathlib import Path

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

from tests.support.fixtures import tiny

__all__ = ["tiny"]

os.environ.setdefault("HF_HUB_OFFLINE", "1")

settings.register_profile("seeded", derandomize=True, deadline=None, print_blob=True)
settings.load_profile("seeded")

SOURCE = Path(__file__).resolve().parents[1] / "src"


def checked_modules() -> list[str]:
    """Modules whose annotated shapes and types are checked at every call; compiled code cannot be wrapped."""
    files = [path for path in SOURCE.rglob("*.py") if path.name != "__init__.py"]
    plain = [path for path in files if "numba" not in path.read_text(encoding="utf-8")]
    return [".".join(path.relative_to(SOURCE).with_suffix("").parts) for path in plain]


if os.environ.get("OTOSCOPE_SHAPES"):
    # `make shapes`; not in every run, because it answers bad input before our own errors can
    import tests.support.typecheck  # the hook looks it up by name

    install_import_hook(checked_modules(), f"{tests.support.typecheck.__name__}.check")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data that lies beside a checkout in continuous integration."""
    if not SHARED.is_dir():
        pytest.skip("no shared data beside this checkout")
    return SHARED
