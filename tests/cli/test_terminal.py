"""User text in the terminal: shown as it is, never as markup or as control codes; any locale; any home."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from otoscope.cli.progress import TerminalProgress
from otoscope.cli.summary import probe_table
from otoscope.corpus.audio import write_audio
from otoscope.metrics.record import Record, to_table
from otoscope.metrics.results import ResultsTable
from tests.support.calling import call

SOURCES = Path(__file__).parents[2] / "src" / "otoscope"


def test_probe_table_shows_brackets_of_a_label(capsys: pytest.CaptureFixture[str]) -> None:
    rows = to_table(
        [
            Record(
                metric="probe_accuracy",
                value=0.5,
                split="test",
                representation="dense",
                layer=1,
                target="tech [/b] :+1:",
            )
        ]
    )
    table = probe_table(ResultsTable(rows))
    assert table is not None
    Console(highlight=False, markup=False, emoji=False, width=200).print(table)
    assert "tech [/b] :+1:" in capsys.readouterr().out


def test_every_console_prints_text_without_markup() -> None:
    for path in SOURCES.rglob("*.py"):
        for arguments in re.findall(r"\bConsole\(([^()]+(?:\([^()]*\)[^()]*)*)\)", path.read_text(encoding="utf-8")):
            assert "markup=False" in arguments, path
            assert "emoji=False" in arguments, path
        for arguments in re.findall(r"\bTextColumn\((.*)", path.read_text(encoding="utf-8")):
            assert "markup=False" in arguments, path


def test_message_escapes_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    progress = TerminalProgress()
    progress.message("  a\x1b[2Jb [/b] " + os.fsdecode(b"caf\xe9"))
    assert capsys.readouterr().err == "  a\\x1b[2Jb [/b] caf\\udce9\n"


def test_main_escapes_control_characters_of_an_error(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    outcome = call(capsys, "run", tmp_path / "a\x1b[2J.yaml")
    assert (outcome.code, "\x1b" in outcome.err) == (1, False)
    outcome = call(capsys, "run", tmp_path / "[/b].yaml")
    assert (outcome.code, "[/b].yaml" in outcome.err) == (1, True)
    assert call(capsys, "run", "x.yaml", "--no-such-[/b]").code == 2


def test_corpus_runs_in_a_locale_without_utf8_and_without_home(tmp_path: Path) -> None:
    for speaker in "abc":
        wave = np.sin(np.arange(8000) * (0.1 + 0.01 * ord(speaker))).astype(np.float32)
        write_audio(tmp_path / "größe" / f"{speaker}_é.wav", wave, 16_000)
    (tmp_path / "c.yaml").write_text("corpus: {kind: folder, root: größe}\n", encoding="utf-8")
    kept = {"PATH": os.environ["PATH"], "PYTHONPATH": str(SOURCES.parent)}
    locale = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    script = tmp_path / "without_home.py"  # a user that no table lists
    script.write_text("import pwd\npwd.getpwuid = {}.__getitem__\nfrom otoscope.cli.main import main\nmain()\n")
    command = [sys.executable, script, "corpus", "c.yaml", "--out", "größe/run"]
    done = subprocess.run(command, cwd=tmp_path, env=kept | locale, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "set aside" not in done.stderr
    assert (tmp_path / "größe" / "run" / "corpus.parquet").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"größe", "c.yaml", "without_home.py"}
