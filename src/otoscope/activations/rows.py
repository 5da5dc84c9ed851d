"""Frames of a layer as rows for training, gathered from memory-mapped shards.

Random rows are far apart in memory, so reading waits for memory. The address of each row is computed first; while one
row is copied, the cache lines of a later one are prefetched. Rows are widened to float32 on the way into the batch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int64
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.numpy_support import carray

from otoscope.activations.tensorfile import PRECISIONS, MappedTensor
from otoscope.errors import ArtifactError, DamagedArtifact


class Guide(NamedTuple):
    """Clip of every `stride`-th row, to shorten the search for the clip of a row."""

    clip: Int64[np.ndarray, " marks"]
    stride: int


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
        """Return rows as float32, in the given order; raise `ArtifactError` for an index out of range.

        Every call allocates its result: a pool of reused buffers needed 0.75 to 1.1 times the processor time (1,024 and
        4,096 rows of width 384 and 768; 0.2 to 3.2 ms per batch).
        """
        indices = np.ascontiguousarray(indices, dtype=np.int64)
        if indices.size and not (indices.min() >= 0 and indices.max() < self.height):
            raise ArtifactError(
                f"row indices {indices.min()} to {indices.max()} are out of range; allowed: 0 to {self.height - 1}"
            )
        out = np.empty((len(indices), self.width), dtype=np.float32)
        gather_rows(self._addresses(indices), self.dtype, out)
        return out

    def _addresses(self, indices: Int64[np.ndarray, " rows"]) -> Int64[np.ndarray, " rows"]:
        addresses = np.empty(len(indices), dtype=np.int64)
        row_bytes = self.width * np.dtype(PRECISIONS[self.dtype].mapped).itemsize
        guide, stride = self._guide
        bases = self._bases
        while (clip := int(find_addresses(indices, self.starts, guide, stride, bases, row_bytes, addresses))) >= 0:
            self._map(int(self.shard[clip]))
        return addresses

    @cached_property
    def _guide(self) -> Guide:
        """Search guide with about two entries per clip."""
        stride = max(1, self.height // max(1, 2 * len(self.frames)))
        marks = np.minimum(np.arange(0, self.height + 2 * stride, stride), max(0, self.height - 1))
        return Guide(self.clip_of(marks), stride)

    @cached_property
    def _bases(self) -> Int64[np.ndarray, " clips"]:
        """Memory address of each clip's first row; 0 until its shard is mapped."""
        return np.zeros(len(self.shard), dtype=np.int64)

    def _map(self, shard: int) -> None:
        values, dtype = self.tensor(shard)
        clips = np.flatnonzero(self.shard == shard)
        ends = self.first[clips] + self.frames[clips]
        is_inside = self.first[clips].min() >= 0 and self.frames[clips].min() >= 0 and ends.max() <= len(values)
        if values.shape[1:] != (self.width,) or dtype != self.dtype or not is_inside:
            raise DamagedArtifact(
                f"shard {shard} of layer {self.layer} holds {list(values.shape)} of {dtype}, but its clips need at "
                f"least {ends.max()} rows of {self.width} in {self.dtype}; extract again"
            )
        self._bases[clips] = values.ctypes.data + self.first[clips] * values.strides[0]


PREFETCH_ROWS = 6
"""Rows prefetched before their turn; the shortest rows gain from this many, and none loses."""

LINE = 64
"""Bytes of a cache line."""

SECOND_CACHE = 2
"""LLVM locality of the prefetch (second-level cache); prefetching into the first level took a third longer on Zen 4."""

WIDENED = np.float32(2.0**112)
"""Factor between a float16 and the float32 with its exponent and mantissa bits; exact for subnormals too."""


def _compiled(generator: Callable[..., Any]) -> Callable[[Any], Any]:
    """Return a Numba intrinsic of one argument that compiles to the code of `generator`."""
    return intrinsic(generator)


