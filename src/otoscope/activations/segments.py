"""Segments of clips, and means over their frames, computed while a clip is encoded."""

import math
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
from otoscope.corpus.audio import likely_unit
from otoscope.encoders.base import Frames
from otoscope.errors import ConfigError, CorpusError, suggest
from otoscope.hardware import column_sums
from otoscope.paths import user_path
from otoscope.tables import read_text_table

COLUMNS = ("clip_id", "start_s", "end_s")


class SegmentSpan(NamedTuple):
    """One segment of a clip, from `start_s` up to `end_s`; `number` counts the clip's segments from 0."""

    number: int
    start_s: float
    end_s: float


class SegmentFrames(NamedTuple):
    """A segment and the indices of the frames whose centres are in it."""

    span: SegmentSpan
    frames: Int64[np.ndarray, " frames"]


@dataclass(frozen=True, eq=False)
class Segments:
    """Division of clips into windows of `every_s` seconds, or by a `table` (`clip_id, start_s, end_s`).

    A frame belongs to every segment that contains its centre. Segments of a table may overlap and leave gaps; a clip
    without table rows has no segments. `notes` states what was unusual about the file of the table.

    >>> Segments(every_s=0.5).settings()
    {'every_s': 0.5}
    """

    every_s: float | None = None
    table: pl.DataFrame | None = None
    notes: tuple[str, ...] = ()
    _spans: Mapping[str, list[SegmentSpan]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if (self.every_s is None) == (self.table is None):
            raise ConfigError("segments need either every_s or a table; give exactly one of the two")
        if self.every_s is not None and not 0 < self.every_s < math.inf:
            raise ConfigError(f"every_s is {self.every_s:g}; it must be above 0 and finite")
        object.__setattr__(self, "_spans", {} if self.table is None else _spans_of(self.table))

    @classmethod
    def read(cls, path: Path) -> "Segments":
        """Read a table from CSV or Parquet; raise `ConfigError` if it is unreadable or lacks a column."""
        try:
            table = read_text_table(user_path(path))
            times = {name: table.numbers(name) for name in COLUMNS[1:] if name in table.cells.columns}
        except CorpusError as error:
            raise ConfigError(f"the table of segments {error}") from error
        unused = [name for name in table.cells.columns if name not in COLUMNS]
        note = f"{path.name}: columns without use for segments: {', '.join(unused[:8])}"
        notes = (*table.notes, note) if unused else table.notes
        return cls(table=table.cells.with_columns(**times), notes=notes)

    def settings(self) -> dict[str, Any]:
        """Return the settings shared by all clips; table rows are part of each clip's key instead."""
        return {"every_s": self.every_s} if self.table is None else {"table": True}

    def key(self, clip_id: str) -> str | None:
        """Identify the segments of one clip; None if they follow from the settings."""
        return None if self.table is None else fingerprint(self._spans.get(clip_id, []))

    def check(self, clips: pl.DataFrame) -> None:
        """Raise `ConfigError` if the table has a clip that the corpus lacks, or times that are far from its sound."""
        known = {clip_id: rest for clip_id, *rest in clips.select("clip_id", "duration_s", "rate_hz").iter_rows()}
        if unknown := sorted(self._spans.keys() - known.keys()):
            nearest = suggest(unknown[0], known)
            raise ConfigError(f"the table of segments has a clip that the corpus lacks: {nearest}"[:400])
        for clip_id, spans in self._spans.items():
            length_s, rate_hz = known[clip_id]
            for _, start_s, end_s in spans:
                if start_s >= length_s or end_s > 5 * length_s:
                    unit = likely_unit(end_s, length_s, rate_hz=rate_hz)
                    raise ConfigError(
                        f"a segment of {clip_id} goes from {start_s:g} s to {end_s:g} s, and the clip lasts"
                        f" {length_s:g} s; " + (f"are the times in {unit}?" if unit else "give seconds in the clip")
                    )

    def assign_frames(self, clip_id: str, centre_s: Float[np.ndarray, " frames"]) -> Iterator[SegmentFrames]:
        """Yield the segments of a clip that contain any of its frames, in order of their ends."""
        if self.every_s is not None:
            # a centre on a boundary belongs to the later window, independent of rounding
            number = np.floor(centre_s / self.every_s + 1e-9).astype(np.int64)
            for n in np.unique(number).tolist():
                yield SegmentFrames(
                    SegmentSpan(n, n * self.every_s, (n + 1) * self.every_s), np.flatnonzero(number == n)
                )
            return
        for span in self._spans.get(clip_id, []):
            inside = np.flatnonzero((centre_s >= span.start_s) & (centre_s < span.end_s))
            if len(inside):
                yield SegmentFrames(span, inside)


def _spans_of(table: pl.DataFrame) -> dict[str, list[SegmentSpan]]:
    if missing := [name for name in COLUMNS if name not in table.columns]:
        raise ConfigError(f"the table of segments lacks the columns {missing}; it has {table.columns}")
    chosen = table.select(pl.col("clip_id").cast(pl.String), pl.col("start_s", "end_s").cast(pl.Float64))
    bad = chosen.filter(~((pl.col("start_s") >= 0) & (pl.col("end_s") > pl.col("start_s"))).fill_null(value=False))
    if not bad.is_empty():
        clip_id, start_s, end_s = bad.row(0)
        raise ConfigError(
            f"a segment of {clip_id} goes from {start_s} s to {end_s} s; it must begin at 0 or later and end after"
        )
    spans: dict[str, list[SegmentSpan]] = {}
    for clip_id, start_s, end_s in chosen.sort("clip_id", "end_s", "start_s").iter_rows():
        clip_spans = spans.setdefault(clip_id, [])
        clip_spans.append(SegmentSpan(len(clip_spans), start_s, end_s))
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
class _OpenSegment:
    """A segment being pooled: number of frames so far, and their sum per layer."""

    span: SegmentSpan
    frames: int = 0
    sums: dict[int, Any] = field(default_factory=dict[int, Any])


class SegmentPooler:
    """Pools segments clip after clip; a segment's row is returned once no later frame can be in it."""

    def __init__(self, segments: Segments) -> None:
        self._segments = segments
        self._open: dict[int, _OpenSegment] = {}
        self._table: list[tuple[Any, ...]] = []
        self._finished = 0

    @property
    def rows(self) -> int:
        """Number of rows of finished clips."""
        return self._finished

    def add(
        self, clip_id: str, frames: Frames, layers: Mapping[int, Float[Tensor, "frames width"]]
    ) -> dict[int, Float[Tensor, "segments width"]]:
        """Add the frames of a clip's next window; return the rows of the segments that end in it."""
        if not len(frames.end_s):
            return {}
        centre_s = 0.5 * (frames.start_s + frames.end_s)
        for span, chosen in self._segments.assign_frames(clip_id, centre_s):
            segment = self._open.setdefault(span.number, _OpenSegment(span))
            segment.frames += len(chosen)
            index = torch.from_numpy(chosen)
            for layer, states in layers.items():
                total = column_sums(states[index.to(states.device)])
                segment.sums[layer] = segment.sums.get(layer, 0.0) + total
        latest_s = float(centre_s.max())
        return self._close(clip_id, [n for n, part in self._open.items() if part.span.end_s <= latest_s])

    def finish(self, clip_id: str, *, sound_s: float) -> dict[int, Float[Tensor, "segments width"]]:
        """Finish a clip; return the rows of its last segments, which end no later than the sound."""
        rows = self._close(clip_id, list(self._open), end_s=sound_s)
        self._finished = len(self._table)
        return rows

    def drop(self) -> int:
        """Discard the current clip; return the number of remaining rows."""
        self._open.clear()
        del self._table[self._finished :]
        return self._finished

    def table(self, shard: int) -> pl.DataFrame:
        """Return one row per segment, in the order of the returned rows."""
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
