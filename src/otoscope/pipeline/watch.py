"""What a stage tells whoever watches it."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable


@runtime_checkable
class Watch(Protocol):
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

    def say(self, text: str) -> None:
        """Print one line."""
        ...


class Silent:
    """A watch that does nothing."""

    def start(self, title: str, total: float, unit: str) -> None:
        """Ignore the task."""

    def advance(self, amount: float, note: str = "") -> None:
        """Ignore the step."""

    def finish(self) -> None:
        """Ignore the end."""

    def say(self, text: str) -> None:
        """Ignore the line."""


@contextmanager
def task(watch: Watch, title: str, total: float, unit: str) -> Generator[None]:
    """Start a task and finish it whatever happens."""
    watch.start(title, total, unit)
    try:
        yield
    finally:
        watch.finish()
