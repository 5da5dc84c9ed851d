"""Gathering rows from memory-mapped shards."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from jaxtyping import Float, Int64

from otoscope.activations.gather import gather, scale
from otoscope.activations.tensorfile import Mapped
from otoscope.errors import ArtifactError


@dataclass(frozen=True, eq=False)
class StoredRows:
    """The frames of some clips of one layer as rows, numbered clip after clip, read when asked for.

    `shard`, `first` and `frames` [clips] say where each clip's frames lie; `tensor` maps a shard's frames.
    """

    width: int
    dtype: str
    clip_ids: list[str]
    shard: Int64[np.ndarray, " clips"]
    first: Int64[np.ndarray, " clips"]
    frames: Int64[np.ndarray, " clips"]
    tensor: Callable[[int], Mapped]
    layer: int

    @cached_property
    def starts(self) -> Int64[np.ndarray, " clips_and_end"]:
        """The first row of each clip, then the number of rows."""
        return np.concatenate([[0], np.cumsum(self.frames)]).astype(np.int64)

    @property
    def height(self) -> int:
        """Number of rows."""
        return int(self.starts[-1])

    def clip_of(self, indices: Int64[np.ndarray, " rows"]) -> Int64[np.ndarray, " rows"]:
        """Return the position in `clip_ids` of the clip that each row belongs to."""
        return np.searchsorted(self.starts, indices, side="right") - 1

    def neighbour(self, indices: Int64[np.ndarray, " rows"]) -> Int64[np.ndarray, " rows"]:
        """Return the row that follows each in its clip, the one before it for the last; -1 for a clip of one frame."""
        clip = self.clip_of(indices)
        last = indices + 1 == self.starts[clip + 1]
        return np.where(self.frames[clip] == 1, -1, np.where(last, indices - 1, indices + 1))

    def describe(self, index: int) -> str:
        """Say which frame of which clip and layer a row is."""
        clip = int(self.clip_of(np.array([index]))[0])
        return f'frame {index - self.starts[clip]} of clip "{self.clip_ids[clip]}" at layer {self.layer}'

    def take(self, indices: Int64[np.ndarray, " rows"]) -> Float[np.ndarray, "rows width"]:
        """Return these rows as float32, in the order asked for; raise `ArtifactError` beyond the last row.

        Rows are gathered in the order in which they lie on disk, and put in place as they come.
        """
        indices = np.asarray(indices, dtype=np.int64)
        if indices.size and not (indices.min() >= 0 and indices.max() < self.height):
            raise ArtifactError(f"rows 0 to {self.height - 1} exist; asked for {indices.min()} to {indices.max()}")
        clip = self.clip_of(indices)
        # one number a row that grows with its place on disk; a row's own shard is `key >> 40`
        key = (self.shard[clip] << 40) + (indices - self.starts[clip] + self.first[clip])
        order = np.argsort(key, kind="stable")
        key = key[order]
        shard, offset = key >> 40, key & ((1 << 40) - 1)
        bounds = [0, *(np.flatnonzero(np.diff(shard)) + 1).tolist(), len(order)]
        out = np.empty((len(order), self.width), dtype=np.float32)
        for start, stop in pairwise(bounds):
            if stop > start:
                gather(self.tensor(int(shard[start])), offset[start:stop], order[start:stop], out)
        if (factor := scale(self.dtype)) != 1.0:
            out *= factor
        return out
