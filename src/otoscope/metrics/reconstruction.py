"""Reconstruction quality of an SAE, and activity of its latents.

Explained variance is relative to the mean of the training rows, so that a constant prediction scores 0 or less and an
offset of the rows cannot inflate it: 1 - sum |x - xhat|^2 / sum |x - mean_train|^2.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from numpy.typing import NDArray

from otoscope.errors import EvaluationError
from otoscope.resampling.intervals import Interval, jackknife_sums, leave_one_out

# columns of the sums per group
ROWS, ERROR, SPREAD, COSINE, FIRED = range(5)

ALWAYS_ON = 0.99
"""Share of active rows from which a latent counts as always on."""

# bounds of explained variance, MSE, cosine and L0
LEAST, MOST = (-np.inf, 0.0, -1.0, 0.0), (1.0, np.inf, 1.0, np.inf)


class Reconstruction(NamedTuple):
    """Figures of one SAE on one set of rows.

    `mse` is the mean over rows and width; `cosine` the mean over rows, 0 if a row or its reconstruction has norm zero;
    `l0` the mean number of non-zero latents per row; `dead_fraction` the share of latents active on no row,
    `always_on_fraction` on at least 99 % of the rows.
    """

    explained_variance: Interval
    mse: Interval
    cosine: Interval
    l0: Interval
    dead_fraction: float
    always_on_fraction: float
    rows: int
    groups: int


class ReconstructionMeter:
    """Accumulator over batches of rows; memory depends on width, latents and groups, not on rows.

    Args:
        mean_train: mean of the training rows, `[width]`, in the encoder's units.
    """

    def __init__(self, mean_train: Float[np.ndarray, " width"]) -> None:
        self._mean = np.asarray(mean_train, dtype=np.float64)
        self._sums: dict[str, NDArray[Any]] = {}
        self._firing: Int[np.ndarray, " latents"] | None = None

    def update(
        self,
        rows: Float[np.ndarray, "rows width"],
        reconstructed: Float[np.ndarray, "rows width"],
        codes: Float[np.ndarray, "rows latents"],
        groups: Shaped[np.ndarray, " rows"],
    ) -> None:
        """Add a batch of rows, their reconstruction, their codes and each row's group.

        Raises `EvaluationError` for inconsistent shapes or non-finite values.
        """
        self._check(rows, reconstructed, codes, groups)
        x, xhat = rows.astype(np.float64), reconstructed.astype(np.float64)
        fires = codes != 0
        stats = np.empty((len(x), 5))
        stats[:, ROWS] = 1
        stats[:, ERROR] = _squares(x - xhat)
        stats[:, SPREAD] = _squares(x - self._mean)
        norms = np.sqrt(_squares(x) * _squares(xhat))
        dots = np.einsum("ij,ij->i", x, xhat)
        stats[:, COSINE] = np.divide(dots, norms, out=np.zeros_like(dots), where=norms > 0)
        stats[:, FIRED] = fires.sum(axis=1)
        firing = fires.sum(axis=0)
        self._firing = firing if self._firing is None else self._firing + firing
        for name, rows_of in _members(groups):
            self._sums[name] = self._sums.get(name, np.zeros(5)) + stats[rows_of].sum(axis=0)

    def result(self) -> Reconstruction:
        """Return the figures of all rows added; raise `EvaluationError` without rows."""
        if self._firing is None:
            raise EvaluationError("no rows were added; a reconstruction needs at least one")
        sums = self._group_sums()
        rows = int(sums[:, ROWS].sum())
        ends = np.clip(jackknife_sums(sums, self._figures), LEAST, MOST)
        intervals = [Interval(*(float(x) for x in each)) for each in ends.T]
        rate = self._firing / rows
        return Reconstruction(
            *intervals,
            dead_fraction=float(np.mean(self._firing == 0)),
            always_on_fraction=float(np.mean(rate >= ALWAYS_ON)),
            rows=rows,
            groups=len(sums),
        )

    def explained_without_groups(self) -> Float[np.ndarray, " groups"]:
        """Return explained variance without each group, in the order of their names."""
        return leave_one_out(self._group_sums(), self._figures)[1][:, 0]

    def _group_sums(self) -> Float[np.ndarray, "groups 5"]:
        # sorted, so that the order of batches does not change the interval
        return np.stack([self._sums[name] for name in sorted(self._sums)])

    def _figures(self, sums: Float[np.ndarray, "sets 5"]) -> Float[np.ndarray, "sets 4"]:
        spread, n = sums[:, SPREAD], sums[:, ROWS]
        unexplained = np.divide(sums[:, ERROR], spread, out=np.full(len(sums), np.nan), where=spread > 0)
        return np.stack(
            [1 - unexplained, sums[:, ERROR] / (n * len(self._mean)), sums[:, COSINE] / n, sums[:, FIRED] / n], axis=1
        )

    def _check(
        self,
        rows: NDArray[Any],
        reconstructed: NDArray[Any],
        codes: NDArray[Any],
        groups: NDArray[Any],
    ) -> None:
        if rows.shape != reconstructed.shape or rows.shape[1:] != self._mean.shape:
            raise EvaluationError(
                f"rows {rows.shape}, reconstruction {reconstructed.shape} and training mean {self._mean.shape} "
                "disagree; all three must share the width, the first two the rows"
            )
        if len(codes) != len(rows) or len(groups) != len(rows):
            raise EvaluationError(f"{len(rows)} rows but {len(codes)} codes and {len(groups)} groups; give one a row")
        if self._firing is not None and codes.shape[1] != len(self._firing):
            raise EvaluationError(f"codes of {codes.shape[1]} latents after codes of {len(self._firing)}")
        if not (np.isfinite(rows).all() and np.isfinite(reconstructed).all() and np.isfinite(codes).all()):
            raise EvaluationError("rows, reconstruction or codes hold NaN or infinity; mask such rows out first")


class ComponentsMeter:
    """Variance that the first principal components of the training rows explain, summed over batches of rows.

    No other k fixed dimensions explain more of the training rows: the reference for an SAE with k active latents.

    Args:
        mean_train: mean of the training rows, `[width]`, in the encoder's units.
        gram: sum of products of the training rows around that mean, `[width, width]`.
    """

    def __init__(self, mean_train: Float[np.ndarray, " width"], gram: Float[np.ndarray, "width width"]) -> None:
        self._mean, self._axes = mean_train, np.linalg.eigh(gram)[1][:, ::-1]
        self._sums: dict[str, Float[np.ndarray, " components"]] = {}
        self.rows = 0

    @property
    def groups(self) -> int:
        """Number of groups whose rows were added."""
        return len(self._sums)

    def update(self, rows: Float[np.ndarray, "rows width"], groups: Shaped[np.ndarray, " rows"]) -> None:
        """Add a batch of rows and each row's group."""
        squares = np.square((rows - self._mean) @ self._axes)
        self.rows += len(rows)
        for name, rows_of in _members(groups):
            self._sums[name] = self._sums.get(name, np.zeros(len(self._mean))) + squares[rows_of].sum(axis=0)

    def explained(self, components: int) -> Interval:
        """Return explained variance from the first components, with its interval over groups."""
        sums = np.stack([self._sums[name] for name in sorted(self._sums)])
        pairs = np.stack([sums[:, :components].sum(axis=1), sums.sum(axis=1)], axis=1)
        found = jackknife_sums(pairs, lambda part: part[..., 0] / part[..., 1])
        return Interval(*(float(x) for x in np.clip(found, 0.0, 1.0)))


def _squares(x: Float[np.ndarray, "rows width"]) -> Float[np.ndarray, " rows"]:
    return np.einsum("ij,ij->i", x, x)


def _members(groups: Shaped[np.ndarray, " rows"]) -> Iterator[tuple[str, Bool[np.ndarray, " rows"]]]:
    for name in np.unique(groups):
        yield str(name), groups == name
