"""LASSO path of one target on a shared Gram matrix: coordinate descent selects features, Newton steps solve for them.

Minimises 1/(2n) |y - Xw|^2 + alpha |w|_1 (scikit-learn's objective) from G = X'X/n, c = X'y/n and
y'y/n only, so that X is read once for any number of targets and penalties (covariance updates;
Friedman, Hastie and Tibshirani, J. Stat. Softw. 33(1), 2010). Each penalty starts from the solution
of the previous one, moved along the path: with signs s on the active features, the path is linear in
alpha with slope -G^-1 s (Efron et al., Annals of Statistics 32(2), 2004). Then sweeps of coordinate
descent, which add and remove features, alternate with Newton steps on the active features, which would
take coordinate descent thousands of sweeps near interpolation. A Newton step stops where the objective
stops falling, and a weight that reaches zero on the way stays zero. No step raises the objective, except
the step along the path, which prepares the next penalty. A solution is accepted once its duality gap, over
all features, is below `tolerance` times its objective, which bounds the excess over the minimum.
"""

from typing import NamedTuple

import numba
import numpy as np
from jaxtyping import Float, Int

from otoscope.linear.cholesky import (
    NO_FEATURE,
    ROUTINES,
    ActiveSet,
    Gram,
    PerFeature,
    Routines,
    all_nonzero,
    empty_active_set,
    solve,
    update_factor,
)

ROUNDING = 1e-13
"""Excess of a slope over the penalty required to add a feature; copies of active features are at the penalty."""


class PathState(NamedTuple):
    """State of the solver; `slope` is c - Gw."""

    weights: PerFeature
    slope: PerFeature
    support: ActiveSet


@numba.njit(cache=True, nogil=True)
def path_step(routines: Routines, gram: Gram, fall: float, state: PathState) -> None:
    """Move along the path as the penalty falls by `fall`; a weight that would change sign becomes zero."""
    weights, support = state.weights, state.support
    if not all_nonzero(weights, support):
        return
    chosen = support.order[: support.size[0]]
    step = np.empty(len(chosen))
    for i in range(len(chosen)):
        step[i] = np.sign(weights[chosen[i]])
    solve(routines, support.factor, len(chosen), step)
    for i in range(len(chosen)):
        old = weights[chosen[i]]
        new = old + fall * step[i]
        weights[chosen[i]] = new if new * old > 0.0 else 0.0
        step[i] = weights[chosen[i]] - old
    subtract_rows(gram, chosen, step, state.slope)


@numba.njit(cache=True, nogil=True)
def drop_dependent(routines: Routines, gram: Gram, feature: int, state: PathState) -> None:
    """Move along a null direction of the Gram matrix until a coefficient reaches zero; predictions do not change.

    `feature` is determined by the active features. The sum of absolute weights does not rise.
    """
    weights, support = state.weights, state.support
    active = support.size[0]
    chosen, trade = np.empty(active + 1, np.int64), np.empty(active + 1)
    for i in range(active):
        chosen[i], trade[i] = support.order[i], gram[feature, support.order[i]]
    chosen[active] = feature
    solve(routines, support.factor, active, trade)
    trade[active] = -1.0
    rise, sign = 0.0, -1.0 if weights[feature] < 0.0 else 1.0
    for i in range(len(chosen)):
        trade[i] *= sign
        rise += trade[i] * np.sign(weights[chosen[i]])
    # rounding must not reverse the direction in which the feature's own weight reaches zero
    if rise > ROUNDING:
        for i in range(len(chosen)):
            trade[i] = -trade[i]
    first, length = len(chosen) - 1, np.inf
    for i in range(len(chosen)):
        if weights[chosen[i]] * trade[i] < 0.0 and -weights[chosen[i]] / trade[i] < length:
            first, length = i, -weights[chosen[i]] / trade[i]
    for i in range(len(chosen)):
        trade[i] = trade[i] * length if length < np.inf else 0.0
    trade[first] = -weights[chosen[first]]
    for i in range(len(chosen)):
        weights[chosen[i]] += trade[i]
    weights[chosen[first]] = 0.0
    subtract_rows(gram, chosen, trade, state.slope)


@numba.njit(cache=True, nogil=True)
def newton_step(routines: Routines, gram: Gram, alpha: float, state: PathState) -> None:
    """Step towards the minimum on the active features with fixed signs, as far as the objective falls.

    Where a weight reaches zero, the step continues without that feature. Between these points the objective is a
    parabola, so its minimum along the whole step is exact.
    """
    weights, slope, support = state.weights, state.slope, state.support
    chosen = support.order[: support.size[0]]
    signs, step, back, ends = np.empty(len(chosen)), np.empty(len(chosen)), np.empty(len(chosen)), np.empty(len(chosen))
    for i in range(len(chosen)):
        signs[i] = np.sign(weights[chosen[i]])
        step[i] = slope[chosen[i]] - alpha * signs[i]
    solve(routines, support.factor, len(chosen), step)
    for i in range(len(chosen)):
        back[i] = -step[i]
        turns = (weights[chosen[i]] + step[i]) * weights[chosen[i]] <= 0.0
        ends[i] = -weights[chosen[i]] / step[i] if turns else np.inf
    curve = np.zeros(len(slope))
    subtract_rows(gram, chosen, back, curve)
    bends = np.argsort(ends, kind="mergesort")
    here = 0.0
    for b in range(len(chosen) + 1):
        descent, bow = 0.0, 0.0
        for i in range(len(chosen)):
            descent += step[i] * (slope[chosen[i]] - alpha * signs[i])
            bow += step[i] * curve[chosen[i]]
        if descent <= 0.0 or bow <= 0.0:
            return
        end = min(ends[bends[b]], 1.0) if b < len(chosen) else 1.0
        least = here + descent / bow
        length = min(least, end) - here
        for i in range(len(chosen)):
            weights[chosen[i]] += length * step[i]
        for i in range(len(slope)):
            slope[i] -= length * curve[i]
        here += length
        if least <= end or end == 1.0:
            return
        leaving = bends[b]
        gone, pace = weights[chosen[leaving]], step[leaving]
        weights[chosen[leaving]], step[leaving] = 0.0, 0.0
        row = gram[chosen[leaving]]
        for i in range(len(slope)):
            slope[i] += gone * row[i]
            curve[i] -= pace * row[i]


