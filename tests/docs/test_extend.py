"""Examples of docs/how-to/extend.md, applied to a copy of the package and run."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import otoscope

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "how-to" / "extend.md"
PACKAGE = Path(otoscope.__file__).parent


def sections() -> dict[str, list[tuple[str, str]]]:
    """Return the code blocks of each section: the first line without `# `, and the rest."""
    found: dict[str, list[tuple[str, str]]] = {}
    for section in re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        blocks = re.findall(r"^```python\n# (.*?)\n(.*?)^```$", section, flags=re.DOTALL | re.MULTILINE)
        found[section.splitlines()[0]] = blocks
    return found


def insert_after(text: str, pattern: str, addition: str) -> str:
    """Insert lines after the first line that matches; fail if none does."""
    lines = text.splitlines(keepends=True)
    place = next(i for i, line in enumerate(lines) if re.search(pattern, line))
    return "".join([*lines[: place + 1], addition, *lines[place + 1 :]])


def apply(source: Path, step: str, code: str) -> None:
    if match := re.fullmatch(r"new file: src/(\S+)", step):
        path = source / match[1]
        assert not path.exists(), path
        path.write_text(code, encoding="utf-8")
    elif match := re.fullmatch(r"import in src/(\S+)", step):
        path = source / match[1]
        path.write_text(insert_after(path.read_text(encoding="utf-8"), r"^from otoscope\.errors", code))
    elif match := re.fullmatch(r"add to (\w+) in src/(\S+)", step):
        path = source / match[2]
        opening = rf"^{match[1]}\b.*[(\[{{]$"
        text = path.read_text(encoding="utf-8")
        if match[1] == "STAGES":
            opening = r"^        Stage\(\"factors\""
        path.write_text(insert_after(text, opening, code), encoding="utf-8")
    else:
        raise AssertionError(f"unknown step {step!r}")


@pytest.mark.parametrize("name", list(sections()))
def test_extension_example_runs_from_the_page(name: str, tmp_path: Path) -> None:
    *steps, (last, example) = sections()[name]
    assert steps
    assert last == "run"
    source = tmp_path / "src"
    shutil.copytree(PACKAGE, source / "otoscope", ignore=shutil.ignore_patterns("__pycache__"))
    for step, code in steps:
        apply(source, step, code)
    work = tmp_path / "work"
    work.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(source), "HF_HUB_OFFLINE": "1"}
    run = subprocess.run(
        [sys.executable, "-c", example], cwd=work, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr


def test_extension_page_covers_all_kinds() -> None:
    assert list(sections()) == [
        "A sparsifier",
        "A metric",
        "An encoder family",
        "A corpus",
        "A stage",
        "A chart",
    ]
