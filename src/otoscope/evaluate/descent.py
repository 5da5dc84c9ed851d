"""LASSO on a Gram matrix that many targets share: coordinate descent finds the features, Newton solves for them.

Minimises 1/(2n) |y - Xw|^2 + alpha |w|_1 (scikit-learn's objective) from G = X'X/n, c = X'y/n and
y'y/n alone, so that X is read once for any number of targets and penalties (covariance updates;
Friedman, Hastie and Tibshirani, J. Stat. Softw. 33(1), 2010). Each penalty starts from the solution
of the one before, moved along the path: with signs s on the features that carry weight, the path is
linear in alpha with slope -G^-1 s (Efron et al., Annals of Statistics 32(2), 2004). Then sweeps of
coordinate descent, which let features in and out, alternate with Newton steps on the features that
carry weight, which would take coordinate descent thousands of sweeps near interpolation; a Newton
step is walked only as far as the objective falls, and a weight that reaches zero on the way stays
there. Every move lowers the objective. A solution counts once its duality gap, over all features,
is below `tolerance` times its objective; that bounds how far the objective is from the least.
"""

from typing import NamedTuple

import numba
import numpy as np
from jaxtyping import Float, Int

from otoscope.evaluate.blas import ROUTINES
from otoscope.evaluate.support import NONE, empty_support, update
from otoscope.evaluate.walks import ROUNDING, State, follow, newton, shed, subtract_rows

ROUNDS = 1_000
"""Most Newton steps for one penalty; the returned gap tells when they were not enough."""
SWEEPS = 2
"""Sweeps of coordinate descent before each Newton step: fewer let in too much, more take longer than the step."""


class Path(NamedTuple):
    """Solutions for falling penalties, and the duality gap of each as a share of its objective."""

    weights: Float[np.ndarray, "alphas p"]
    gaps: Float[np.ndarray, " alphas"]


def path(
    gram: Float[np.ndarray, "p p"],
    target: Float[np.ndarray, " p"],
    target_square: float,
    alphas: Float[np.ndarray, " alphas"],
    tolerance: float,
    *,
    start: Float[np.ndarray, " p"] | None = None,
    rank: int | None = None,
) -> Path:
    """Return the solutions for falling penalties.

    Args:
        gram: X'X/n, row-major float64.
        target: X'y/n.
        target_square: y'y/n.
        alphas: penalties, largest first.
        tolerance: largest duality gap as a share of the objective.
        start: weights to begin from; zeros if absent.
        rank: at most so many features are solved for at once (rows less one); any number if absent.
    """
    weights = np.zeros(len(target)) if start is None else start.astype(np.float64)
    most = len(target) if rank is None else min(rank, len(target))
    found, gaps = _path(ROUTINES, gram, target, target_square, alphas, tolerance, weights, max(most, 1))
    return Path(found, gaps)


@numba.njit(cache=True, nogil=True)
def _path(
    routines: Int[np.ndarray, " routines"],
    gram: Float[np.ndarray, "p p"],
    target: Float[np.ndarray, " p"],
    target_square: float,
    alphas: Float[np.ndarray, " alphas"],
    tolerance: float,
    weights: Float[np.ndarray, " p"],
    most: int,
) -> tuple[Float[np.ndarray, "alphas p"], Float[np.ndarray, " alphas"]]:
    state = State(weights, target.copy(), empty_support(most))
    subtract_rows(gram, np.flatnonzero(weights), weights[weights != 0.0], state.slope)
    found, gaps = np.empty((len(alphas), len(target))), np.empty(len(alphas))
    for a in range(len(alphas)):
        if a > 0:
            follow(routines, gram, alphas[a - 1] - alphas[a], state)
        gaps[a] = _solve_at(routines, gram, target, target_square, alphas[a], tolerance, state)
        found[a] = weights
    return found, gaps


@numba.njit(cache=True, nogil=True)
def _solve_at(
    routines: Int[np.ndarray, " routines"],
    gram: Float[np.ndarray, "p p"],
    target: Float[np.ndarray, " p"],
    target_square: float,
    alpha: float,
    tolerance: float,
    state: State,
) -> float:
    """Solve for one penalty from weights near the solution, in place; return the relative duality gap."""
    weights, slope, support = state.weights, state.slope, state.support
    gap = relative_gap(weights, target, slope, target_square, alpha)
    for turn in range(ROUNDS):
        if gap <= tolerance:
            break
        for _ in range(SWEEPS):
            _sweep(gram, weights, slope, alpha)
        gap = relative_gap(weights, target, slope, target_square, alpha)
        if gap <= tolerance:
            break
        if turn == 0:
            support.size[0] = 0
        determined = update(routines, gram, weights, support)
        while determined != NONE:
            shed(routines, gram, determined, state)
            determined = update(routines, gram, weights, support)
        if support.size[0] > 0:
            newton(routines, gram, alpha, state)
            gap = relative_gap(weights, target, slope, target_square, alpha)
    return gap


@numba.njit(cache=True, nogil=True, fastmath=True)
def _sweep(
    gram: Float[np.ndarray, "p p"], weights: Float[np.ndarray, " p"], slope: Float[np.ndarray, " p"], alpha: float
) -> None:
    """Minimise over one feature after the other; `slope` is kept up to date."""
    for j in range(len(weights)):
        old = weights[j]
        if old == 0.0 and abs(slope[j]) <= alpha + ROUNDING:
            continue
        curvature = gram[j, j]
        z = slope[j] + curvature * old
        if z > alpha:
            new = (z - alpha) / curvature
        elif z < -alpha:
            new = (z + alpha) / curvature
        else:
            new = 0.0
        step = new - old
        if step != 0.0:
            weights[j] = new
            row = gram[j]
            for i in range(len(weights)):
                slope[i] -= step * row[i]


@numba.njit(cache=True, nogil=True)
def relative_gap(
    weights: Float[np.ndarray, " p"],
    target: Float[np.ndarray, " p"],
    slope: Float[np.ndarray, " p"],
    target_square: float,
    alpha: float,
) -> float:
    """Return the duality gap as a share of the objective; `slope` is c - Gw."""
    fitted = 0.0
    norm = 0.0
    steepest = 0.0
    residual_dot_target = target_square
    for j in range(len(weights)):
        fitted += weights[j] * (target[j] + slope[j])
        residual_dot_target -= weights[j] * target[j]
        norm += abs(weights[j])
        steepest = max(steepest, abs(slope[j]))
    residual_square = max(target_square - fitted, 0.0)
    return gap_share(residual_square, residual_dot_target, norm, steepest, alpha)


@numba.njit(cache=True, nogil=True)
def gap_share(residual_square: float, residual_dot_target: float, norm: float, steepest: float, alpha: float) -> float:
    """Return the duality gap as a share of the objective, from sums over all features.

    `norm` is that of the weights, `steepest` the largest absolute slope.
    """
    objective = 0.5 * residual_square + alpha * norm
    # the residual, shrunk until it is feasible for the dual problem
    scale = 1.0 if steepest <= alpha else alpha / steepest
    dual = scale * residual_dot_target - 0.5 * scale * scale * residual_square
    return (objective - dual) / objective if objective > 0.0 else 0.0
