"""Progress of an extraction: counts, speed, and time per phase."""

import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Literal, NamedTuple, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from otoscope.errors import CorpusError


class ExtractionProgress(NamedTuple):
    """State of an extraction after one step.

    `clips_new` is the increase of `clips` in this step; `skipped_*` counts what an earlier run had stored.
    `encode_s`, `wait_s` and `write_s` are the parts of `elapsed_s` spent in the encoder, waiting for decoded sound,
    and writing.
    """

    clips: int
    clips_new: int
    clips_total: int
    sound_s: float
    sound_total_s: float
    shard: int
    shards: int
    set_aside: int
    skipped_clips: int
    skipped_s: float
    elapsed_s: float
    encode_s: float
    wait_s: float
    write_s: float

    @property
    def times_real_time(self) -> float:
        """Seconds of sound per second in this run."""
        return (self.sound_s - self.skipped_s) / self.elapsed_s if self.elapsed_s else 0.0

    @property
    def utilisation(self) -> float:
        """Fraction of this run's time spent in the encoder."""
        return self.encode_s / self.elapsed_s if self.elapsed_s else 0.0

    def time_summary(self) -> str:
        """Return one line on how this run spent its time."""
        waited, wrote = (part_s / self.elapsed_s if self.elapsed_s else 0.0 for part_s in (self.wait_s, self.write_s))
        return (
            f"{self.times_real_time:.1f} times real time; time in the encoder {self.utilisation:.0%}, "
            f"waiting for sound {waited:.0%}, writing {wrote:.0%}"
        )


MAX_NAMED = 20
"""Clips set aside that are named when they stop an extraction."""

Phase = Literal["encode", "wait", "write"]
Item = TypeVar("Item")


class EndOfItems:
    """Type of the sentinel `END`."""


END = EndOfItems()
"""Marks an exhausted iterator."""


@dataclass
class ProgressCounter:
    """Running counts of an extraction."""

    clips_total: int
    sound_total_s: float
    shards: int
    max_set_aside: float
    clips: int = 0
    sound_s: float = 0.0
    set_aside: int = 0
    reasons: dict[str, None] = field(default_factory=dict[str, None])
    """Clips set aside in this run with their reasons, each once."""
    skipped_clips: int = 0
    skipped_s: float = 0.0
    spent_s: dict[Phase, float] = field(default_factory=lambda: {"encode": 0.0, "wait": 0.0, "write": 0.0})
    started_s: float = field(default_factory=time.perf_counter)

    def skip(self, clips: int, sound_s: float, set_aside: int) -> None:
        """Count clips that are stored already."""
        self.skipped_clips += clips
        self.skipped_s += sound_s
        self.add(clips, sound_s, set_aside)

    def add(self, clips: int, sound_s: float, set_aside: int) -> None:
        """Count processed clips, usable or not."""
        self.clips += clips
        self.sound_s += sound_s
        self.set_aside += set_aside

    @contextmanager
    def timed(self, phase: Phase) -> Generator[None]:
        """Add the time of a block to a phase."""
        start_s = time.perf_counter()
        try:
            yield
        finally:
            self.spent_s[phase] += time.perf_counter() - start_s

    def timed_items(self, items: Iterable[Item], phase: Phase) -> Generator[Item]:
        """Yield items; add the time that each takes to arrive to a phase."""
        iterator = iter(items)
        while True:
            with self.timed(phase):
                item = next(iterator, END)
            if isinstance(item, EndOfItems):
                return
            yield item

    def check(self) -> None:
        """Raise `CorpusError` with the clips of this run if more than allowed are set aside."""
        if self.set_aside > self.max_set_aside * self.clips_total:
            named = "; ".join(list(self.reasons)[:MAX_NAMED])
            more = f"; and {len(self.reasons) - MAX_NAMED} more" if len(self.reasons) > MAX_NAMED else ""
            raise CorpusError(
                f"{self.set_aside} of the first {self.clips} of {self.clips_total} clips cannot be used, more than "
                f"max_set_aside={self.max_set_aside:g} allows: {named}{more}. Repair, remove or exclude them, or raise "
                "max_set_aside"
            )

    def progress(self, *, shard: int, clips_new: int) -> ExtractionProgress:
        """Return the current state."""
        return ExtractionProgress(
            clips=self.clips,
            clips_new=clips_new,
            clips_total=self.clips_total,
            sound_s=self.sound_s,
            sound_total_s=self.sound_total_s,
            shard=shard,
            shards=self.shards,
            set_aside=self.set_aside,
            skipped_clips=self.skipped_clips,
            skipped_s=self.skipped_s,
            elapsed_s=time.perf_counter() - self.started_s,
            encode_s=self.spent_s["encode"],
            wait_s=self.spent_s["wait"],
            write_s=self.spent_s["write"],
        )


@contextmanager
def progress_bar(
    title: str, clips: int, *, show: bool | None = None
) -> Generator[Callable[[ExtractionProgress], None]]:
    """Draw a progress bar on standard error; yield the function that advances it.

    `show=None` draws in a terminal, and in a notebook where ipywidgets is installed.
    """
    console = Console(stderr=True, markup=False, emoji=False)
    if show is None:
        show = console.is_terminal or (console.is_jupyter and find_spec("ipywidgets") is not None)
    title_column, speed = (TextColumn(f"{{task.{name}}}", markup=False) for name in ("description", "fields[speed]"))
    columns = (title_column, BarColumn(), MofNCompleteColumn(), speed)
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not show) as bars:
        task = bars.add_task(title, total=clips, speed="")

        def advance(step: ExtractionProgress) -> None:
            bars.update(task, completed=step.clips, speed=f"{step.times_real_time:.1f} x real time")

        yield advance
