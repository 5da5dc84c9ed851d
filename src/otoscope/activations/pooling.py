"""Means over segments, taken while a clip's frames come by."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from otoscope.activations.segments import Segments, Span
from otoscope.encoders.base import Frames

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
