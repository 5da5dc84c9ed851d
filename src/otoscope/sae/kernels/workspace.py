"""The arrays that a step fills anew for every batch, kept between steps so that none is allocated twice."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from otoscope.sae.kernels.forward import sum_block
from otoscope.sae.kernels.gather import Array
from otoscope.sae.kernels.tables import words_for


class Shape(NamedTuple):
    """How much a workspace must hold."""

    rows: int
    k: int
    aux_k: int
    width: int
    latents: int
    threads: int


@dataclass(frozen=True)
class Entries:
    """The active entries of a batch, by row and by latent: of the dictionary proper, or of AuxK."""

    most: int
    """Entries a row at most; 0 when there are none."""
    index: NDArray[np.int32]
    code: Array
    slope: Array
    active: NDArray[np.int32]
    counts: NDArray[np.int64]
    """How often each latent is active, for each thread's share of rows."""
    table: Array
    """What is left to explain after these entries are decoded, `[rows, columns]`, as the kernels read it."""
    squares: Array
    rows_of: NDArray[np.int32]
    code_of: Array
    slope_of: Array

    @staticmethod
    def empty(shape: Shape, most: int, dtype: np.dtype[Any], *, packed: bool) -> "Entries":
        """Make room for `most` entries a row."""
        rows, number = shape.rows, shape.rows * most
        return Entries(
            most=most,
            index=np.empty((rows, most), np.int32),
            code=np.empty((rows, most), dtype),
            slope=np.empty((rows, most), dtype),
            active=np.zeros(rows, np.int32),
            counts=np.zeros((shape.threads, shape.latents), np.int64),
            table=empty_table(rows if most else 0, shape.width, dtype, packed=packed),
            squares=np.zeros(rows, dtype),
            rows_of=np.empty(number, np.int32),
            code_of=np.empty(number, dtype),
            slope_of=np.empty(number, dtype),
        )

    def offsets(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return where each latent's entries begin, `[latents + 1]`, and how many it has."""
        fired = self.counts.sum(axis=0)
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(fired)]), fired


@dataclass(frozen=True)
class Workspace:
    """Inputs and residuals of one batch size, and the entries of the dictionary and of AuxK."""

    inputs: Array
    residuals: Array
    sums: Array
    main: Entries
    aux: Entries

    @staticmethod
    def empty(shape: Shape, dtype: np.dtype[Any], *, packed: bool) -> "Workspace":
        """Make room for batches of one size."""
        rows, width = shape.rows, shape.width
        columns = 2 * words_for(width) if packed else width
        return Workspace(
            inputs=empty_table(rows, width, dtype, packed=packed),
            residuals=np.empty((rows, columns), dtype),
            sums=np.zeros((-(-rows // sum_block(rows)), columns), dtype),
            main=Entries.empty(shape, shape.k, dtype, packed=packed),
            aux=Entries.empty(shape, shape.aux_k, dtype, packed=packed),
        )


def empty_table(rows: int, width: int, dtype: np.dtype[Any], *, packed: bool) -> Array:
    """Make a table of rows: packed words, or plain numbers of the master type."""
    return np.zeros((rows, words_for(width)), np.uint32) if packed else np.zeros((rows, width), dtype)
