"""Progress on a terminal, plain lines elsewhere; always on standard error."""

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

EARLIEST = 0.02
"""Share of a task that must be done before its pace is told."""

FORESEEN_MOVES, FORESEEN_S = 3, 3.0
"""Times that a task must have moved, and seconds, before its end is guessed at: its first item is its slowest."""

LINE_EVERY_S = 15.0
"""Where no terminal redraws a bar, a line this often says how far a long task is."""


class RateColumn(ProgressColumn):
    """Units done of all, and units a second."""

    def render(self, task: Task) -> Text:
        """Draw the column."""
        unit = str(task.fields.get("unit", ""))
        total = f"/{task.total:,.0f}" if task.total else ""
        rate = ""
        if task.speed:
            rate = f"  {task.speed:,.1f} {unit}/s" if task.speed >= 1 else f"  {1 / task.speed:,.1f} s each"
        return Text(f"{task.completed:,.0f}{total}{rate}")


class LeftColumn(TimeRemainingColumn):
    """Time left, once enough is done to guess it."""

    def render(self, task: Task) -> Text:
        """Draw the column."""
        foreseen = is_foreseen(int(task.fields.get("moves", 0)), task.elapsed or 0.0)
        return super().render(task) if foreseen else Text("")


def is_foreseen(moves: int, elapsed_s: float) -> bool:
    """Say whether enough of a task is done to guess how long the rest takes.

    >>> is_foreseen(1, 100.0), is_foreseen(3, 0.2), is_foreseen(3, 10.0)
    (False, False, True)
    """
    return moves >= FORESEEN_MOVES and elapsed_s >= FORESEEN_S


class TerminalProgress:
    """A `Watch` that draws bars with rate and time left."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.console = Console(stderr=True, quiet=quiet, highlight=False)
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._line = _Line()

    def start(self, title: str, total: float, unit: str) -> None:
        """Begin a task."""
        self._line = _Line(title, total, unit, started_s=time.monotonic(), said_s=time.monotonic())
        if not self.console.is_terminal:
            return
        self._progress = Progress(
            TextColumn("{task.description:<28}", table_column=Column(no_wrap=True)),
            BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=8)),
            RateColumn(table_column=Column(no_wrap=True)),
            LeftColumn(compact=True, table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[note]}", table_column=Column(no_wrap=True, overflow="ellipsis")),
            console=self.console,
            transient=True,
            expand=True,
        )
        self._progress.start()
        self._task = self._progress.add_task(title, total=total, unit=unit, note="", moves=0)

    def advance(self, amount: float, note: str = "") -> None:
        """Move the task on."""
        self._line.move(amount)
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, advance=amount, note=note, moves=self._line.moves)
        elif self._line.due():
            self.message(self._line.text(note))

    def finish(self) -> None:
        """End the task and wipe its bar."""
        if self._progress is not None:
            self._progress.stop()
        self._progress, self._task = None, None

    def message(self, text: str) -> None:
        """Print one line above the bar."""
        self.console.print(text, markup=False, soft_wrap=True)
        sys.stderr.flush()


class _Line:
    """How far a task is, for consoles that cannot redraw."""

    def __init__(
        self, title: str = "", total: float = 0.0, unit: str = "", *, started_s: float = 0.0, said_s: float = 0.0
    ) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.started_s, self.said_s, self.done, self.moves = started_s, said_s, 0.0, 0

    def move(self, amount: float) -> None:
        self.done += amount
        self.moves += amount > 0

    def due(self) -> bool:
        now_s = time.monotonic()
        if now_s - self.said_s < LINE_EVERY_S:
            return False
        self.said_s = now_s
        return True

    def text(self, note: str) -> str:
        if self.done < EARLIEST * self.total:
            return f"  {self.title}: begun  {note}".rstrip()
        elapsed_s = time.monotonic() - self.started_s
        rate = self.done / max(elapsed_s, 1e-9)
        foreseen = rate and is_foreseen(self.moves, elapsed_s)
        left = f", {max(self.total - self.done, 0.0) / rate:,.0f} s left" if foreseen else ""
        pace = f"{rate:,.1f} {self.unit}/s" if rate >= 1 or not rate else f"{1 / rate:,.1f} s each"
        done = f"  {self.title}: {self.done:,.1f}".removesuffix(".0") + f" of {self.total:,.0f} {self.unit}"
        return f"{done}, {pace}{left}  {note}".rstrip()
