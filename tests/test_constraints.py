"""The pinned versions, which `make install` takes on every machine."""

import tomllib
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parents[1]


def test_constraints_allow_the_oldest_python_that_the_package_supports() -> None:
    """Debian 12 has Python 3.11.2; a pinned version for 3.11.5 and newer cannot be installed there."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    oldest = project["requires-python"].removeprefix(">=") + ".0"
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = [Requirement(line) for line in lines if line and not line.startswith("#")]
    needed = {}
    for requirement in pinned:
        try:
            needed[str(requirement)] = metadata(requirement.name).get("Requires-Python", "")
        except PackageNotFoundError:  # for another platform
            continue
    assert len(needed) > 100
    assert [name for name, versions in needed.items() if not SpecifierSet(versions).contains(oldest)] == []
