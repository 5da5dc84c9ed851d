"""Sources of training rows, and the shuffle in which they are read."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
from jaxtyping import Float, Int64, UInt64
from torch import Tensor

from otoscope.errors import TrainingError

NON_NUMERIC_KINDS = "OUScmM"
"""Kinds of arrays that hold objects, text, complex numbers or times."""

TABLE_ROWS = 1 << 20
"""Maximum number of rows whose order per epoch is kept as a table (8 MB)."""

CACHED_EPOCHS = 8
"""Number of tables that are kept: those of the seeds that are trained in parallel."""

RUN_ROWS = 16
"""Larger sources are drawn in runs of this many stored neighbours, so that a batch reads fewer pages than rows."""

MIXED_ROWS = 1 << 17
"""Rows of such runs that are shuffled together: a batch of 4,096 has half a row of each run on average."""


@runtime_checkable
class RowSource(Protocol):
    """Any number of activation rows, read by index, so that they need not fit in memory.

    A source may also implement `HasNeighbours` and `HasLabels`.
    """

    @property
    def height(self) -> int:
        """Number of rows."""
        ...

    @property
    def width(self) -> int:
        """Number of dimensions."""
        ...

    def take(self, indices: Int64[np.ndarray, " rows"]) -> Float[np.ndarray, "rows width"]:
        """Return these rows as float32, in the order of the indices."""
        ...


@runtime_checkable
class HasNeighbours(Protocol):
    """Rows with neighbours in time."""

    def neighbours(self, indices: Int64[np.ndarray, " rows"]) -> Int64[np.ndarray, " rows"]:
        """Return the index of an adjacent row for each row; -1 if there is none."""
        ...


@runtime_checkable
class HasLabels(Protocol):
    """Rows with a description of their origin."""

    def describe(self, index: int) -> str:
        """Return a description of a row for messages: its clip, frame and layer."""
        ...


@dataclass(frozen=True)
class ArrayRows:
    """Rows of an array in memory, or of a memory map; any leading axes count as rows.

    `labels` describe the rows (their clips, for example) in messages.

    >>> ArrayRows(np.eye(3, dtype=np.float32)).take(np.array([2, 0]))
    array([[0., 0., 1.],
           [1., 0., 0.]], dtype=float32)
    """

    array: Float[np.ndarray, "*rows width"]
    labels: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.array.ndim < 2 or self.array.shape[-1] < 1:
            raise TrainingError(f"rows must be an array [rows, width], got shape {list(self.array.shape)}")
        if self.array.dtype.kind in NON_NUMERIC_KINDS:
            raise TrainingError(f"rows must be real numbers, got an array of {self.array.dtype}")
        object.__setattr__(self, "array", self.array.reshape(-1, self.array.shape[-1]))
        if self.labels is not None and len(self.labels) != self.height:
            raise TrainingError(f"{len(self.labels)} labels for {self.height} rows; give one for each")

    @property
    def height(self) -> int:
        """Number of rows."""
        return self.array.shape[0]

    @property
    def width(self) -> int:
        """Number of dimensions."""
        return self.array.shape[1]

    def take(self, indices: Int64[np.ndarray, " rows"]) -> Float[np.ndarray, "rows width"]:
        """Return these rows as float32, in the order of the indices."""
        return np.require(self.array[indices], np.float32, ["C", "W"])  # torch warns about read-only arrays

    def describe(self, index: int) -> str:
        """Return a row's label; empty if there are none."""
        return "" if self.labels is None else self.labels[index]

    def __repr__(self) -> str:
        return f"ArrayRows({self.height:,} x {self.width}, {self.array.dtype})"


RowsLike: TypeAlias = RowSource | Float[np.ndarray, "*rows width"] | Float[Tensor, "*rows width"]
"""A source of rows, or an array or tensor of rows."""


@dataclass(frozen=True)
class CachedRows:
    """Rows of a source, read into memory."""

    source: RowSource
    array: Float[np.ndarray, "rows width"]

    @property
    def height(self) -> int:
        """Number of rows."""
        return self.array.shape[0]

    @property
    def width(self) -> int:
        """Number of dimensions."""
        return self.array.shape[1]

    def take(self, indices: Int64[np.ndarray, " rows"]) -> Float[np.ndarray, "rows width"]:
        """Return these rows, in the order of the indices."""
        return self.array[indices]


def as_rows(rows: object) -> RowSource:
    """Return a source unchanged, an array or a tensor as `ArrayRows`; raise `TrainingError` for anything else.

    >>> as_rows(np.ones((4, 3))).height
    4
    """
    if isinstance(rows, RowSource):
        return rows
    if isinstance(rows, Tensor):
        return ArrayRows(rows.detach().float().cpu().numpy())
    if isinstance(rows, np.ndarray):
        return ArrayRows(rows)
    raise TrainingError(f"rows are a {type(rows).__name__}; give an array or a tensor [rows, width], or a `RowSource`")


def cache_rows(rows: RowSource, max_bytes: int) -> RowSource:
    """Read rows into memory if they take at most `max_bytes` there; else return the source."""
    if isinstance(rows, ArrayRows | CachedRows) or rows.height * rows.width * 4 > max_bytes:
        return rows
    array = np.empty((rows.height, rows.width), dtype=np.float32)
    for start, chunk in chunks(rows):
        array[start : start + len(chunk)] = chunk
    return CachedRows(rows, array)


def chunks(rows: RowSource, size: int = 4096) -> Iterator[tuple[int, Float[np.ndarray, "rows width"]]]:
    """Yield all rows in stored order, each chunk with the index of its first row."""
    for start in range(0, rows.height, size):
        yield start, rows.take(np.arange(start, min(start + size, rows.height), dtype=np.int64))


