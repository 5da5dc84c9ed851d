"""Frames of a layer as rows for training, gathered from memory-mapped shards and widened to float32."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int64

from otoscope.activations.tensorfile import MappedTensor, gather_rows
from otoscope.errors import ArtifactError


@dataclass(frozen=True, eq=False)
class StoredRows:
    """Frames of some clips of one layer as rows, numbered clip after clip and read on request.

    `shard`, `first` and `frames` [clips] locate each clip's frames; `tensor` maps a shard's frames.
    """

    width: int
    dtype: str
    clip_ids: list[str]
    shard: Int64[np.ndarray, " clips"]
    first: Int64[np.ndarray, " clips"]
    frames: Int64[np.ndarray, " clips"]
    tensor: Callable[[int], MappedTensor]
    layer: int

    def __repr__(self) -> str:
        return f"StoredRows({self.height:,} rows of {len(self.clip_ids):,} clips, layer {self.layer}, {self.dtype})"

    @cached_property
    def starts(self) -> Int64[np.ndarray, " clips_and_end"]:
        """First row of each clip, then the number of rows."""
        return np.concatenate([[0], np.cumsum(self.frames)]).astype(np.int64)

    @property
    def height(self) -> int:
        """Number of rows."""
        return int(self.starts[-1])

    def clip_of(self, indices: Int64[np.ndarray, " rows"]) -> Int64[np.ndarray, " rows"]:
        """Return the position in `clip_ids` of each row's clip."""
        return np.searchsorted(self.starts, indices, side="right") - 1

    def neighbours(self, indices: Int64[np.ndarray, " rows"]) -> Int64[np.ndarray, " rows"]:
        """Return each row's successor in its clip, the predecessor of the last row; -1 in a clip of one frame."""
        clip = self.clip_of(indices)
        last = indices + 1 == self.starts[clip + 1]
        return np.where(self.frames[clip] == 1, -1, np.where(last, indices - 1, indices + 1))

    def describe(self, index: int) -> str:
        """Return frame, clip and layer of a row, for messages."""
        clip = int(self.clip_of(np.array([index]))[0])
        return f'frame {index - self.starts[clip]} of clip "{self.clip_ids[clip]}" at layer {self.layer}'

    def take(self, indices: Int64[np.ndarray, " rows"]) -> Float[np.ndarray, "rows width"]:
        """Return rows as float32, in the given order; raise `ArtifactError` for an index out of range."""
        indices = np.ascontiguousarray(indices, dtype=np.int64)
        if indices.size and not (indices.min() >= 0 and indices.max() < self.height):
            raise ArtifactError(
                f"row indices {indices.min()} to {indices.max()} are out of range; allowed: 0 to {self.height - 1}"
            )
        clip = self.clip_of(indices)
        offsets = self.first[clip] + indices - self.starts[clip]
        return gather_rows(
            self.tensor, self.shard[clip], offsets, width=self.width, where=f"the frames of layer {self.layer}"
        )