@numba.njit(cache=True, nogil=True, fastmath=True)
def subtract_rows(
    gram: Gram, chosen: Int[np.ndarray, " chosen"], steps: Float[np.ndarray, " chosen"], slope: PerFeature
) -> None:
    """Update the slope after the weights of `chosen` grew by `steps`."""
    for a in range(len(chosen)):
        step = steps[a]
        if step != 0.0:
            row = gram[chosen[a]]
            for i in range(len(slope)):
                slope[i] -= step * row[i]


MAX_NEWTON_STEPS = 1_000
"""Maximum number of Newton steps per penalty; a larger returned gap shows that they were not enough."""
SWEEPS_PER_NEWTON_STEP = 2
"""Coordinate descent sweeps before each Newton step: fewer add too many features, more cost more than the step."""


class LassoPath(NamedTuple):
    """Solutions for falling penalties, and the relative duality gap of each."""

    weights: Float[np.ndarray, "alphas p"]
    gaps: Float[np.ndarray, " alphas"]


def solve_path(
    gram: Gram,
    target: PerFeature,
    target_square: float,
    alphas: Float[np.ndarray, " alphas"],
    tolerance: float,
    *,
    start: PerFeature | None = None,
    rank: int | None = None,
) -> LassoPath:
    """Return the solutions for falling penalties.

    Args:
        gram: X'X/n, row-major float64.
        target: X'y/n.
        target_square: y'y/n.
        alphas: penalties, largest first.
        tolerance: maximum duality gap relative to the objective.
        start: initial weights; zeros if absent.
        rank: maximum number of active features (rows - 1); unlimited if absent.
    """
    weights = np.zeros(len(target)) if start is None else start.astype(np.float64)
    most = len(target) if rank is None else min(rank, len(target))
    found, gaps = _path(ROUTINES, gram, target, target_square, alphas, tolerance, weights, max(most, 1))
    return LassoPath(found, gaps)


@numba.njit(cache=True, nogil=True)
def _path(
    routines: Routines,
    gram: Gram,
    target: PerFeature,
    target_square: float,
    alphas: Float[np.ndarray, " alphas"],
    tolerance: float,
    weights: PerFeature,
    most: int,
) -> tuple[Float[np.ndarray, "alphas p"], Float[np.ndarray, " alphas"]]:
    state = PathState(weights, target.copy(), empty_active_set(most))
    subtract_rows(gram, np.arange(len(weights)), weights, state.slope)
    found, gaps = np.empty((len(alphas), len(target))), np.empty(len(alphas))
    for a in range(len(alphas)):
        if a > 0:
            path_step(routines, gram, alphas[a - 1] - alphas[a], state)
        gaps[a] = _solve_at(routines, gram, target, target_square, alphas[a], tolerance, state)
        for i in range(len(weights)):
            found[a, i] = weights[i]
    return found, gaps


@numba.njit(cache=True, nogil=True)
def _solve_at(
    routines: Routines,
    gram: Gram,
    target: PerFeature,
    target_square: float,
    alpha: float,
    tolerance: float,
    state: PathState,
) -> float:
    """Solve for one penalty from weights near the solution, in place; return the relative duality gap."""
    weights, slope, support = state.weights, state.slope, state.support
    gap = relative_gap(weights, target, slope, target_square, alpha)
    for turn in range(MAX_NEWTON_STEPS):
        if gap <= tolerance:
            break
        for _ in range(SWEEPS_PER_NEWTON_STEP):
            _sweep(gram, weights, slope, alpha)
        gap = relative_gap(weights, target, slope, target_square, alpha)
        if gap <= tolerance:
            break
        if turn == 0:
            support.size[0] = 0
        determined = update_factor(routines, gram, weights, support)
        while determined != NO_FEATURE:
            drop_dependent(routines, gram, determined, state)
            determined = update_factor(routines, gram, weights, support)
        if support.size[0] > 0:
            newton_step(routines, gram, alpha, state)
            gap = relative_gap(weights, target, slope, target_square, alpha)
    return gap


@numba.njit(cache=True, nogil=True, fastmath=True)
def _sweep(gram: Gram, weights: PerFeature, slope: PerFeature, alpha: float) -> None:
    """Minimise over one feature after another, updating `slope`."""
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
    weights: PerFeature, target: PerFeature, slope: PerFeature, target_square: float, alpha: float
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
