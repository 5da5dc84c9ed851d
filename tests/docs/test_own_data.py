"""Every command of docs/how-to/own-data.md, on the collections that the page names."""

import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import soundfile

from otoscope.corpus.audio import write_audio
from tests.support.calling import call

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "own-data.md"
COLLECTIONS = {"ravdess_song": "ravdess_song", "esc10": "esc10", "digits": "fsdd"}

EXPECTED = {
    "ravdess.yaml": ["groups: 12 groups (pattern)", "labels: emotion (6 classes), intensity (2 classes)"],
    "esc10.yaml": ["labels: sound (10 classes)", "400 clips"],
    "mp3.yaml": ["groups: 40 groups (pattern)", "labels: sound (10 classes)"],
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
    write_mp3s(shared / "data" / "esc10", tmp_path / "mp3")
    for at, site in enumerate(("north", "east", "south")):
        write_audio(tmp_path / "field" / site / "night1.wav", 0.3 * np.sin(np.arange(69_000) * (0.2 + at / 10)), 16_000)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_mp3s(esc10: Path, root: Path) -> None:
    """Write four clips of each class as MP3: constant and variable rate, with and without headers and tags, joined."""
    tag = b"ID3\x04\0\0\0\0\x1f\x76" + bytes(4086)
    for folder in sorted(path for path in esc10.iterdir() if path.is_dir()):
        by_group = {path.name.split("-")[1]: path for path in sorted(folder.iterdir())}
        for at, path in enumerate(list(by_group.values())[:4]):
            wave, rate_hz = soundfile.read(path, dtype="float32")
            target = root / folder.name / f"{path.stem}.mp3"
            target.parent.mkdir(parents=True, exist_ok=True)
            mode = "VARIABLE" if at % 2 else "CONSTANT"
            soundfile.write(target, wave.clip(-1, 1), rate_hz, bitrate_mode=mode, compression_level=0.6)
            data = target.read_bytes()
            if at in (1, 2):  # without the frame of the Xing header
                data = data[data.index(b"\xff\xfb", 4) :]
            if at in (2, 3):
                data = tag + data
            target.write_bytes(data + data if at == 3 else data)


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
    copies: list[int] = []
    for path, seconds in pl.read_parquet("runs/mp3/corpus.parquet").select("path", "duration_s").iter_rows():
        original_s = soundfile.info(Path("esc10", path).with_suffix(".ogg")).duration
        copies.append(round(seconds / original_s))
        # without a Xing header, the delay and padding of the encoder stay
        assert seconds == pytest.approx(copies[-1] * original_s, abs=0.1)
    assert sorted(copies) == [1] * 30 + [2] * 10
    for line in re.findall(r"^Actor_.*$", text, flags=re.MULTILINE):
        assert line in printed
