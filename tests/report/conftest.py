from pathlib import Path
from typing import NamedTuple

import pytest

from otoscope.report import write_report
from tests.support.finished_run import make_run
from tests.support.page_reader import Reading, read_page


class Made(NamedTuple):
    """A run folder with its report, read back."""

    folder: Path
    page: Path
    text: str
    reading: Reading


def report(folder: Path, **parts: object) -> Made:
    make_run(folder, **parts)  # type: ignore[arg-type]
    page = write_report(folder, figures=False)
    text = page.read_text(encoding="utf-8")
    return Made(folder, page, text, read_page(text))


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = make_run(tmp_path_factory.mktemp("made"))
    page = write_report(folder)
    text = page.read_text(encoding="utf-8")
    return Made(folder, page, text, read_page(text))
