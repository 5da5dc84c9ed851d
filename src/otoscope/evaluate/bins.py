"""Values as bins: few enough to count, and blind to any rescaling.

The rule. A column's most frequent value gets a bin of its own where it fills at least one bin's
share of the rows: the zero of a sparse code, the zero of a factor that most clips do not have. What
remains is cut by rank into bins of equal count, ties staying together, never fewer than `smallest`
rows a bin (five, as the chi-square test asks of a cell's row).
"""

import numba
import numpy as np
from jaxtyping import Bool, Float, Int

from otoscope.errors import EvaluationError

BINS = 10
SMALLEST = 5
MISSING = -1


def bin_columns(
    values: Float[np.ndarray, "rows columns"], *, bins: int = BINS, smallest: int = SMALLEST
) -> Int[np.ndarray, "rows columns"]:
    """Return each value's bin within its column, numbered from 0; -1 where the value is NaN.

    Args:
        values: one column a latent or factor.
        bins: most bins of a column.
        smallest: fewest rows of a bin, except of the last where a column has fewer.

    A positive factor on a column changes nothing, and a constant column is one bin. Raises
    `EvaluationError` for fewer than two bins or infinite values.

    >>> bin_columns(np.array([[0.0], [0], [0], [0], [3], [7]]), bins=3, smallest=1).T
    array([[0, 0, 0, 0, 1, 2]])
    """
    if bins < 2 or smallest < 1:
        raise EvaluationError(f"bins must be 2 or more and smallest 1 or more, got {bins} and {smallest}")
    if np.isinf(values).any():
        raise EvaluationError("values to bin hold infinity; drop such rows or mark them as missing (NaN)")
    columns = np.ascontiguousarray(values.T, dtype=np.float64)
    # missing values sort last
    order = np.argsort(columns, axis=1, kind="stable")
    return _bin(np.take_along_axis(columns, order, axis=1), order, bins, smallest).T


def bin_classes(values: Float[np.ndarray, "rows columns"]) -> Int[np.ndarray, "rows columns"]:
    """Return each value's number among the distinct values of its column; -1 where it is NaN.

    >>> bin_classes(np.array([[7.0], [3.0], [np.nan], [7.0]])).T
    array([[ 1,  0, -1,  1]])
    """
    numbered = np.full(values.shape, MISSING, dtype=np.int64)
    for column in range(values.shape[1]):
        known = ~np.isnan(values[:, column])
        numbered[known, column] = np.unique(values[known, column], return_inverse=True)[1]
    return numbered


def bin_factors(
    factors: Float[np.ndarray, "rows factors"],
    *,
    classes: Bool[np.ndarray, " factors"] | None = None,
    bins: int = BINS,
    smallest: int = SMALLEST,
) -> Int[np.ndarray, "rows factors"]:
    """Return factors as bins: by rank, or a bin a value for those columns that hold classes."""
    found = bin_columns(factors, bins=bins, smallest=smallest)
    if classes is not None:
        if classes.shape != (factors.shape[1],):
            raise EvaluationError(f"`classes` must hold one boolean a factor ({factors.shape[1]}), got {classes.shape}")
        found[:, classes] = bin_classes(factors[:, classes])
    return found


@numba.njit(cache=True)
def _bin(
    columns: Float[np.ndarray, "columns rows"], orders: Int[np.ndarray, "columns rows"], bins: int, smallest: int
) -> Int[np.ndarray, "columns rows"]:
    """Return the bins, in the original order of the rows, of columns that are sorted already."""
    found = np.full(columns.shape, -1, dtype=np.int64)
    for column in range(len(columns)):
        n = 0
        while n < columns.shape[1] and columns[column, n] == columns[column, n]:
            n += 1
        if n == 0:
            continue
        ordered, order = columns[column, :n], orders[column]
        begin, end = _longest_run(ordered)
        own = (end - begin) * bins >= n
        rest = n - (end - begin) if own else n
        most = min(bins - 1 if own else bins, max(1, rest // smallest))
        first = 1 if own else 0
        before, i = 0, 0
        last_bin, last_number = -1, first - 1
        while i < n:
            j = i
            while j < n and ordered[j] == ordered[i]:
                j += 1
            if own and i == begin:
                where = 0
            else:
                # the mean rank of ties, from 0 to 1, decides; bins that no value falls into are skipped
                place = int((before + (j - i) / 2) / rest * most)
                if place != last_bin:
                    last_bin = place
                    last_number += 1
                where = last_number
                before += j - i
            for k in range(i, j):
                found[column, order[k]] = where
            i = j
    return found


@numba.njit(cache=True)
def _longest_run(ordered: Float[np.ndarray, " rows"]) -> tuple[int, int]:
    best, end, start = 0, 0, 0
    for i in range(1, len(ordered) + 1):
        if i == len(ordered) or ordered[i] != ordered[start]:
            if i - start > best:
                best, end = i - start, i
            start = i
    return end - best, end
