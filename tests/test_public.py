"""Names that `import otoscope` offers."""

import ast
import subprocess
import sys
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import otoscope

STUB = Path(otoscope.__file__).with_suffix(".pyi")


def test_otoscope_resolves_every_public_name() -> None:
    declared = {a.name for n in ast.parse(STUB.read_text()).body if isinstance(n, ast.ImportFrom) for a in n.names}
    assert set(otoscope.__all__) == declared
    for name in otoscope.__all__:
        assert getattr(otoscope, name).__doc__, name
        assert name in dir(otoscope)


def test_otoscope_tour_mentions_every_public_name() -> None:
    assert otoscope.__doc__
    aliases = {"load_sae", "save_sae", "ArrayRows"}
    assert [name for name in otoscope.__all__ if f"`{name}`" not in otoscope.__doc__ and name not in aliases] == []


def test_otoscope_import_does_not_load_torch() -> None:
    code = "import otoscope, otoscope.cli.main, sys; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_otoscope_version_is_the_installed_one() -> None:
    assert otoscope.__version__ == version("otoscope")


def test_otoscope_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(otoscope, "load_everything")


def test_otoscope_class_names_are_unique() -> None:
    sources = STUB.parent.rglob("*.py")
    classes = [
        n.name for p in sources for n in ast.parse(p.read_text(encoding="utf-8")).body if isinstance(n, ast.ClassDef)
    ]
    assert [name for name, number in Counter(classes).items() if number > 1 and not name.startswith("_")] == []
