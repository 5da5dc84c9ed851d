"""docs/configuration.md is complete on disk: its generated part equals the code."""

from pathlib import Path
from runpy import run_path

SCRIPT = Path(__file__).resolve().parents[2] / "docs" / "write_configuration.py"


def test_configuration_page_has_every_key_of_the_code() -> None:
    written = run_path(str(SCRIPT))
    page = written["page"]()
    assert page == written["PAGE"].read_text(encoding="utf-8"), "run `python docs/write_configuration.py`"
    assert "| `pattern` | `null` | regular expression" in page
