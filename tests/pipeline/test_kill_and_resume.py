"""Runs that are killed, or run out of room, end in the bytes of an unbroken one."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from otoscope.pipeline.stages import STAGES
from tests.support.small_runs import SUNG, Tiny, write_config

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("broken")


@pytest.fixture(scope="module")
def config(folder: Path, tiny: Tiny) -> Path:
    return write_config(folder / "sung.yaml", tiny("wavlm"), SUNG)


def trials(kind: str, config: Path) -> dict[str, Any]:
    """What happened to all runs of a kind; one process imports everything once and forks them."""
    command = [sys.executable, "-m", "tests.support.kill_and_resume", kind, str(config), str(config.parent)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def told(config: Path) -> dict[str, Any]:
    found = trials("one_kill", config)
    assert found["unbroken"]["code"] == 0
    return found


@pytest.fixture(scope="module")
def further(config: Path, told: dict[str, Any]) -> dict[str, Any]:
    """Further kills, of runs to be compared with the unbroken one."""
    return trials("further_kills", config)


def results(folder: Path, name: str) -> bytes:
    return (folder / name / "results.parquet").read_bytes()


def require_resumed(outcome: dict[str, Any], there: str, not_there: str) -> None:
    """Check that a run was killed between two files of a stage, and that the same command then ended."""
    assert outcome["end"] == -signal.SIGKILL
    assert there.format("layer01-frames-default-m64-k16-seed0") in outcome["left"], "killed before its middle"
    assert not_there not in outcome["left"], "killed after its end"
    assert outcome["code"] == 0


def require_stopped(outcome: dict[str, Any], code: int) -> None:
    """Check that a run stopped by a signal ended with a code and the way to resume it."""
    assert outcome["code"] == code
    assert outcome["told"].splitlines()[-1] == "stopped; run the same command again to resume"
    assert "Traceback" not in outcome["told"]


def test_run_killed_in_training_resumes_to_the_same_bytes(folder: Path, told: dict[str, Any]) -> None:
    require_resumed(told["train"], "saes/{}/progress.safetensors", "saes/index.json")
    assert results(folder, "killed-in-train") == results(folder, "unbroken")


def test_run_stopped_by_ctrl_c_prints_how_to_resume(told: dict[str, Any]) -> None:
    require_stopped(told["SIGINT"], 130)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "there", "not_there"),
    [
        ("extract", "activations/card.json", "activations/manifest.json"),
        ("evaluate", "parts/layer00-dense.parquet", "results.parquet"),
    ],
)
def test_run_killed_in_a_stage_resumes_to_the_same_bytes(
    folder: Path, further: dict[str, Any], stage: str, there: str, not_there: str
) -> None:
    require_resumed(further[stage], there, not_there)
    assert results(folder, f"killed-in-{stage}") == results(folder, "unbroken")


@pytest.mark.slow
def test_run_killed_in_a_stage_keeps_finished_results(further: dict[str, Any]) -> None:
    assert [name for name in further["evaluate"]["untouched"] if name.startswith("parts/layer")] == [
        f"parts/layer0{layer}-dense.{kind}" for layer in (0, 1, 2) for kind in ("json", "parquet", "safetensors")
    ]
    assert len([name for name in further["evaluate"]["untouched"] if name.endswith("sae.safetensors")]) == 4


@pytest.mark.slow
def test_run_killed_at_random_resumes_to_the_same_bytes(folder: Path, further: dict[str, Any]) -> None:
    assert further["random"]["killed"] == 2, "no run lived long enough to be killed"
    assert further["random"]["code"] == 0
    assert results(folder, "killed-at-random") == results(folder, "unbroken")


@pytest.mark.slow
def test_run_stopped_by_a_signal_to_end_prints_how_to_resume(further: dict[str, Any]) -> None:
    require_stopped(further["SIGTERM"], 143)


def artifacts(folder: Path) -> dict[str, bytes]:
    """Return the files of a run, without those that name times or the folder itself."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".part", ".jsonl", ".lock")]
    names = {path.relative_to(folder).as_posix(): path for path in paths}
    outside = ("sound/", "stages/", "tensorboard/", "corpus.json", ".lock", "activations/.lock")
    return {name: path.read_bytes() for name, path in names.items() if not name.startswith(outside)}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_run_killed_in_every_stage_ends_in_the_same_artifacts(folder: Path, config: Path) -> None:
    found = trials("every_stage", config)
    assert set(found["ends"].values()) == {-signal.SIGKILL}, found["ends"]
    assert found["codes"] == [0, 0]
    whole, resumed = artifacts(folder / "run"), artifacts(folder / "killed-in-all")
    assert whole.keys() == resumed.keys()
    assert [name for name in whole if whole[name] != resumed[name]] == []


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_run_stopped_by_signals_in_every_stage_prints_how_to_resume(folder: Path, config: Path) -> None:
    found = trials("signals", config)
    assert len(found["stopped"]) == 2 * len(STAGES)
    for name, stopped in found["stopped"].items():
        assert stopped["code"] == {"SIGINT": 130, "SIGTERM": 143}[name.split()[0]], (name, stopped)
        assert stopped["told"].splitlines()[-1] == "stopped; run the same command again to resume", (name, stopped)
        assert "Traceback" not in stopped["told"], (name, stopped)
        assert stopped["left"] == [], name
    assert found["code"] == 0


@pytest.fixture(scope="module")
def full(config: Path) -> dict[str, Any]:
    return trials("full_disks", config)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("stage", STAGES)
def test_stage_on_a_full_disk_fails_in_one_line_and_leaves_nothing(full: dict[str, Any], stage: str) -> None:
    outcome = full[stage]
    assert outcome["code"] == 1, outcome["told"]
    assert "Traceback" not in outcome["told"]
    last = outcome["told"].splitlines()[-1]
    assert last.startswith("error: no room left to write ")
    assert last.endswith("free some space and run again")
    assert outcome["left"] == []
    assert outcome["then"] == 0


@pytest.mark.slow
def test_run_after_full_disks_has_the_bytes_of_an_unbroken_one(
    folder: Path, told: dict[str, Any], full: dict[str, Any]
) -> None:
    assert told["unbroken"]["code"] == full["report"]["then"] == 0
    assert results(folder, "full") == results(folder, "unbroken")
