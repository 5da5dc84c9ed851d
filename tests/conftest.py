"""Fixtures and settings of all tests."""

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
    # `make shapes` only: type errors of the hook would precede our own errors for bad input
    import tests.support.typecheck  # the hook looks it up by name

    install_import_hook(checked_modules(), f"{tests.support.typecheck.__name__}.check")

SHARED = Path(__file__).resolve().parents[2] / "shared"

WHOLE_RUNS = (
    "activations/test_faults.py",
    "activations/test_writers.py",
    "cli/",
    "corpus/synth/test_opensmile.py",
    "docs/",
    "executors/",
    "pipeline/",
    "protocols/mariotte2025/test_run.py",
    "protocols/strict/test_run.py",
    "reproduce/",
    "runs/test_training.py",
    "truth/",
)
"""Tests that run several stages or train for seconds; `make test-fast` excludes them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that `make test-fast` excludes."""
    tests = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(tests) and item.path.relative_to(tests).as_posix().startswith(WHOLE_RUNS):
            item.add_marker("whole_run")


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of recordings that continuous integration has next to the checkout."""
    if not SHARED.is_dir():
        pytest.skip("no recordings next to this checkout")
    return SHARED
