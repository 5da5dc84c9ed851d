"""What some rows know about themselves, beside their values."""

from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64

from otoscope.sae.rows import Kept, Rows


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
