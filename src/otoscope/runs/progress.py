"""Progress of stages: the interface that the command line and callers implement."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable


@runtime_checkable
class ProgressReporter(Protocol):
    """Receiver of tasks, steps and messages, such as a progress bar."""

    def start(self, title: str, total: float, unit: str) -> None:
        """Begin a task of `total` units."""
        ...

    def advance(self, amount: float, note: str = "") -> None:
        """Move the task on; `note` adds a detail to the rate."""
        ...

    def finish(self) -> None:
        """End the task."""
        ...

    def message(self, text: str) -> None:
        """Print one line."""
        ...


class SilentReporter:
    """Reporter that discards everything."""

    def start(self, title: str, total: float, unit: str) -> None:
        """Ignore the task."""

    def advance(self, amount: float, note: str = "") -> None:
        """Ignore the step."""

    def finish(self) -> None:
        """Ignore the end."""

    def message(self, text: str) -> None:
        """Ignore the line."""


@contextmanager
def task(progress: ProgressReporter, title: str, total: float, unit: str) -> Generator[None]:
    """Start a task and finish it, also after an error."""
    progress.start(title, total, unit)
    try:
        yield
    finally:
        progress.finish()


class StageCounter:
    """Callback `on_progress(done, total)`; the first call starts the task, so that no work shows no bar."""

    def __init__(self, progress: ProgressReporter, title: str, unit: str) -> None:
        self._progress, self._title, self._unit = progress, title, unit
        self.started = False
        self.done = 0

    def __call__(self, done: int, total: int) -> None:
        """Move the task on to `done`."""
        if not self.started:
            self._progress.start(self._title, total, self._unit)
            self.started = True
        self._progress.advance(done - self.done)
        self.done = done


@contextmanager
def progress_counter(progress: ProgressReporter, title: str, unit: str) -> Generator[StageCounter]:
    """Yield the counter of a task; finish the task, also after an error."""
    counter = StageCounter(progress, title, unit)
    try:
        yield counter
    finally:
        if counter.started:
            progress.finish()
