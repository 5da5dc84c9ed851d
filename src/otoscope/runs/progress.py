"""What a stage tells whoever watches it."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable


@runtime_checkable
class ProgressReporter(Protocol):
    """Draws bars, prints lines, or does nothing."""

    def start(self, title: str, total: float, unit: str) -> None:
        """Begin a task of `total` units."""
        ...

    def advance(self, amount: float, note: str = "") -> None:
        """Move the task on; `note` says what the rate alone does not."""
        ...

    def finish(self) -> None:
        """End the task."""
        ...

    def message(self, text: str) -> None:
        """Print one line."""
        ...


class SilentReporter:
    """A watch that does nothing."""

    def start(self, title: str, total: float, unit: str) -> None:
        """Ignore the task."""

    def advance(self, amount: float, note: str = "") -> None:
        """Ignore the step."""

    def finish(self) -> None:
        """Ignore the end."""

    def message(self, text: str) -> None:
        """Ignore the line."""


@contextmanager
def task(watch: ProgressReporter, title: str, total: float, unit: str) -> Generator[None]:
    """Start a task and finish it whatever happens."""
    watch.start(title, total, unit)
    try:
        yield
    finally:
        watch.finish()


class ProgressCounter:
    """An `on_progress(done, total)` whose first call starts the task: where nothing is due, nothing is shown."""

    def __init__(self, watch: ProgressReporter, title: str, unit: str) -> None:
        self._watch, self._title, self._unit = watch, title, unit
        self.started = False
        self.done = 0

    def __call__(self, done: int, total: int) -> None:
        """Move the task on to `done`."""
        if not self.started:
            self._watch.start(self._title, total, self._unit)
            self.started = True
        self._watch.advance(done - self.done)
        self.done = done


@contextmanager
def progress_counter(watch: ProgressReporter, title: str, unit: str) -> Generator[ProgressCounter]:
    """Give the counter of a task, and finish the task whatever happens."""
    counted = ProgressCounter(watch, title, unit)
    try:
        yield counted
    finally:
        if counted.started:
            watch.finish()
