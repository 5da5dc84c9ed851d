import importlib.util
from pathlib import Path

import pytest

from otoscope import TrainConfig
from otoscope.errors import MissingExtra
from otoscope.sae import loggers
from otoscope.sae.loggers import NoLogger, TensorBoardLogger, open_logger, scalars
from otoscope.sae.train import TrainStep, begin, train_steps
from tests.support.planted import planted

CONFIG = TrainConfig(batch=100, epochs=3)

installed = pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="the extra `log` is absent")


def steps() -> list[TrainStep]:
    return list(train_steps(begin(planted(0), planted(1), CONFIG, latents=32, k=3)))


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    actual = EventAccumulator(str(folder))
    actual.Reload()
    return {tag: [(e.step, e.value) for e in actual.Scalars(tag)] for tag in actual.Tags()["scalars"]}


@installed
def test_tensorboard_logger_writes_the_scalars(tmp_path: Path):
    log, made = open_logger(tmp_path), steps()
    for step in made:
        log("one", step)
    log.close()
    actual = curves(tmp_path / "tensorboard" / "one")
    validated = [step for step in made if step.valid]
    assert len(validated) == 3
    for step in validated:
        for key, value in scalars(step).items():
            assert dict(actual[key])[step.step] == pytest.approx(value, rel=1e-6)
    assert [step for step, _ in actual["valid/mse"]] == [4, 8, 12]


@installed
def test_tensorboard_logger_resumes_the_same_curves(tmp_path: Path):
    made = steps()
    killed = TensorBoardLogger(tmp_path)
    for step in made[:9]:
        killed("one", step)
    killed.close()
    resumed = TensorBoardLogger(tmp_path)
    for step in made[5:]:
        resumed("one", step)
    resumed.close()
    assert [step for step, _ in curves(tmp_path / "one")["valid/mse"]] == [4, 8, 12]


def test_open_logger_without_tensorboard_discards_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(loggers, "find_spec", lambda _: None)
    log = open_logger(tmp_path)
    assert isinstance(log, NoLogger)
    log("one", steps()[-1])
    log.close()
    assert not list(tmp_path.iterdir())
    with pytest.raises(MissingExtra, match=r'pip install "otoscope\[log\]"'):
        TensorBoardLogger(tmp_path)
