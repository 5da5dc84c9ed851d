"""Gram matrices of subsets of rows, by subtracting the omitted rows from the sum over all rows.

Rows are standardised once by all rows. A set S of n rows with mean m and deviation s (in those
units) has the Gram matrix

    (sum over all rows of x x'  -  sum over rows not in S of x x'  -  n m m') / (n s s')

so that five folds cost two Gram matrices instead of five, and a set that omits a few rows almost nothing.
A feature that barely varies within S would be dominated by rounding: its row is computed from S directly.
"""

from typing import NamedTuple

import numba
import numpy as np
from jaxtyping import Bool, Float, Shaped

from otoscope.linear.sparse_descent import SparseColumns, make_sparse_columns
from otoscope.resampling.groups import each_fold

REACH = 2.0
"""Standard deviations beyond the range of the fitted rows to which each feature of predicted rows is clipped.

A latent that rarely fires in the fitted rows has so small a standard deviation that other rows are dozens of deviations
away, far from any fitted value: 40 for one singer's clips, which lowered the held-out R2 of a formant from 0.82 to
0.70.
"""


def clip_to_range(
    rows: Float[np.ndarray, "rows p"],
    lowest: Float[np.ndarray, " p"],
    highest: Float[np.ndarray, " p"],
    *,
    reach: float | Float[np.ndarray, " p"],
) -> Float[np.ndarray, "rows p"]:
    """Clip each feature of rows to `reach` beyond the range of the fitted rows."""
    return np.clip(rows, lowest - reach, highest + reach)


def clip_to_fitted(
    rows: Float[np.ndarray, "rows p"], fitted: Float[np.ndarray, "fitted p"]
) -> Float[np.ndarray, "rows p"]:
    """Clip each feature of rows to `REACH` standard deviations beyond its range over the fitted rows."""
    return clip_to_range(rows, fitted.min(axis=0), fitted.max(axis=0), reach=REACH * fitted.std(axis=0))


class StandardisedRows(NamedTuple):
    """Rows standardised by their own mean and standard deviation, and their Gram matrix X'X/n."""

    mean: Float[np.ndarray, " p"]
    scale: Float[np.ndarray, " p"]
    standard: Float[np.ndarray, "rows p"]
    gram: Float[np.ndarray, "p p"]

    def apply(self, rows: Float[np.ndarray, "rows p"]) -> Float[np.ndarray, "rows p"]:
        """Return other rows standardised by these rows' statistics."""
        return (rows - self.mean) / self.scale

    def within(self, rows: Float[np.ndarray, "rows p"], *, reach: float = REACH) -> Float[np.ndarray, "rows p"]:
        """Return other rows standardised by these and clipped per feature to `reach` deviations beyond their range."""
        return clip_to_range(self.apply(rows), self.standard.min(axis=0), self.standard.max(axis=0), reach=reach)

    def cross(self, targets: Float[np.ndarray, "rows factors"]) -> Float[np.ndarray, "p factors"]:
        """Return X'Y/n."""
        return self.standard.T @ targets / len(self.standard)


def live_columns(rows: Float[np.ndarray, "rows p"]) -> Bool[np.ndarray, " p"]:
    """Return which columns vary by more than rounding."""
    return np.ptp(rows, axis=0) > 1e-9 * np.abs(rows).max(axis=0)


def varies_in_training(features: Float[np.ndarray, "*folds rows p"], split: Shaped[np.ndarray, "*folds rows"]) -> bool:
    """Return whether a feature varies on the training rows, of a cross-fit on those of every fold."""
    return all(bool(live_columns(of_fold[one == "train"]).any()) for of_fold, one in each_fold(features, split))


def moments_of(rows: Float[np.ndarray, "rows p"]) -> StandardisedRows:
    """Return the moments of rows, in float64; every column must vary."""
    wide = rows.astype(np.float64)
    mean, scale = wide.mean(axis=0), wide.std(axis=0)
    standard = (wide - mean) / scale
    return StandardisedRows(mean=mean, scale=scale, standard=standard, gram=standard.T @ standard / len(standard))


MIN_VARIANCE_SHARE = 1e-6
"""Variance within a subset relative to that over all rows below which a feature's products are summed directly."""
DUPLICATE_CORRELATION = 1 - 1e-12
"""Absolute correlation above which a feature counts as a copy of an earlier one."""
MAX_SPARSE_PRODUCT_DENSITY = 0.05
"""Maximum density of nonzero values at which products are summed over these values only (measured)."""
MAX_SPARSE_COLUMN_DENSITY = 0.2
"""Maximum density of nonzero values at which rows are also kept as sparse columns, for `sparse_descent`.

With these 1,600 rows of 2,048 latents took 0.27, 0.42 and 0.83 of the time at 5, 10 and 20 %, 800 of 1,024 took
0.96 at 20 % and 1.5 at 30 % (48 and 64 targets, one thread).
"""
MAX_NONZERO_RATIO = 0.16
"""Maximum number of nonzero values per column divided by the number of columns, for the same purpose.

A sweep costs the nonzero values of all columns, the other solvers the square of the columns: 1,280 rows took 0.70,
0.91 and 1.5 of the time at 0.05, 0.13 and 0.25 (2, 5 and 10 % of 512 latents), 0.52 and 0.89 at 0.06 and 0.13 (of
1,024).
"""


