"""Progress on standard error: bars on a terminal, plain lines elsewhere."""

import sys
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from otoscope.formatting import printable
from otoscope.runs.progress import ProgressReporter, SilentReporter


def plain_console(**settings: Any) -> Console:
    """Return a console that prints text as it is: words of the user are neither markup nor emoji."""
    return Console(highlight=False, markup=False, emoji=False, **settings)


MIN_SHARE = 0.02
"""Share of a task that must be done before its rate is shown."""

MIN_STEPS, MIN_ELAPSED_S = 3, 3.0
"""Steps and seconds before the remaining time is shown: the first item is the slowest."""

LINE_EVERY_S = 15.0
"""Interval between progress lines without a terminal."""


class RateColumn(ProgressColumn):
    """Column with done and total units, and units per second."""

    def render(self, task: Task) -> Text:
        """Render the column."""
        unit = str(task.fields.get("unit", ""))
        total = f"/{task.total:,.0f}" if task.total else ""
        rate = ""
        if task.speed:
            rate = f"  {task.speed:,.1f} {unit}/s" if task.speed >= 1 else f"  {1 / task.speed:,.1f} s each"
        return Text(f"{int(task.completed + 1e-6):,}{total}{rate}")


class RemainingColumn(TimeRemainingColumn):
    """Column with the remaining time, once it can be estimated."""

    def render(self, task: Task) -> Text:
        """Render the column."""
        steps = int(task.fields.get("steps", 0))
        return super().render(task) if can_estimate(steps, task.elapsed or 0.0) else Text("")


def can_estimate(steps: int, elapsed_s: float) -> bool:
    """Return whether enough of a task is done to estimate the remaining time.

    >>> can_estimate(1, 100.0), can_estimate(3, 0.2), can_estimate(3, 10.0)
    (False, False, True)
    """
    return steps >= MIN_STEPS and elapsed_s >= MIN_ELAPSED_S


class TerminalProgress:
    """Reporter that draws bars with rate and remaining time."""

    def __init__(self) -> None:
        self.console = plain_console(stderr=True)
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._line = ProgressLine()

    def start(self, title: str, total: float, unit: str) -> None:
        """Begin a task."""
        self._line = ProgressLine(title, total, unit, started_s=time.monotonic(), printed_s=time.monotonic())
        if not self.console.is_terminal:
            return
        self._progress = Progress(
            TextColumn("{task.description:<28}", markup=False, table_column=Column(no_wrap=True)),
            BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=8)),
            RateColumn(table_column=Column(no_wrap=True)),
            RemainingColumn(compact=True, table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[note]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
            console=self.console,
            transient=True,
            expand=True,
        )
        self._progress.start()
        self._task = self._progress.add_task(title, total=total, unit=unit, note="", steps=0)

    def advance(self, amount: float, note: str = "") -> None:
        """Move the task on."""
        self._line.advance(amount)
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, advance=amount, note=printable(note), steps=self._line.steps)
        elif self._line.is_due():
            self.message(self._line.text(note))

    def finish(self) -> None:
        """End the task and remove its bar."""
        if self._progress is not None:
            self._progress.stop()
        self._progress, self._task = None, None

    def message(self, text: str) -> None:
        """Print one line above the bar."""
        self.console.print(printable(text), soft_wrap=True)
        sys.stderr.flush()


def default_progress() -> ProgressReporter:
    """Return the reporter of a call from Python: lines and bars in a terminal and in a notebook, else nothing."""
    progress = TerminalProgress()
    return progress if progress.console.is_terminal or progress.console.is_jupyter else SilentReporter()


class ProgressLine:
    """Progress of a task as text, for consoles that cannot redraw."""

    def __init__(
        self, title: str = "", total: float = 0.0, unit: str = "", *, started_s: float = 0.0, printed_s: float = 0.0
    ) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.started_s, self.printed_s, self.done, self.steps = started_s, printed_s, 0.0, 0

    def advance(self, amount: float) -> None:
        """Move the task on."""
        self.done += amount
        self.steps += amount > 0

    def is_due(self) -> bool:
        """Return whether a line should be printed now; if so, the next one waits."""
        now_s = time.monotonic()
        if now_s - self.printed_s < LINE_EVERY_S:
            return False
        self.printed_s = now_s
        return True

    def text(self, note: str) -> str:
        """Return the line: share or number done, rate, remaining time."""
        if self.done < MIN_SHARE * self.total:
            return f"  {self.title}: started  {note}".rstrip()
        elapsed_s = time.monotonic() - self.started_s
        rate = self.done / max(elapsed_s, 1e-9)
        known = rate and can_estimate(self.steps, elapsed_s)
        left = f", {max(self.total - self.done, 0.0) / rate:,.0f} s left" if known else ""
        speed = f"{rate:,.1f} {self.unit}/s" if rate >= 1 or not rate else f"{1 / rate:,.1f} s each"
        if self.total == 1:
            return f"  {self.title}: {self.done / self.total:.0%}{left}  {note}".rstrip()
        whole = int(self.done + 1e-6)
        part = "" if abs(self.done - whole) < 1e-6 else f" ({self.done / self.total:.0%})"  # a dictionary takes long
        done = f"  {self.title}: {whole:,} of {self.total:,.0f} {self.unit}{part}"
        return f"{done}, {speed}{left}  {note}".rstrip()
