"""Coordinate descent for the LASSO of many targets on sparse columns.

A sweep minimises over one feature after the other (Friedman, Hastie and Tibshirani, J. Stat. Softw.
33(1), 2010) and reads each nonzero value twice, for any number of targets. Every `ANDERSON_DEPTH`
sweeps the weights are combined so that the changes of the last sweeps cancel best (Anderson
acceleration of coordinate descent; Bertrand and Massias, AISTATS 2021), and a target keeps the
combination if its objective is lower. A target is done once its duality gap over all features is small
enough, and abandoned if its gap falls too slowly to get there.

Standardised sparse matrix in column format (CSC); centring is kept separate so that zeros stay zeros.

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

from otoscope.linear.lasso_path import gap_share


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


ANDERSON_DEPTH = 5
"""Number of sweeps that are combined."""
SWEEPS_PER_GAP = 10
"""Sweeps between two evaluations of the gaps; a multiple of `ANDERSON_DEPTH`."""
MAX_VALUES_READ = 64_000_000
"""Maximum number of values read per target: about the cost of factorising its active set (measured)."""
ANDERSON_RIDGE = 1e-12
"""Ridge added to the matrices of products of changes, whose traces are 1."""
PACE_CHECKS = 4
"""Number of times that the rate of convergence of a target is checked."""


class SparseProblems(NamedTuple):
    """Centred targets divided by sqrt(n), X'y/n, y'y/n and the penalty; one column (entry) per target."""

    targets: Float[np.ndarray, "rows targets"]
    cross: Float[np.ndarray, "p targets"]
    square: Float[np.ndarray, " targets"]
    alpha: Float[np.ndarray, " targets"]

    def select(self, kept: Bool[np.ndarray, " targets"]) -> "SparseProblems":
        """Return the problems of the targets in `kept`."""
        return SparseProblems(*(np.ascontiguousarray(field[..., kept]) for field in self))


def solve_sparse(
    columns: SparseColumns, problems: SparseProblems, start: Float[np.ndarray, "p targets"], tolerance: float
) -> tuple[Float[np.ndarray, "p targets"], Float[np.ndarray, " targets"]]:
    """Return weights and their relative duality gaps; gaps exceed `tolerance` where sweeps would take too long."""
    found, gaps = start.copy(), np.full(start.shape[1], np.inf)
    going, weights, past = np.arange(len(gaps)), start.copy(), np.full(len(gaps), np.nan)
    residual = compute_residual(columns, problems.targets, weights)
    looks = max(MAX_VALUES_READ // max(len(columns.values), 1) // SWEEPS_PER_GAP // PACE_CHECKS, 1) * PACE_CHECKS
    for look in range(1, looks + 1):
        for _ in range(SWEEPS_PER_GAP // ANDERSON_DEPTH):
            weights, residual = _round(columns, problems, weights, residual)
        now = np.empty(len(going))
        _gaps(columns, problems, weights, residual, now)
        done = (now <= tolerance) | (look == looks)
        if look * PACE_CHECKS % looks == 0:
            quarter = look * PACE_CHECKS // looks
            with np.errstate(invalid="ignore"):
                reached = now * (now / past) ** (PACE_CHECKS - quarter)
            done |= reached > tolerance
            past = now
        if done.any():
            found[:, going[done]], gaps[going[done]] = weights[:, done], now[done]
            kept = ~done
            going, past, problems = going[kept], past[kept], problems.select(kept)
            weights = np.ascontiguousarray(weights[:, kept])
            residual = Residual(np.ascontiguousarray(residual.rest[:, kept]), residual.shift[kept])
        if not len(going):
            break
    return found, gaps


def _round(
    columns: SparseColumns, problems: SparseProblems, weights: Float[np.ndarray, "p targets"], residual: Residual
) -> tuple[Float[np.ndarray, "p targets"], Residual]:
    """Sweep `ANDERSON_DEPTH` times, then combine; `weights` and `residual` are overwritten."""
    history = np.empty((ANDERSON_DEPTH + 1, *weights.shape))
    history[0] = weights
    for turn in range(ANDERSON_DEPTH):
        sweep(columns, residual.rest, residual.shift, weights, problems.alpha)
        history[turn + 1] = weights
    mixed = np.empty_like(weights)
    _mix(history, _shares(history), mixed)
    there = compute_residual(columns, problems.targets, mixed)
    better = _objectives(there, mixed, problems.alpha) < _objectives(residual, weights, problems.alpha)
    if better.all():
        return mixed, there
    _choose(better, mixed, weights)
    _choose(better, there.rest, residual.rest)
    return weights, Residual(residual.rest, np.where(better, there.shift, residual.shift))


def _shares(history: Float[np.ndarray, "states p targets"]) -> Float[np.ndarray, "targets changes"]:
    """Return the shares, summing to 1, whose combination of the changes is smallest."""
    products = np.zeros((history.shape[2], ANDERSON_DEPTH, ANDERSON_DEPTH))
    _products(history, products)
    whole = np.trace(products, axis1=1, axis2=2)
    products /= np.where(whole > 0, whole, 1)[:, None, None]
    products += ANDERSON_RIDGE * np.eye(ANDERSON_DEPTH)
    shares = np.linalg.solve(products, np.ones((len(whole), ANDERSON_DEPTH, 1)))[:, :, 0]
    return shares / shares.sum(axis=1, keepdims=True)


def _objectives(
    residual: Residual, weights: Float[np.ndarray, "p targets"], alpha: Float[np.ndarray, " targets"]
) -> Float[np.ndarray, " targets"]:
    square = np.einsum("rt,rt->t", residual.rest, residual.rest) - residual.shift**2
    return 0.5 * square + alpha * np.abs(weights).sum(axis=0)


@numba.njit(cache=True, nogil=True, fastmath=True)
def sweep(
    columns: SparseColumns,
    rest: Float[np.ndarray, "rows targets"],
    shift: Float[np.ndarray, " targets"],
    weights: Float[np.ndarray, "p targets"],
    alpha: Float[np.ndarray, " targets"],
) -> None:
    """Minimise over one feature after another, in place."""
    values, rows, starts, mean = columns.values, columns.rows, columns.starts, columns.mean
    steps = np.empty(len(alpha))
    for j in range(len(mean)):
        first, stop, weight = starts[j], starts[j + 1], weights[j]
        if first == stop:
            continue
        for t in range(len(alpha)):
            steps[t] = mean[j] * shift[t] + weight[t]
        add_product(values, rows, first, stop, rest, steps)
        moved = 0.0
        for t in range(len(alpha)):
            new = max(steps[t] - alpha[t], 0.0) + min(steps[t] + alpha[t], 0.0)
            steps[t] = new - weight[t]
            weight[t] = new
            moved += abs(steps[t])
        if moved > 0.0:
            for t in range(len(alpha)):
                shift[t] += mean[j] * steps[t]
            subtract_column(values, rows, first, stop, steps, rest)


@numba.njit(cache=True, nogil=True, fastmath=True)
def _gaps(
    columns: SparseColumns,
    problems: SparseProblems,
    weights: Float[np.ndarray, "p targets"],
    residual: Residual,
    gaps: Float[np.ndarray, " targets"],
) -> None:
    """Write the relative duality gap of each target."""
    values, rows, starts, mean = columns.values, columns.rows, columns.starts, columns.mean
    rest, shift, alpha = residual.rest, residual.shift, problems.alpha
    count = len(alpha)
    slope, steepest, norm, explained, square = np.zeros((5, count))
    for i in range(len(rest)):
        row = rest[i]
        for t in range(count):
            square[t] += row[t] * row[t]
    for j in range(len(mean)):
        weight, cross = weights[j], problems.cross[j]
        for t in range(count):
            slope[t] = mean[j] * shift[t]
        add_product(values, rows, starts[j], starts[j + 1], rest, slope)
        for t in range(count):
            steepest[t] = max(steepest[t], abs(slope[t]))
            norm[t] += abs(weight[t])
            explained[t] += weight[t] * cross[t]
    for t in range(count):
        left = max(square[t] - shift[t] ** 2, 0.0)
        gaps[t] = gap_share(left, problems.square[t] - explained[t], norm[t], steepest[t], alpha[t])


@numba.njit(cache=True, nogil=True, fastmath=True)
def _products(history: Float[np.ndarray, "states p targets"], products: Float[np.ndarray, "targets a b"]) -> None:
    changes, p, count = history.shape[0] - 1, history.shape[1], history.shape[2]
    sums, steps = np.zeros((changes, changes, count)), np.empty((changes, count))
    for j in range(p):
        for a in range(changes):
            step, before, after = steps[a], history[a, j], history[a + 1, j]
            for t in range(count):
                step[t] = after[t] - before[t]
        for a in range(changes):
            for b in range(a + 1):
                left, right, total = steps[a], steps[b], sums[a, b]
                for t in range(count):
                    total[t] += left[t] * right[t]
    for a in range(changes):
        for b in range(a + 1):
            for t in range(count):
                products[t, a, b] = sums[a, b, t]
                products[t, b, a] = sums[a, b, t]


@numba.njit(cache=True, nogil=True, fastmath=True)
def _mix(
    history: Float[np.ndarray, "states p targets"],
    shares: Float[np.ndarray, "targets changes"],
    mixed: Float[np.ndarray, "p targets"],
) -> None:
    across = np.ascontiguousarray(shares.T)
    for j in range(history.shape[1]):
        mixture = mixed[j]
        mixture[:] = 0.0
        for a in range(len(across)):
            share, after = across[a], history[a + 1, j]
            for t in range(len(mixture)):
                mixture[t] += share[t] * after[t]


@numba.njit(cache=True, nogil=True)
def _choose(
    better: Bool[np.ndarray, " targets"], new: Float[np.ndarray, "any targets"], kept: Float[np.ndarray, "any targets"]
) -> None:
    """Overwrite the targets that improved."""
    for j in range(len(kept)):
        for t in range(len(better)):
            if better[t]:
                kept[j, t] = new[j, t]