class GramSubset(NamedTuple):
    """A subset of rows: its mask, mean, standard deviation, and X'X/n of the rows standardised by these.

    Mean and deviation are in units of the rows of `Gramian`. Features that are constant in the subset, or that copy an
    earlier one in it (latents that fire on the same single row), have a row of zeros: they get no weight, and
    predictions stay the same.
    """

    inside: Bool[np.ndarray, " rows"]
    mean: Float[np.ndarray, " p"]
    scale: Float[np.ndarray, " p"]
    gram: Float[np.ndarray, "p p"]


class Gramian:
    """Standardised rows and the Gram matrix of any subset of them."""

    def __init__(self, features: Float[np.ndarray, "rows p"]) -> None:
        """Standardise rows in float64; every column must vary."""
        wide = features.astype(np.float64)
        mean, scale = wide.mean(axis=0), wide.std(axis=0)
        self.mean: Float[np.ndarray, " p"] = mean
        self.scale: Float[np.ndarray, " p"] = scale
        self.rows: Float[np.ndarray, "rows p"] = (wide - mean) / scale
        # with a mean far above the deviation, products before centring would lose precision
        self.share = np.count_nonzero(wide) / wide.size if (np.abs(mean) <= 100 * scale).all() else 1.0
        swept = self.share <= MAX_SPARSE_COLUMN_DENSITY and self.share * len(wide) <= MAX_NONZERO_RATIO * wide.shape[1]
        self._zero = wide == 0 if swept else None
        self.total: Float[np.ndarray, "p p"] = (
            _squares(wide / scale, mean / scale) if self.share <= MAX_SPARSE_PRODUCT_DENSITY else _product(self.rows)
        )

    def apply(self, features: Float[np.ndarray, "others p"]) -> Float[np.ndarray, "others p"]:
        """Return other rows in the units of these."""
        return (features - self.mean) / self.scale

    def moments(self, inside: Bool[np.ndarray, " rows"]) -> GramSubset:
        """Return the moments of the rows in `inside`, at least one."""
        n = int(inside.sum())
        chosen = self.rows[inside]
        if 2 * n > len(inside):
            gram = self.total.copy() if n == len(inside) else self.total - _product(self.rows[~inside])
        else:
            gram = _product(chosen)
        mean = chosen.mean(axis=0)
        gram /= n
        gram -= np.outer(mean, mean)
        live = live_columns(chosen)
        weak = np.flatnonzero(live & (gram.diagonal() < MIN_VARIANCE_SHARE))
        if len(weak):
            afresh = (chosen - mean).T @ (chosen[:, weak] - mean[weak]) / n
            gram[:, weak] = afresh
            gram[weak] = afresh.T
        scale = np.sqrt(np.where(live, gram.diagonal(), 1))
        gram /= scale
        gram /= scale[:, None]
        silent = ~live | np.triu(np.abs(gram) > DUPLICATE_CORRELATION, 1).any(axis=0)
        gram[silent] = 0
        gram[:, silent] = 0
        return GramSubset(inside, mean, scale, gram)

    def within(
        self, moments: GramSubset, rows: Float[np.ndarray, "others p"], *, reach: float | None
    ) -> Float[np.ndarray, "others p"]:
        """Standardise rows (in units of these) by a subset, clipped per feature to `reach` deviations beyond its range.

        With `reach=None` rows are not clipped.
        """
        standard = (rows - moments.mean) / moments.scale
        if reach is None:
            return standard
        inside = self.rows[moments.inside]
        lowest, highest = ((edge - moments.mean) / moments.scale for edge in (inside.min(axis=0), inside.max(axis=0)))
        return clip_to_range(standard, lowest, highest, reach=reach)

    def columns(self, moments: GramSubset) -> SparseColumns | None:
        """Return the rows of a subset as sparse columns, or None if they are not sparse."""
        if self._zero is None:
            return None
        shift = self.mean / self.scale
        uncentred = self.rows[moments.inside] + shift
        uncentred[self._zero[moments.inside]] = 0
        silent = moments.gram.diagonal() == 0
        return make_sparse_columns(uncentred / moments.scale, (moments.mean + shift) / moments.scale, silent)

    def cross(
        self, moments: GramSubset, targets: Float[np.ndarray, "inside targets"]
    ) -> Float[np.ndarray, "targets p"]:
        """Return X'Y/n, transposed, for centred targets on the rows of a subset."""
        silent = moments.gram.diagonal() == 0
        crossed = targets.T @ self.rows[moments.inside] / (len(targets) * moments.scale)
        crossed[:, silent] = 0
        return crossed


def _squares(scaled: Float[np.ndarray, "rows p"], shift: Float[np.ndarray, " p"]) -> Float[np.ndarray, "p p"]:
    """Return the sum of products of the standardised rows from the nonzero values before centring."""
    gram = _sparse_product(scaled)
    gram -= len(scaled) * np.outer(shift, shift)
    return gram


def _product(rows: Float[np.ndarray, "rows p"]) -> Float[np.ndarray, "p p"]:
    return rows.T @ rows


@numba.njit(cache=True, nogil=True)
def _sparse_product(rows: Float[np.ndarray, "rows p"]) -> Float[np.ndarray, "p p"]:
    gram = np.zeros((rows.shape[1], rows.shape[1]))
    for row in rows:
        on = np.flatnonzero(row)
        for i in on:
            for j in on:
                gram[i, j] += row[i] * row[j]
    return gram
