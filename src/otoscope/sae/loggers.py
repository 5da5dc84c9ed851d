"""Curves of a training, for whoever wants to watch them: TensorBoard and Weights & Biases where they are installed."""

import os
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from otoscope.artifacts import fingerprint
from otoscope.errors import MissingExtra
from otoscope.sae.train import Step


class Log(Protocol):
    """Keeps what steps report."""

    def __call__(self, name: str, step: Step) -> None:
        """Take in a step of the dictionary `name`."""
        ...

    def close(self) -> None:
        """Write what is still held back."""
        ...


class Logs:
    """Several logs, or none, as one."""

    def __init__(self, *logs: Log) -> None:
        self.logs = logs

    def __call__(self, name: str, step: Step) -> None:
        """Hand the step to each."""
        for log in self.logs:
            log(name, step)

    def close(self) -> None:
        """Close each."""
        for log in self.logs:
            log.close()


class TensorBoardLog:
    """Writes the numbers of every validated step, one TensorBoard run a dictionary.

    A resumed training goes on in the same curves: what a killed one had written beyond the step it
    is resumed from is hidden (`purge_step`).
    """

    def __init__(self, folder: Path) -> None:
        if find_spec("tensorboard") is None:
            raise MissingExtra('curves need TensorBoard; pip install "otoscope[log]"')
        self.folder = folder
        self._writers: dict[str, Any] = {}

    def __call__(self, name: str, step: Step) -> None:
        """Write a validated step; others pass by."""
        if step.valid is None:
            return
        if name not in self._writers:
            from torch.utils.tensorboard import SummaryWriter  # an optional extra

            self._writers[name] = SummaryWriter(str(self.folder / name), purge_step=step.step)
        for key, value in scalars(step).items():
            self._writers[name].add_scalar(key, value, step.step)
        if step.step == step.steps:
            self._writers.pop(name).close()

    def close(self) -> None:
        """Write what is still held back."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()


class WandbLog:
    """Writes the numbers of every validated step, one Weights & Biases run a dictionary.

    Nothing leaves the machine unless `WANDB_MODE=online` says so; `wandb sync` sends it later.
    """

    def __init__(self, folder: Path) -> None:
        if find_spec("wandb") is None:
            raise MissingExtra("curves in Weights & Biases need wandb; pip install wandb")
        self.folder = folder
        self._runs: dict[str, Any] = {}

    def __call__(self, name: str, step: Step) -> None:
        """Write a validated step; others pass by."""
        if step.valid is None:
            return
        if name not in self._runs:
            wandb = import_module("wandb")
            self.folder.mkdir(parents=True, exist_ok=True)
            self._runs[name] = wandb.init(
                project="otoscope",
                name=name,
                id=fingerprint(str(self.folder.resolve()), name),
                dir=str(self.folder),
                mode=os.environ.get("WANDB_MODE", "offline"),
                resume="allow",
                reinit="create_new",
                settings=wandb.Settings(silent=True),  # a grid of hundreds would bury its own progress
            )
        self._runs[name].log(scalars(step), step=step.step)
        if step.step == step.steps:
            self._runs.pop(name).finish()

    def close(self) -> None:
        """End the runs that are still open."""
        for run in self._runs.values():
            run.finish()
        self._runs.clear()


def open_log(folder: Path) -> Logs:
    """Return a log in `folder` to whatever is installed: to both, one or nothing."""
    known = {"tensorboard": TensorBoardLog, "wandb": WandbLog}
    return Logs(*(make(folder / name) for name, make in known.items() if find_spec(name) is not None))


def scalars(step: Step) -> dict[str, float]:
    """Return the numbers of a step by the name of their curve."""
    train = {f"train/{key}": value for key, value in step.losses._asdict().items()}
    valid = {f"valid/{key}": value for key, value in step.valid._asdict().items()} if step.valid else {}
    return {**train, "train/learning_rate": step.learning_rate, **valid}
