"""User text in the terminal: shown as it is, never as markup or as control codes; any locale; any home."""

import gzip
import os
import re
import shutil
import subprocess
import sys
from base64 import b64decode
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from otoscope.cli.summary import probe_table
from otoscope.corpus.audio import write_audio
from otoscope.metrics.record import Record, to_table
from otoscope.metrics.results import ResultsTable
from otoscope.runs.progress import SilentReporter
from otoscope.runs.terminal import ProgressLine, TerminalProgress, default_progress
from tests.support.calling import call
from tests.support.small_runs import RATE_HZ, Tiny, tone, write_config, write_voices

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


def test_run_of_an_awkward_table_ends_in_a_plain_report(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny: Tiny
) -> None:
    """Semicolons, decimal commas, a mark-up label, formulas as classes, and a clip that openSMILE cannot measure."""
    paths = sorted(path.relative_to(tmp_path).as_posix() for path in write_voices(tmp_path / "voices").rglob("*.wav"))
    write_audio(tmp_path / paths[0], tone(220.0, seconds=0.05), RATE_HZ)
    names = {"high": "=1+1", "low": "<b>[/b]"}
    rows = [
        f"{at};{path.replace('/', chr(92))};{Path(path).name[:-6]} ;{names[path.split('/')[1]]};{at},5;NA"
        for at, path in enumerate(paths)
    ]
    text = "\n".join([";path;group;label_tech [/b];rough;note", *rows, ";;;;;"])
    (tmp_path / "clips.csv").write_bytes(text.encode("utf-16"))
    corpus = {"kind": "manifest", "table": "clips.csv"}
    settings = {"train": {"sparsities": [0.75], "layers": [1]}, "factors": {"egemaps": True}}
    config = write_config(tmp_path / "mine.yaml", tiny("wavlm"), corpus, **settings)
    outcome = call(capsys, "run", config, "--out", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    assert "tech [/b]" in outcome.out
    for line in (
        "labels: tech [/b] (2 classes)",
        "factors: rough",
        "groups: 5 groups (column group)",
        "clips.csv is read as UTF-16-LE",
        "column 1, which has no name, holds row numbers and is not used",
        "decimal commas in rough are read as points",
        "1 column without a value (note)",
        f"1 clip without eGeMAPS factors, such as {paths[0]} (50 ms is too short for openSMILE",
    ):
        assert line in outcome.err, line
    page = (tmp_path / "out" / "report" / "index.html").read_text(encoding="utf-8")
    assert "<b>[/b]" not in page
    for kind, data in re.findall(r"data:(text/csv;charset=utf-8|application/gzip);base64,([\w+/=]+)", page):
        text = b64decode(data) if "csv" in kind else gzip.decompress(b64decode(data))
        assert not re.search(r"(^|,)\"?[=@]", text.decode(), flags=re.MULTILINE)


def test_synth_and_out_expand_home(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home").mkdir()
    small = ("--singers", 3, "--takes", 1, "--duration-s", 0.3)
    assert call(capsys, "synth", "~/sung", *small).code == 0
    (tmp_path / "home" / "c.yaml").write_text("model: starter\ncorpus: {kind: manifest, table: ~/sung/clips.parquet}\n")
    assert call(capsys, "corpus", "~/c.yaml", "--out=~/run").code == 0
    assert {path.name for path in (tmp_path / "home").iterdir()} == {"sung", "c.yaml", "run"}
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_run_in_folders_with_awkward_names(capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny: Tiny) -> None:
    """Names with the signs of globs, addresses and mark-up, beside folders that a glob would match."""
    work = tmp_path / "exp [2] *#ü%41 {x} $y 'z' [/b]"
    write_voices(work / "voices [1]")
    write_voices(work / "voices 1", voices=("eve", "fay", "gus"))
    corpus = {"kind": "folder", "root": "voices [1]", "pattern": r"(?P<label_class>\w+)/(?P<group>[a-z]+)_\d"}
    settings = {"train": {"sparsities": [0.75], "layers": [1]}, "extract": {"store": str(work / "acts [1]")}}
    config = write_config(work / "my config [2].yaml", tiny("wavlm"), corpus, **settings)
    outcome = call(capsys, "run", config, "--out", work / "run [2]")
    assert outcome.code == 0, outcome.err
    assert "30 clips" in outcome.out
    shutil.copytree(work / "run [2]", work / "run 2")
    outcome = call(capsys, "run", work / "run [2]")
    assert outcome.code == 0, outcome.err
    assert "report: up to date" in outcome.err
    assert "all files are intact" in call(capsys, "store", "verify", work / "run [2]").out


def test_progress_of_a_single_item_is_a_percentage() -> None:
    line = ProgressLine("training 1 dictionary", 1.0, "dictionaries")
    line.advance(0.25)
    assert line.text("layer03") == "  training 1 dictionary: 25%  layer03"


def test_default_progress_is_silent_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    assert isinstance(default_progress(), SilentReporter)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert isinstance(default_progress(), TerminalProgress)
