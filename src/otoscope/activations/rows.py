"""Gathering rows from memory-mapped shards.

Memory for batches, lent again once nobody holds it.

The system hands out memory as pages of zeros and takes it back when a batch is dropped. For batches of a few
megabytes that costs more than to gather them.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int64

from otoscope.activations.gather import find_addresses, gather_rows
from otoscope.activations.tensorfile import PRECISIONS, MappedTensor
from otoscope.errors import ArtifactError, ConfigError, DamagedArtifact

REMEMBERED = 4
"""Blocks of memory: one in use, one read ahead, and some on their way out."""

LARGEST = 1 << 26
"""Bytes of the largest block that is remembered; what is larger than a batch is not asked for twice."""


class Lending:
    """Arrays of float32 whose memory is used again when nothing that shares it is left.

    Whoever holds a view, a tensor or a buffer of an array is counted by Python: what is held is never lent twice.

    >>> lending = Lending()
    >>> lending.lend(2, 3).shape
    (2, 3)
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._blocks: list[Float32[np.ndarray, " numbers"]] = []

    def lend(self, rows: int, width: int) -> Float32[np.ndarray, "rows width"]:
        """Return an array of this shape; what is in it is arbitrary."""
        with self._lock:
            return self._block(rows * width)[: rows * width].reshape(rows, width)

    def _block(self, numbers: int) -> Float32[np.ndarray, " numbers"]:
        for place in range(len(self._blocks)):
            if _holders(self._blocks, place) == ALONE and len(self._blocks[place]) >= numbers:
                return self._blocks[place]
        block = np.empty(numbers, dtype=np.float32)
        if block.nbytes <= LARGEST:
            self._blocks = [*self._blocks[-REMEMBERED + 1 :], block]
        return block


def _holders(blocks: Sequence[object], place: int) -> int:
    return sys.getrefcount(blocks[place])


ALONE = _holders([object()], 0)
"""What Python counts for a block that only the list holds."""


class Guide(NamedTuple):
    """The clip of every `stride`-th row."""

    clip: Int64[np.ndarray, " marks"]
    stride: int


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
    tensor: Callable[[int], MappedTensor]
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

    def neighbours(self, indices: Int64[np.ndarray, " rows"]) -> Int64[np.ndarray, " rows"]:
        """Return the row that follows each in its clip, the one before it for the last; -1 for a clip of one frame."""
        clip = self.clip_of(indices)
        last = indices + 1 == self.starts[clip + 1]
        return np.where(self.frames[clip] == 1, -1, np.where(last, indices - 1, indices + 1))

    def describe(self, index: int) -> str:
        """Say which frame of which clip and layer a row is."""
        clip = int(self.clip_of(np.array([index]))[0])
        return f'frame {index - self.starts[clip]} of clip "{self.clip_ids[clip]}" at layer {self.layer}'

    def take(self, indices: Int64[np.ndarray, " rows"]) -> Float[np.ndarray, "rows width"]:
        """Return these rows as float32, in the order asked for; raise `ArtifactError` beyond the last row."""
        indices = np.ascontiguousarray(indices, dtype=np.int64)
        if indices.size and not (indices.min() >= 0 and indices.max() < self.height):
            raise ArtifactError(f"rows 0 to {self.height - 1} exist; asked for {indices.min()} to {indices.max()}")
        return self._gathered(self._addresses(indices))

    def shuffled(
        self, batch: int, *, seed: int, epoch: int = 0, block: int = 16, held: int = 8192
    ) -> Iterator[Float[np.ndarray, "rows width"]]:
        """Yield every row once as float32, in batches, in an order that the seed and the epoch settle.

        Runs of `block` stored rows are drawn from all over the store, and `held` rows of them are shuffled among
        each other: the next batches come from few pages of memory, and a batch holds `batch * block / held` rows of a
        run on average. `take` in the order of `otoscope.sae.data.Order` keeps no neighbours together, and waits for
        memory longer. The last batches may be smaller. A batch may be kept; the memory of one that is not held on to
        is used for the next. Raises `ConfigError` unless `held` is a multiple of `batch` and of `block`.
        """
        if min(batch, block) < 1 or held % batch or held % block:
            raise ConfigError(f"held ({held}) must be a multiple of the batch ({batch}) and of the block ({block})")
        rng = np.random.default_rng((seed, epoch))
        blocks = rng.permutation(-(-self.height // block))
        for start in range(0, len(blocks), held // block):
            runs = blocks[start : start + held // block]
            indices = (runs[:, None] * block + np.arange(block)).reshape(-1)
            addresses = rng.permutation(self._addresses(indices[indices < self.height]))
            for first in range(0, len(addresses), batch):
                yield self._gathered(addresses[first : first + batch])

    def _addresses(self, indices: Int64[np.ndarray, " rows"]) -> Int64[np.ndarray, " rows"]:
        addresses = np.empty(len(indices), dtype=np.int64)
        row_bytes = self.width * np.dtype(PRECISIONS[self.dtype].mapped).itemsize
        guide, stride = self._guide
        while (
            clip := int(find_addresses(indices, self.starts, guide, stride, self._bases, row_bytes, addresses))
        ) >= 0:
            self._map(int(self.shard[clip]))
        return addresses

    def _gathered(self, addresses: Int64[np.ndarray, " rows"]) -> Float[np.ndarray, "rows width"]:
        out = self._memory.lend(len(addresses), self.width)
        gather_rows(addresses, self.dtype, out)
        return out

    @cached_property
    def _guide(self) -> Guide:
        """Spare `find` most of its search: about two entries a clip."""
        stride = max(1, self.height // max(1, 2 * len(self.frames)))
        marks = np.minimum(np.arange(0, self.height + 2 * stride, stride), max(0, self.height - 1))
        return Guide(self.clip_of(marks), stride)

    @cached_property
    def _memory(self) -> Lending:
        return Lending()

    @cached_property
    def _bases(self) -> Int64[np.ndarray, " clips"]:
        """Where each clip's first row lies in memory; 0 until its shard is mapped."""
        return np.zeros(len(self.shard), dtype=np.int64)

    def _map(self, shard: int) -> None:
        values, dtype = self.tensor(shard)
        clips = np.flatnonzero(self.shard == shard)
        ends = self.first[clips] + self.frames[clips]
        if values.shape[1:] != (self.width,) or dtype != self.dtype or ends.max() > len(values):
            raise DamagedArtifact(
                f"shard {shard} of layer {self.layer} holds {list(values.shape)} of {dtype}, not the "
                f"{ends.max()} rows or more of {self.width} in {self.dtype} that the clips need; extract again"
            )
        self._bases[clips] = values.ctypes.data + self.first[clips] * values.strides[0]
