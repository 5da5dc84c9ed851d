"""Stretches of a clip that are pooled on their own: windows of one length, or those of a table.

Means over segments, taken while a clip's frames come by.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from otoscope.artifacts import fingerprint
from otoscope.encoders.base import Frames
from otoscope.errors import ConfigError, suggest

COLUMNS = ("clip_id", "start_s", "end_s")


class Span(NamedTuple):
    """One segment of a clip, from `start_s` up to `end_s`; `number` counts the clip's segments from 0."""

    number: int
    start_s: float
    end_s: float


class Member(NamedTuple):
    """A segment and those of the frames at hand whose centres lie in it."""

    span: Span
    frames: Int64[np.ndarray, " frames"]


@dataclass(frozen=True, eq=False)
class Segments:
    """How clips are divided: into windows of `every_s` seconds, or as `table` says (`clip_id, start_s, end_s`).

    A frame belongs to every segment in which its centre lies. Segments of a table may overlap and leave gaps; a clip
    that the table does not name has none.

    >>> Segments(every_s=0.5).card()
    {'every_s': 0.5}
    """

    every_s: float | None = None
    table: pl.DataFrame | None = None
    _spans: Mapping[str, list[Span]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if (self.every_s is None) == (self.table is None):
            raise ConfigError("segments are windows of one length or those of a table; give one of the two")
        if self.every_s is not None and not self.every_s > 0:
            raise ConfigError(f"segments last {self.every_s:g} s; they must last more than 0")
        object.__setattr__(self, "_spans", {} if self.table is None else _spans_of(self.table))

    @classmethod
    def read(cls, path: Path) -> "Segments":
        """Read a table from CSV or Parquet; raise `ConfigError` when it cannot be read or lacks a column."""
        try:
            table = pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_csv(path)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise ConfigError(
                f"the table of segments {path} cannot be read ({' '.join(str(error).split())})"
            ) from error
        return cls(table=table)

    def card(self) -> dict[str, Any]:
        """Return what all clips have in common; which segments a clip has belongs to the clip."""
        return {"every_s": self.every_s} if self.table is None else {"table": True}

    def key(self, clip_id: str) -> str | None:
        """Identify the segments of one clip; None where they follow from the card."""
        return None if self.table is None else fingerprint(self._spans.get(clip_id, []))

    def check(self, clip_ids: set[str]) -> None:
        """Raise `ConfigError` when the table names a clip that the corpus does not have."""
        if unknown := sorted(self._spans.keys() - clip_ids):
            raise ConfigError(
                f"the table of segments names no clip of the corpus: {suggest(unknown[0], clip_ids)}"[:400]
            )

    def members(self, clip_id: str, centre_s: Float[np.ndarray, " frames"]) -> Iterator[Member]:
        """Yield the segments of a clip that some of its frames lie in, in order of their ends."""
        if self.every_s is not None:
            # a centre on a boundary belongs to the later window, whatever the rounding of the product
            number = np.floor(centre_s / self.every_s + 1e-9).astype(np.int64)
            for n in np.unique(number).tolist():
                yield Member(Span(n, n * self.every_s, (n + 1) * self.every_s), np.flatnonzero(number == n))
            return
        for span in self._spans.get(clip_id, []):
            found = np.flatnonzero((centre_s >= span.start_s) & (centre_s < span.end_s))
            if len(found):
                yield Member(span, found)


def _spans_of(table: pl.DataFrame) -> dict[str, list[Span]]:
    if missing := [name for name in COLUMNS if name not in table.columns]:
        raise ConfigError(f"the table of segments lacks the columns {missing}; it has {table.columns}")
    chosen = table.select(pl.col("clip_id").cast(pl.String), pl.col("start_s", "end_s").cast(pl.Float64))
    bad = chosen.filter(~((pl.col("start_s") >= 0) & (pl.col("end_s") > pl.col("start_s"))).fill_null(value=False))
    if not bad.is_empty():
        clip_id, start_s, end_s = bad.row(0)
        raise ConfigError(
            f"a segment of {clip_id} goes from {start_s} s to {end_s} s; it must begin at 0 or later and end after"
        )
    spans: dict[str, list[Span]] = {}
    for clip_id, start_s, end_s in chosen.sort("clip_id", "end_s", "start_s").iter_rows():
        of_clip = spans.setdefault(clip_id, [])
        of_clip.append(Span(len(of_clip), start_s, end_s))
    return spans


SCHEMA: dict[str, Any] = {
    "clip_id": pl.String,
    "segment": pl.Int32,
    "start_s": pl.Float64,
    "end_s": pl.Float64,
    "frames": pl.Int64,
    "shard": pl.Int32,
    "offset": pl.Int64,
}


@dataclass
class _Open:
    """A segment under way: the sum over its frames so far, a layer each."""

    span: Span
    frames: int = 0
    sums: dict[int, Any] = field(default_factory=dict[int, Any])


class SegmentPool:
    """Pools the segments of a clip after those of another; a row is due once no later frame can lie in its segment."""

    def __init__(self, segments: Segments) -> None:
        self._segments = segments
        self._open: dict[int, _Open] = {}
        self._table: list[tuple[Any, ...]] = []
        self._whole = 0

    @property
    def rows(self) -> int:
        """Number of rows given out for clips that are whole."""
        return self._whole

    def add(
        self, clip_id: str, frames: Frames, layers: Mapping[int, Float[Tensor, "frames width"]]
    ) -> dict[int, Float[Tensor, "segments width"]]:
        """Take the frames of a clip's next piece; return the rows of the segments that ended with it."""
        if not len(frames.end_s):
            return {}
        centre_s = 0.5 * (frames.start_s + frames.end_s)
        for span, chosen in self._segments.members(clip_id, centre_s):
            under_way = self._open.setdefault(span.number, _Open(span))
            under_way.frames += len(chosen)
            index = torch.from_numpy(chosen)
            for layer, states in layers.items():
                total = states[index.to(states.device)].double().sum(0)
                under_way.sums[layer] = under_way.sums.get(layer, 0.0) + total
        latest_s = float(centre_s.max())
        return self._close(clip_id, [n for n, part in self._open.items() if part.span.end_s <= latest_s])

    def finish(self, clip_id: str, *, sound_s: float) -> dict[int, Float[Tensor, "segments width"]]:
        """End a clip; return the rows of its last segments, which end with the sound at the latest."""
        rows = self._close(clip_id, list(self._open), end_s=sound_s)
        self._whole = len(self._table)
        return rows

    def drop(self) -> int:
        """Forget the clip under way; return how many rows are left."""
        self._open.clear()
        del self._table[self._whole :]
        return self._whole

    def table(self, shard: int) -> pl.DataFrame:
        """Return a row a segment, in the order of the rows given out."""
        rows = [(*row, shard, offset) for offset, row in enumerate(self._table)]
        return pl.DataFrame(rows, schema=SCHEMA, orient="row")

    def _close(
        self, clip_id: str, numbers: list[int], *, end_s: float = float("inf")
    ) -> dict[int, Float[Tensor, "segments width"]]:
        closed = [self._open.pop(n) for n in sorted(numbers)]
        self._table += [
            (clip_id, part.span.number, part.span.start_s, min(part.span.end_s, end_s), part.frames) for part in closed
        ]
        layers = closed[0].sums if closed else {}
        return {layer: torch.stack([part.sums[layer] / part.frames for part in closed]).float() for layer in layers}
