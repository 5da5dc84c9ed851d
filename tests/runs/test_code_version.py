"""Versions of code: prose never changes them, a changed computation always does."""

import shutil
from pathlib import Path

import pytest

from otoscope.pipeline.report import REPORT_CODE
from otoscope.protocols import held_out
from otoscope.runs.code_version import SOURCE, code_version, syntax_version
from otoscope.runs.training import TRAINING_CODE

SOURCE_TEXT = '''
"""Module."""

def mean(values: list[float]) -> float:
    """Return the mean."""
    if not values:
        raise ValueError(f"no values in {values}; give one")
    return sum(values) / len(values)  # plain
'''


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Return the mean.", "Return the average."),
        ("# plain", "# simple"),
        ("no values in {values}; give one", "empty"),
        ("    return sum", "\n    return sum"),
        ('    """Return the mean."""\n', ""),
    ],
)
def test_syntax_version_ignores_prose(old: str, new: str) -> None:
    assert old in SOURCE_TEXT
    assert syntax_version(SOURCE_TEXT) == syntax_version(SOURCE_TEXT.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"), [("len(values)", "2"), ("/ len", "// len"), ("not values", "values"), ("ValueError", "TypeError")]
)
def test_syntax_version_changes_with_the_code(old: str, new: str) -> None:
    assert old in SOURCE_TEXT
    assert syntax_version(SOURCE_TEXT) != syntax_version(SOURCE_TEXT.replace(old, new))


def test_code_version_keeps_logarithms_and_skips_messages() -> None:
    assert syntax_version("np.log(x)") != syntax_version("np.log(y)")
    assert syntax_version('progress.message("a")') == syntax_version('progress.message("b")')
    assert syntax_version('Metric("a", description="b")') == syntax_version('Metric("a", description="c")')
    assert syntax_version('Metric("a", unit="b")') != syntax_version('Metric("a", unit="c")')


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A copy of the package."""
    return shutil.copytree(SOURCE, tmp_path / "otoscope", ignore=shutil.ignore_patterns("__pycache__"))


def versions(source: Path) -> dict[str, str]:
    """Return the versions of train, evaluate and report in a source tree read for the first time."""
    copy = source.with_name(f"copy{len(list(source.parent.iterdir()))}")  # the versions of a path are cached
    shutil.copytree(source, copy)
    codes = {"train": TRAINING_CODE, "evaluate": held_out.CODE, "report": REPORT_CODE}
    return {name: code_version(*code, source=copy) for name, code in codes.items()}


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_code_version_of_stages_ignores_a_docstring_edit(source: Path) -> None:
    before = versions(source)
    for module in ("metrics/dci.py", "sae/model.py", "report/page.py"):
        edit(source / module, '"""', '"""Edited. ')
    assert versions(source) == before


def test_code_version_of_a_metric_is_part_of_evaluate_and_report_only(source: Path) -> None:
    before = versions(source)
    edit(source / "metrics" / "dci.py", "import numpy as np", "import numpy as np\n\nEDITED = 1")
    after = versions(source)
    assert {name for name in before if before[name] != after[name]} == {"evaluate", "report"}


def test_code_version_of_a_template_is_part_of_report_only(source: Path) -> None:
    before = versions(source)
    (source / "report" / "new.html").write_text("<p></p>", encoding="utf-8")
    after = versions(source)
    assert {name for name in before if before[name] != after[name]} == {"report"}


def test_code_version_refuses_unknown_modules() -> None:
    with pytest.raises(ValueError, match="no module or package"):
        code_version("otoscope.nothing")
