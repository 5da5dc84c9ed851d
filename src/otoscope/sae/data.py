"""Where training rows come from, and the order in which they are read.

What some rows know about themselves, beside their values.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
from jaxtyping import Float, Int64, UInt64
from torch import Tensor

from otoscope.errors import TrainingError

TABLED_ROWS = 1 << 20
"""Up to so many rows an epoch's order is worked out at once and kept (8 MB)."""

RUN = 16
"""Rows beyond so many are drawn in runs of stored neighbours, so that a batch of them does not touch a page a row."""

MIXED = 1 << 17
"""Rows of such runs that are shuffled among each other: of 4,096 rows in a batch, half a row of each run on average."""

NO_NUMBERS = "OUScmM"
"""Kinds of arrays that hold objects, texts, complex numbers or times."""

TABLES = 8
"""Orders kept: those of the seeds that are trained side by side."""


@runtime_checkable
class Rows(Protocol):
    """Activations, a row each, of any number; read by index, so that they need not fit in memory."""

    @property
    def height(self) -> int:
        """Number of rows."""
        ...

    @property
    def width(self) -> int:
        """Length of a row."""
        ...

    def take(self, indices: Int64[np.ndarray, " rows"]) -> Float[np.ndarray, "rows width"]:
        """Return these rows as float32, in the order asked for."""
        ...


@dataclass(frozen=True)
class ArrayRows:
    """Rows of an array in memory, or of a memory map; any leading axes count as rows.

    `labels` says what each row is (its clip, say); messages about a row then name it.

    >>> ArrayRows(np.eye(3, dtype=np.float32)).take(np.array([2, 0]))
    array([[0., 0., 1.],
           [1., 0., 0.]], dtype=float32)
    """

    array: Float[np.ndarray, "*rows width"]
    labels: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.array.ndim < 2 or self.array.shape[-1] < 1:
            raise TrainingError(f"rows must be an array [rows, width], got shape {list(self.array.shape)}")
        if self.array.dtype.kind in NO_NUMBERS:
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
        """Length of a row."""
        return self.array.shape[1]

    def take(self, indices: Int64[np.ndarray, " rows"]) -> Float[np.ndarray, "rows width"]:
        """Return these rows as float32, in the order asked for."""
        return np.require(self.array[indices], np.float32, ["C", "W"])  # torch warns of what it may not write to

    def describe(self, index: int) -> str:
        """Return a row's label; empty where it has none."""
        return "" if self.labels is None else self.labels[index]


RowsLike: TypeAlias = Rows | Float[np.ndarray, "*rows width"] | Float[Tensor, "*rows width"]
"""Rows, or an array or tensor that holds them."""


@dataclass(frozen=True)
class Kept:
    """Rows that were read from their source into memory."""

    source: Rows
    array: Float[np.ndarray, "rows width"]

    @property
    def height(self) -> int:
        """Number of rows."""
        return self.array.shape[0]

    @property
    def width(self) -> int:
        """Length of a row."""
        return self.array.shape[1]

    def take(self, indices: Int64[np.ndarray, " rows"]) -> Float[np.ndarray, "rows width"]:
        """Return these rows, in the order asked for."""
        return self.array[indices]


def as_rows(given: object) -> Rows:
    """Return rows as they are, an array or a tensor as `ArrayRows`; raise `TrainingError` for anything else.

    >>> as_rows(np.ones((4, 3))).height
    4
    """
    if isinstance(given, Rows):
        return given
    if isinstance(given, Tensor):
        return ArrayRows(given.detach().float().cpu().numpy())
    if isinstance(given, np.ndarray):
        return ArrayRows(given)
    raise TrainingError(f"rows are a {type(given).__name__}; give an array or a tensor [rows, width], or `ArrayRows`")


def held(rows: Rows, most_bytes: int) -> Rows:
    """Return rows read into memory, where they take up no more than so many bytes there; else the rows themselves."""
    if isinstance(rows, ArrayRows | Kept) or rows.height * rows.width * 4 > most_bytes:
        return rows
    array = np.empty((rows.height, rows.width), dtype=np.float32)
    for start, chunk in chunks(rows):
        array[start : start + len(chunk)] = chunk
    return Kept(rows, array)


def chunks(rows: Rows, size: int = 4096) -> Iterator[tuple[int, Float[np.ndarray, "rows width"]]]:
    """Yield all rows in their stored order, each chunk with the index of its first row."""
    for start in range(0, rows.height, size):
        yield start, rows.take(np.arange(start, min(start + size, rows.height), dtype=np.int64))