def as_neighbour_source(rows: RowSource) -> HasNeighbours | None:
    """Return the source if its rows have neighbours in time, else None."""
    source = rows.source if isinstance(rows, CachedRows) else rows
    return source if isinstance(source, HasNeighbours) else None


def pair_with_neighbours(rows: RowSource, indices: Int64[np.ndarray, " rows"]) -> Int64[np.ndarray, " two_rows"]:
    """Return the indices, then the neighbour of each; a row without a neighbour is paired with itself."""
    source = as_neighbour_source(rows)
    adjacent = indices if source is None else source.neighbours(indices)
    return np.concatenate([indices, np.where(adjacent < 0, indices, adjacent)])


def describe_row(rows: RowSource, index: int, *, name: str) -> str:
    """Return the name of a row for messages, such as `training row 5 (clip "a.wav", layer 3)`."""
    label = _row_label(rows, index)
    return f"{name} row {index} ({label})" if label else f"{name} row {index}"


def row_remedy(rows: RowSource, index: int) -> str:
    """Return advice about an unusable row; only rows with a label come from an extraction."""
    return "set its clip aside and extract again" if _row_label(rows, index) else "remove the row"


def _row_label(rows: RowSource, index: int) -> str:
    source = rows.source if isinstance(rows, CachedRows) else rows
    return source.describe(index) if isinstance(source, HasLabels) else ""


@dataclass(frozen=True)
class Shuffle:
    """Seeded shuffle of all rows in every epoch, computed from the position.

    The batch of a step is a pure function of (seed, step), so a resumed run needs only
    the number of steps done. The last batch of an epoch has the remaining rows. Sources of more than `TABLE_ROWS`
    rows, which may be on disk, are drawn in runs (see `shuffle_runs`).
    """

    height: int
    batch: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches per epoch."""
        return -(-self.height // self.batch)

    def indices(self, step: int) -> Int64[np.ndarray, " rows"]:
        """Return the row indices of one batch."""
        epoch, batch = divmod(step, self.steps_per_epoch)
        start, stop = batch * self.batch, min((batch + 1) * self.batch, self.height)
        if self.height <= TABLE_ROWS:
            return _epoch_indices(self.height, (self.seed, epoch))[start:stop]
        return shuffle_runs(np.arange(start, stop, dtype=np.uint64), height=self.height, key=(self.seed, epoch))


@lru_cache(maxsize=CACHED_EPOCHS)
def _epoch_indices(height: int, key: tuple[int, int]) -> Int64[np.ndarray, " rows"]:
    indices = permute(np.arange(height, dtype=np.uint64), height=height, key=key)
    indices.setflags(write=False)
    return indices


def shuffle_runs(
    positions: UInt64[np.ndarray, " rows"],
    *,
    height: int,
    key: tuple[int, int],
    run: int = RUN_ROWS,
    mixed: int = MIXED_ROWS,
) -> Int64[np.ndarray, " rows"]:
    """Map positions in [0, height) through a seeded bijection that draws runs of stored neighbours.

    Each block of `mixed` positions, a multiple of `run`, receives runs of `run` rows from anywhere and shuffles their
    rows. Rows beyond the last complete run come last.

    >>> shuffle_runs(np.arange(10, dtype=np.uint64), height=10, key=(0, 0), run=2, mixed=4).tolist()
    [4, 9, 5, 8, 3, 7, 6, 2, 1, 0]
    """
    in_runs = height // run * run
    out = positions.astype(np.int64)  # rows beyond the last complete run keep their position
    block = out // mixed
    for number in range(int(block.min()), int(block.max()) + 1):
        first = number * mixed
        size = min(mixed, in_runs - first)
        selected = (block == number) & (positions < in_runs)
        if selected.any():
            inside = permute(positions[selected] - np.uint64(first), height=size, key=(*key, 1 + number))
            runs = permute(((first + inside) // run).astype(np.uint64), height=in_runs // run, key=key)
            out[selected] = runs * run + inside % run
    return out


def permute(positions: UInt64[np.ndarray, " rows"], *, height: int, key: tuple[int, ...]) -> Int64[np.ndarray, " rows"]:
    """Map positions in [0, height) through a seeded bijection of [0, height), without a table.

    A Feistel network of eight rounds permutes the next power of four; positions at or
    above `height` are permuted again until they are inside (cycle walking, Black and Rogaway 2002).

    >>> sorted(permute(np.arange(5, dtype=np.uint64), height=5, key=(0, 0)).tolist())
    [0, 1, 2, 3, 4]
    """
    half = np.uint64(max(1, (max(height - 1, 1).bit_length() + 1) // 2))
    keys = np.random.SeedSequence(key).generate_state(8, dtype=np.uint64)
    out = positions.copy()
    outside = np.arange(len(out))
    while len(outside):
        out[outside] = _feistel(out[outside], half, keys)
        outside = outside[out[outside] >= height]
    return out.astype(np.int64)


def _feistel(
    values: UInt64[np.ndarray, " rows"], half: np.uint64, keys: UInt64[np.ndarray, " rounds"]
) -> UInt64[np.ndarray, " rows"]:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = values >> half, values & mask
    for key in keys:
        left, right = right, left ^ (_splitmix(right ^ key) & mask)
    return (left << half) | right


def _splitmix(values: UInt64[np.ndarray, " rows"]) -> UInt64[np.ndarray, " rows"]:
    """Scramble 64-bit words with the finaliser of SplitMix64 (Steele, Lea and Flood 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
