"""A run with nothing left to do is recognised without PyTorch; every change sends it to the stages."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from otoscope.cli.main import main
from tests.support.calling import call
from tests.support.small_runs import FOLDER, Tiny, stages_of_last_run, write_config, write_voices

Capsys = pytest.CaptureFixture[str]

ROOT = Path(__file__).resolve().parents[2]

MAX_CPU_S = 2.0

UNCHANGED = """
import json, sys, time
from otoscope.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit as ended:
    heavy = [name for name in ("torch", "transformers", "sklearn", "numba") if name in sys.modules]
    print(json.dumps({"code": ended.code or 0, "heavy": heavy, "cpu_s": time.process_time()}))
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny) -> Path:
    """A configuration with a run up to the corpus, of which all changes are undone."""
    root = tmp_path_factory.mktemp("again")
    write_voices(root / "voices", takes=2)
    path = write_config(root / "mine.yaml", tiny("wavlm"), FOLDER)
    with pytest.raises(SystemExit):
        main(["corpus", str(path), "--out", str(root / "out")])
    return path


@pytest.mark.slow
def test_unchanged_run_loads_no_heavy_package_and_prints_the_same(config: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", UNCHANGED, "evaluate", str(config), "--out", str(tmp_path / "out")]
    small = ["--set", "train.sparsities=[0.9]", "--set", "train.layers=[1]"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "HF_HUB_OFFLINE": "1"}

    def run() -> tuple[dict[str, object], list[str], list[str]]:
        done = subprocess.run([*command, *small], env=environment, capture_output=True, text=True, check=True)
        *shown, facts = done.stdout.splitlines()
        return json.loads(facts), shown, done.stderr.splitlines()

    first, shown, _ = run()
    assert first["code"] == 0
    again, shown_again, notes = run()
    assert (again["code"], again["heavy"]) == (0, [])
    assert again["cpu_s"] < MAX_CPU_S
    assert [line for line in shown_again if " peak memory " not in line] == [
        line for line in shown if " peak memory " not in line
    ]
    assert "evaluate: up to date" in notes
    assert "  labels: class (2 classes)" in notes
    assert stages_of_last_run(tmp_path / "out") == (
        [],
        ["corpus", "factors", "extract", "train", "evaluate"],
    )


def test_run_inside_the_folder_of_the_recordings_stays_up_to_date(capsys: Capsys, config: Path) -> None:
    command = ("corpus", config, "--out", config.parent / "voices" / "runs" / "mine")
    assert call(capsys, *command).code == 0
    log = config.parent / "voices" / "runs" / "mine" / "log.jsonl"
    written = log.read_text()
    outcome = call(capsys, *command)
    assert "corpus: up to date" in outcome.err
    assert '"name"' not in log.read_text()[len(written) :]


def replace_recording(root: Path) -> Callable[[], None]:
    path = root / "voices" / "low" / "ann_0.wav"
    data, stat = path.read_bytes(), path.stat()
    path.write_bytes(data[:-2] + b"\0\1")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as a copy with its time
    return lambda: path.write_bytes(data) and None


def add_recording(root: Path) -> Callable[[], None]:
    path = root / "voices" / "low" / "fay_0.wav"
    path.write_bytes((root / "voices" / "low" / "ann_0.wav").read_bytes())
    return path.unlink


def damage_table(root: Path) -> Callable[[], None]:
    path = root / "out" / "set_aside.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    return lambda: None


def remove_card(root: Path) -> Callable[[], None]:
    (root / "out" / "stages" / "corpus.json").unlink()
    return lambda: None


def damage_record(root: Path) -> Callable[[], None]:
    (root / "out" / "stages" / "up_to_date.json").write_text("[]")
    return lambda: None


def change_settings(root: Path) -> Callable[[], None]:
    path = root / "mine.yaml"
    text = path.read_text()
    path.write_text(yaml.safe_dump(yaml.safe_load(text) | {"splits": {"cross": 0, "seed": 1}}))
    return lambda: path.write_text(text) and None


CHANGES = (replace_recording, add_recording, damage_table, remove_card, damage_record, change_settings)


@pytest.mark.parametrize("change", CHANGES)
def test_changed_run_is_left_to_the_stages(
    capsys: Capsys, config: Path, change: Callable[[Path], Callable[[], None]]
) -> None:
    out = config.parent / "out"
    assert call(capsys, "corpus", config, "--out", out).code == 0
    assert stages_of_last_run(out) == ([], ["corpus"])
    undo = change(config.parent)
    log = (out / "log.jsonl").read_text()
    assert call(capsys, "corpus", config, "--out", out).code == 0
    events = [json.loads(line) for line in (out / "log.jsonl").read_text()[len(log) :].splitlines()]
    assert "name" in events[0], "the stages were not asked"
    undo()
    assert call(capsys, "corpus", config, "--out", out).code == 0
    assert call(capsys, "corpus", config, "--out", out, "--show", "1").code == 0


def test_up_to_date_stops_at_a_run_in_progress(capsys: Capsys, config: Path) -> None:
    from otoscope.runs.folder import RunFolder

    folder = RunFolder(config.parent / "out")
    assert call(capsys, "corpus", config, "--out", folder.root).code == 0
    with folder.locked():
        outcome = call(capsys, "corpus", config, "--out", folder.root)
    assert outcome.code == 1
    assert "another run is using" in outcome.err
