"""Curves of a training, for whoever wants to watch them: TensorBoard where it is installed."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

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


class NoLog:
    """Keeps nothing."""

    def __call__(self, name: str, step: Step) -> None:
        """Forget the step."""

    def close(self) -> None:
        """Do nothing."""


class TensorBoardLog:
    """Writes the numbers of every validated step, one TensorBoard run a dictionary.

    A resumed training goes on in the same curves: what a killed one had written beyond the step it
    is resumed from is hidden (`purge_step`).
    """

    def __init__(self, folder: Path) -> None:
        if find_spec("tensorboard") is None:
            raise MissingExtra("curves need TensorBoard: pip install 'otoscope[log]'")
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


def open_log(folder: Path) -> Log:
    """Return a log in `folder` where TensorBoard is installed, else one that keeps nothing."""
    return NoLog() if find_spec("tensorboard") is None else TensorBoardLog(folder)


def scalars(step: Step) -> dict[str, float]:
    """Return the numbers of a step by the name of their curve."""
    train = {f"train/{key}": value for key, value in step.losses._asdict().items()}
    valid = {f"valid/{key}": value for key, value in step.valid._asdict().items()} if step.valid else {}
    return {**train, "train/learning_rate": step.learning_rate, **valid}
