import importlib.util
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest

from otoscope.errors import MissingExtra
from otoscope.sae import loggers
from otoscope.sae.config import TrainConfig
from otoscope.sae.loggers import TensorBoardLog, WandbLog, open_log, scalars
from otoscope.sae.train import Step, begin, train
from tests.support.planted import planted

CONFIG = TrainConfig(batch=100, epochs=3)

installed = pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="the extra `log` is absent")


def steps() -> list[Step]:
    return list(train(begin(planted(0), planted(1), CONFIG, latents=32, k=3)))


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


@installed
def test_what_is_written_can_be_read_back(tmp_path: Path):
    log, made = open_log(tmp_path), steps()
    for step in made:
        log("one", step)
    log.close()
    found = curves(tmp_path / "tensorboard" / "one")
    validated = [step for step in made if step.valid]
    assert len(validated) == 3
    for step in validated:
        for key, value in scalars(step).items():
            assert dict(found[key])[step.step] == pytest.approx(value, rel=1e-6)
    assert [step for step, _ in found["valid/mse"]] == [4, 8, 12]


@installed
def test_a_resumed_run_goes_on_in_the_same_curves(tmp_path: Path):
    made = steps()
    killed = TensorBoardLog(tmp_path)
    for step in made[:9]:
        killed("one", step)
    killed.close()
    resumed = TensorBoardLog(tmp_path)
    for step in made[5:]:
        resumed("one", step)
    resumed.close()
    assert [step for step, _ in curves(tmp_path / "one")["valid/mse"]] == [4, 8, 12]


def test_where_nothing_is_installed_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(loggers, "find_spec", lambda _: None)
    log = open_log(tmp_path)
    assert log.logs == ()
    log("one", steps()[-1])
    log.close()
    assert not list(tmp_path.iterdir())
    with pytest.raises(MissingExtra, match=r'pip install "otoscope\[log\]"'):
        TensorBoardLog(tmp_path)
    with pytest.raises(MissingExtra, match=r"pip install wandb"):
        WandbLog(tmp_path)


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")
def test_weights_and_biases_itself_takes_the_numbers_and_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    log, made = WandbLog(tmp_path), steps()
    for name in ("one", "two"):
        for step in made:
            log(name, step)
    log.close()
    assert len(list(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))) == 2
    assert capfd.readouterr().err == ""


class FakeRun:
    """What `wandb.init` gives, as far as it is used."""

    def __init__(self, **settings: object) -> None:
        self.settings, self.logged, self.finished = settings, dict[int, dict[str, float]](), False

    def log(self, values: dict[str, float], *, step: int) -> None:
        self.logged[step] = values

    def finish(self) -> None:
        self.finished = True


def test_weights_and_biases_gets_the_same_numbers_and_stays_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    runs: list[FakeRun] = []
    fake = ModuleType("wandb")
    fake.__dict__["Settings"] = dict
    fake.__dict__["init"] = lambda **settings: runs.append(FakeRun(**settings)) or runs[-1]
    fake.__spec__ = ModuleSpec("wandb", None)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    log, made = WandbLog(tmp_path), steps()
    for step in made[:-1]:
        log("one", step)
        log("two", step)
    assert [run.settings["name"] for run in runs] == ["one", "two"]
    assert runs[0].settings["id"] != runs[1].settings["id"]
    assert runs[0].settings["mode"] == "offline"
    assert runs[0].settings["settings"] == {"silent": True}
    assert runs[0].logged == {step.step: scalars(step) for step in made[:-1] if step.valid}
    log("one", made[-1])
    assert [run.finished for run in runs] == [True, False]
    log.close()
    assert runs[1].finished
