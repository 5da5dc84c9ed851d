"""Training curves in TensorBoard, if it is installed."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from otoscope.errors import MissingExtra
from otoscope.sae.train import TrainStep


@runtime_checkable
class MetricLogger(Protocol):
    """Receiver of training steps."""

    def __call__(self, name: str, step: TrainStep) -> None:
        """Log a step of the SAE `name`."""
        ...

    def close(self) -> None:
        """Flush and close."""
        ...


class TensorBoardLogger:
    """Logger of every validated step, one TensorBoard run per SAE.

    A resumed training continues the same curves: points of a killed run beyond the resumed step are hidden
    (`purge_step`).
    """

    def __init__(self, folder: Path) -> None:
        if find_spec("tensorboard") is None:
            raise MissingExtra('training curves need TensorBoard; pip install "otoscope[log]"')
        self.folder = folder
        self._writers: dict[str, Any] = {}

    def __call__(self, name: str, step: TrainStep) -> None:
        """Log a validated step; ignore others."""
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
        """Flush and close."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()


class NoLogger:
    """Logger that discards everything."""

    def __call__(self, name: str, step: TrainStep) -> None:
        """Discard a step."""

    def close(self) -> None:
        """Do nothing."""


def open_logger(folder: Path) -> MetricLogger:
    """Return a logger that writes into `folder` with TensorBoard, or one that discards everything without it."""
    return TensorBoardLogger(folder / "tensorboard") if find_spec("tensorboard") is not None else NoLogger()


def scalars(step: TrainStep) -> dict[str, float]:
    """Return the numbers of a step by the name of their curve."""
    train = {f"train/{key}": value for key, value in step.losses._asdict().items()}
    valid = {f"valid/{key}": value for key, value in step.valid._asdict().items()} if step.valid else {}
    return {**train, "train/learning_rate": step.learning_rate, **valid}
