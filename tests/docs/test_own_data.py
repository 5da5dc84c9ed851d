"""Every command of docs/how-to/own-data.md, on the collections that the page names."""

import re
from pathlib import Path

import numpy as np
import pytest

from otoscope.corpus.audio import write_audio
from tests.support.calling import call

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "own-data.md"
COLLECTIONS = {"ravdess_song": "ravdess_song", "esc10": "esc10", "digits": "fsdd"}

EXPECTED = {
    "ravdess.yaml": ["groups: 12 groups (pattern)", "labels: emotion (6 classes), intensity (2 classes)"],
    "esc10.yaml": ["labels: sound (10 classes)", "400 clips"],
    "digits.yaml": ["groups: 6 groups (pattern)", "100 clips of 3,000 chosen"],
    "calls.yaml": ["groups: 3 groups (column site)", "species: tawny owl", "factors: temperature_c (2 missing)"],
}


@pytest.fixture
def beside(tmp_path: Path, shared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files of the page, the collections, and recordings of three sites."""
    text = PAGE.read_text(encoding="utf-8")
    for name, content in re.findall(r"^```\w+\n# (\S+)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE):
        (tmp_path / name).write_text(content, encoding="utf-8")
    for name, folder in COLLECTIONS.items():
        (tmp_path / name).symlink_to(shared / "data" / folder)
    for at, site in enumerate(("north", "east", "south")):
        write_audio(tmp_path / "field" / site / "night1.wav", 0.3 * np.sin(np.arange(69_000) * (0.2 + at / 10)), 16_000)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.shared
def test_commands_of_the_page_run_as_printed(beside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = PAGE.read_text(encoding="utf-8")
    commands = re.findall(r"^\$ otoscope (.*)$", text, flags=re.MULTILINE)
    printed = ""
    for command in commands:
        outcome = call(capsys, *command.split())
        assert outcome.code == 0, outcome.err
        printed += outcome.out
        for words in EXPECTED[command.split()[1]]:
            assert words in outcome.out + outcome.err, command
        assert "set aside" not in outcome.err
    assert {command.split()[1] for command in commands} == EXPECTED.keys()
    for line in re.findall(r"^Actor_.*$", text, flags=re.MULTILINE):
        assert line in printed