@_compiled
def _pointer(_typing: Any, address: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(address), generate


@_compiled
def _fetch_line(_typing: Any, address: Any) -> Any:
    """Prefetch a cache line; the processor ignores unmapped addresses."""

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        fetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        read, data = number(0), number(1)
        builder.call(fetch, [builder.inttoptr(arguments[0], byte), read, number(SECOND_CACHE), data])
        return context.get_dummy_value()

    return types.void(address), generate


@_compiled
def _as_float(_typing: Any, _bits: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.uint32), generate


@njit(cache=True, nogil=True)
def _fetch(addresses: Any, i: Any, row_bytes: Any) -> None:
    if i < addresses.shape[0]:
        for byte in range(0, row_bytes, LINE):
            _fetch_line(addresses[i] + byte)


@njit(cache=True, nogil=True)
def _gather_float32(addresses: Any, out: Any) -> None:
    for i in range(addresses.shape[0]):
        _fetch(addresses, i + PREFETCH_ROWS, 4 * out.shape[1])
        row, target = carray(_pointer(addresses[i]), (out.shape[1],), np.float32), out[i]
        for j in range(out.shape[1]):
            target[j] = row[j]


@njit(cache=True, nogil=True)
def _gather_float16(addresses: Any, out: Any) -> None:
    for i in range(addresses.shape[0]):
        _fetch(addresses, i + PREFETCH_ROWS, 2 * out.shape[1])
        row, target = carray(_pointer(addresses[i]), (out.shape[1],), np.uint16), out[i]
        for j in range(out.shape[1]):
            bits = np.uint32(row[j])
            magnitude = (bits & np.uint32(0x7FFF)) << np.uint32(13)
            sign = (bits & np.uint32(0x8000)) << np.uint32(16)
            target[j] = _as_float(magnitude | sign) * WIDENED


@njit(cache=True, nogil=True)
def _gather_bfloat16(addresses: Any, out: Any) -> None:
    # a bfloat16 is the upper half of the float32 of the same value
    for i in range(addresses.shape[0]):
        _fetch(addresses, i + PREFETCH_ROWS, 2 * out.shape[1])
        row, target = carray(_pointer(addresses[i]), (out.shape[1],), np.uint16), out[i]
        for j in range(out.shape[1]):
            target[j] = _as_float(np.uint32(row[j]) << np.uint32(16))


_GATHER = {"float32": _gather_float32, "float16": _gather_float16, "bfloat16": _gather_bfloat16}


def gather_rows(
    addresses: Int64[np.ndarray, " rows"],
    dtype: str,
    out: Float32[np.ndarray, "rows width"],
) -> None:
    """Copy the stored row at `addresses[i]` to `out[i]`, exactly, on one thread.

    A second thread gained nothing on a shared machine: a batch takes less than a millisecond, too little to pay for
    waking a thread. Every address must be that of a row of `width` finite numbers of this dtype; nothing is checked.
    """
    _GATHER[dtype](addresses, out)


@njit(cache=True, nogil=True)
def find_addresses(
    indices: Any, starts: Any, guide: Any, stride: Any, bases: Any, row_bytes: Any, addresses: Any
) -> Any:
    """Compute the memory address of each row; return the first clip that is not mapped yet, or -1.

    Clip c holds the rows `starts[c]` to `starts[c + 1]`; `bases[c]` is the address of its first row, 0 if unmapped.
    Row i belongs to a clip from `guide[i // stride]` to `guide[i // stride + 1]`.
    """
    low = 0
    for i in range(indices.shape[0]):
        if not starts[low] <= indices[i] < starts[low + 1]:
            near = indices[i] // stride
            low, high = guide[near], guide[near + 1] + 1
            while high - low > 1:
                middle = (low + high) // 2
                if starts[middle] <= indices[i]:
                    low = middle
                else:
                    high = middle
        if bases[low] == 0:
            return low
        addresses[i] = bases[low] + (indices[i] - starts[low]) * row_bytes
    return -1
