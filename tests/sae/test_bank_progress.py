from itertools import islice
from pathlib import Path

import pytest

from otoscope import TrainConfig
from otoscope.errors import DamagedArtifact, StaleArtifact
from otoscope.sae.bank import PROGRESS, load_progress, save_progress
from otoscope.sae.checkpoint import CARD, WEIGHTS
from otoscope.sae.train import TrainingRun, TrainStep, begin, train_steps
from tests.support.planted import planted
from tests.support.training import train_into

CONFIG = TrainConfig(batch=64, epochs=3, dead_window_rows=64, learning_rate=3e-3)
STEPS = 3 * 13


def fresh(config: TrainConfig = CONFIG, *, seed: int = 0) -> TrainingRun:
    return begin(planted(0, 1), planted(2, frames=100), config, latents=96, k=5, seed=seed)


class Killed(Exception):
    """Exception that stands for a kill signal."""


@pytest.mark.parametrize("kill_after", [1, 12, 13, 14, STEPS - 1, STEPS])
def test_training_state_resumed_run_ends_in_the_same_bytes(tmp_path: Path, kill_after: int):
    whole = train_into(tmp_path / "whole", fresh(), {"seed": 0})

    def kill(step: TrainStep) -> None:
        # progress is saved after the callback: the file has the step before
        if step.step == kill_after:
            raise Killed

    with pytest.raises(Killed, match=r"^$"):
        train_into(tmp_path / "killed", fresh(), {"seed": 0}, save_every_s=0.0, on_step=kill)
    assert (tmp_path / "killed" / PROGRESS).exists() == (kill_after > 1)
    assert not (tmp_path / "killed" / CARD).exists()
    first: list[TrainStep] = []
    resumed = train_into(tmp_path / "killed", fresh(), {"seed": 0}, on_step=first.append)
    assert first[0].step == kill_after
    assert resumed.history == whole.history
    for name in (WEIGHTS, CARD):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (tmp_path / "killed" / PROGRESS).exists()


def test_load_progress_keeps_the_learning_rate_after_a_restart(tmp_path: Path):
    run = fresh()
    list(islice(train_steps(run), 14))
    run.restart_steps.append(13)
    save_progress(tmp_path, run)
    resumed = fresh()
    assert load_progress(tmp_path, resumed)
    assert resumed.restart_steps == [13]
    assert next(train_steps(resumed)).learning_rate == run.plan.learning_rate(14) / 2


def test_load_progress_without_a_file(tmp_path: Path):
    assert not load_progress(tmp_path, fresh())


@pytest.mark.parametrize("other", [fresh(seed=1), fresh(CONFIG.model_copy(update={"epochs": 4.0}))])
def test_load_progress_other_settings_error(tmp_path: Path, other: TrainingRun):
    save_progress(tmp_path, other)
    with pytest.raises(StaleArtifact, match=r"was made from other inputs"):
        load_progress(tmp_path, fresh())


def test_load_progress_truncated_file_error(tmp_path: Path):
    run = fresh()
    list(islice(train_steps(run), 2))
    save_progress(tmp_path, run)
    path = tmp_path / PROGRESS
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DamagedArtifact, match=r"not a complete safetensors file"):
        load_progress(tmp_path, fresh())