@dataclass(frozen=True)
class Order:
    """A seeded shuffle of all rows for every epoch, read by position and stored nowhere.

    Batch `step` of the run is a pure function of (seed, step): a resumed run needs no more than
    the number of steps done. The last batch of an epoch holds what is left over. More than `TABLED_ROWS` rows, which
    may lie on a disk, are drawn in runs (see `mix`).
    """

    height: int
    batch: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches in an epoch."""
        return -(-self.height // self.batch)

    def indices(self, step: int) -> Int64[np.ndarray, " rows"]:
        """Return the rows of one batch."""
        epoch, place = divmod(step, self.steps_per_epoch)
        start, stop = place * self.batch, min((place + 1) * self.batch, self.height)
        if self.height <= TABLED_ROWS:
            return _epoch(self.height, (self.seed, epoch))[start:stop]
        return mix(np.arange(start, stop, dtype=np.uint64), height=self.height, key=(self.seed, epoch))


@lru_cache(maxsize=TABLES)
def _epoch(height: int, key: tuple[int, int]) -> Int64[np.ndarray, " rows"]:
    order = permute(np.arange(height, dtype=np.uint64), height=height, key=key)
    order.setflags(write=False)
    return order


def mix(
    positions: UInt64[np.ndarray, " rows"], *, height: int, key: tuple[int, int], run: int = RUN, mixed: int = MIXED
) -> Int64[np.ndarray, " rows"]:
    """Send positions in [0, height) through a seeded bijection that draws runs of neighbours and shuffles some at once.

    `mixed` positions in a row, a multiple of `run`, share runs of `run` rows from everywhere and no others do; the rows
    that make no whole run come last.

    >>> mix(np.arange(10, dtype=np.uint64), height=10, key=(0, 0), run=2, mixed=4).tolist()
    [4, 9, 5, 8, 3, 7, 6, 2, 1, 0]
    """
    whole = height // run * run
    out = positions.astype(np.int64)  # what makes no whole run stays where it is
    group = out // mixed
    for number in range(int(group.min()), int(group.max()) + 1):
        first = number * mixed
        size = min(mixed, whole - first)
        here = (group == number) & (positions < whole)
        if here.any():
            inside = permute(positions[here] - np.uint64(first), height=size, key=(*key, 1 + number))
            runs = permute(((first + inside) // run).astype(np.uint64), height=whole // run, key=key)
            out[here] = runs * run + inside % run
    return out


def permute(positions: UInt64[np.ndarray, " rows"], *, height: int, key: tuple[int, ...]) -> Int64[np.ndarray, " rows"]:
    """Send positions in [0, height) through a seeded bijection of [0, height).

    A Feistel network of eight rounds permutes the next power of four; positions that land at or
    above `height` go through again until they fall inside (cycle walking, Black and Rogaway 2002).
    No table of `height` entries is ever made.

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
        left, right = right, left ^ (_mix(right ^ key) & mask)
    return (left << half) | right


def _mix(values: UInt64[np.ndarray, " rows"]) -> UInt64[np.ndarray, " rows"]:
    """Scramble 64-bit words with the finaliser of SplitMix64 (Steele, Lea and Flood 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


@runtime_checkable
class Neighbouring(Protocol):
    """Rows that follow each other in time."""

    def neighbour(self, indices: Int64[np.ndarray, " rows"]) -> Int64[np.ndarray, " rows"]:
        """Return, for each row, one that lies beside it in time; -1 where there is none."""
        ...


@runtime_checkable
class Described(Protocol):
    """Rows that know where they come from."""

    def describe(self, index: int) -> str:
        """Say what a row is, for a message: its clip, frame and layer."""
        ...


def neighbouring(rows: Rows) -> Neighbouring | None:
    """Return rows that know their neighbours, or None."""
    source = rows.source if isinstance(rows, Kept) else rows
    return source if isinstance(source, Neighbouring) else None


def pairs(rows: Rows, indices: Int64[np.ndarray, " rows"]) -> Int64[np.ndarray, " two_rows"]:
    """Return rows, then the neighbour of each; a row without one is its own."""
    known = neighbouring(rows)
    beside = indices if known is None else known.neighbour(indices)
    return np.concatenate([indices, np.where(beside < 0, indices, beside)])


def remedy(rows: Rows, index: int) -> str:
    """Return what to do about a row that cannot be trained on: only rows that know their clip came of an extraction."""
    return "set its clip aside and extract again" if _known(rows, index) else "remove the row"


def describe(rows: Rows, index: int, *, name: str) -> str:
    """Return what to call a row in a message: `training row 5 (clip "a.wav", layer 3)`."""
    known = _known(rows, index)
    return f"{name} row {index} ({known})" if known else f"{name} row {index}"


def _known(rows: Rows, index: int) -> str:
    source = rows.source if isinstance(rows, Kept) else rows
    return source.describe(index) if isinstance(source, Described) else ""
