"""Standardised sparse matrix in column format (CSC); centring is kept separate so that zeros stay zeros.

A standardised column is x = s - m with s = 0 where the code is, so that with the residual
R = y - S W of targets and b = W'm,

    y - X W = R + b,    X'(y - X W)/n = S'R/n + m b,    |y - X W|^2/n = |R|^2/n - b^2

because centred columns and centred targets sum to zero. Values and residuals are divided by sqrt(n).
Targets are contiguous in memory, so that one pass over the values serves all of them.
"""

from typing import NamedTuple

import numba
import numpy as np
from jaxtyping import Bool, Float, Int


class SparseColumns(NamedTuple):
    """Nonzero values of s, their rows, the start of each column, and its mean.

    A column that is excluded from the fit has mean 0 and no values.
    """

    values: Float[np.ndarray, " values"]
    rows: Int[np.ndarray, " values"]
    starts: Int[np.ndarray, " ends"]
    mean: Float[np.ndarray, " p"]


class Residual(NamedTuple):
    """R and b, one column (entry) per target."""

    rest: Float[np.ndarray, "rows targets"]
    shift: Float[np.ndarray, " targets"]


def make_sparse_columns(
    scaled: Float[np.ndarray, "rows p"], mean: Float[np.ndarray, " p"], silent: Bool[np.ndarray, " p"]
) -> SparseColumns:
    """Return the columns of rows that are divided by their standard deviation but not centred; `mean` is their mean."""
    across = scaled.T * ~silent[:, None]
    places = np.nonzero(across)
    starts = np.searchsorted(places[0], np.arange(len(mean) + 1))
    return SparseColumns(across[places] / np.sqrt(len(scaled)), places[1], starts, np.where(silent, 0, mean))


def compute_residual(
    columns: SparseColumns, targets: Float[np.ndarray, "rows targets"], weights: Float[np.ndarray, "p targets"]
) -> Residual:
    """Return the residual of centred targets divided by sqrt(n)."""
    found = Residual(targets.copy(), weights.T @ columns.mean)
    _subtract(columns, weights, found.rest)
    return found


@numba.njit(cache=True, nogil=True, fastmath=True)
def _subtract(
    columns: SparseColumns, weights: Float[np.ndarray, "p targets"], rest: Float[np.ndarray, "rows targets"]
) -> None:
    values, rows, starts = columns.values, columns.rows, columns.starts
    for j in range(len(weights)):
        subtract_column(values, rows, starts[j], starts[j + 1], weights[j], rest)


@numba.njit(cache=True, nogil=True, fastmath=True)
def add_product(
    values: Float[np.ndarray, " values"],
    rows: Int[np.ndarray, " values"],
    first: int,
    stop: int,
    rest: Float[np.ndarray, "rows targets"],
    sums: Float[np.ndarray, " targets"],
) -> None:
    """Add the products of one column with the residuals to `sums`; four values at a time save memory traffic."""
    k = first
    while k + 4 <= stop:
        a, b, c, d = values[k], values[k + 1], values[k + 2], values[k + 3]
        ra, rb, rc, rd = rest[rows[k]], rest[rows[k + 1]], rest[rows[k + 2]], rest[rows[k + 3]]
        for t in range(len(sums)):
            sums[t] += (a * ra[t] + b * rb[t]) + (c * rc[t] + d * rd[t])
        k += 4
    while k < stop:
        a, ra = values[k], rest[rows[k]]
        for t in range(len(sums)):
            sums[t] += a * ra[t]
        k += 1


@numba.njit(cache=True, nogil=True, fastmath=True)
def subtract_column(
    values: Float[np.ndarray, " values"],
    rows: Int[np.ndarray, " values"],
    first: int,
    stop: int,
    steps: Float[np.ndarray, " targets"],
    rest: Float[np.ndarray, "rows targets"],
) -> None:
    """Subtract one column times the changes of its weights from the residuals."""
    for k in range(first, stop):
        value, row = values[k], rest[rows[k]]
        for t in range(len(steps)):
            row[t] -= value * steps[t]
