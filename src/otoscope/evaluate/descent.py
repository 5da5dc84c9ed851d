"""Coordinate descent for the LASSO on a Gram matrix that many targets share.

Minimises 1/(2n) |y - Xw|^2 + alpha |w|_1 (scikit-learn's objective) from G = X'X/n, c = X'y/n and
y'y/n alone, so that X is read once for any number of targets and penalties (covariance updates;
Friedman, Hastie and Tibshirani, J. Stat. Softw. 33(1), 2010). Each penalty starts from the
solution of the one before and looks only at the coordinates that the sequential strong rule keeps
(Tibshirani et al., J. R. Stat. Soc. B 74, 2012); the optimality conditions of all others are
checked before a solution counts. A solution is accepted when its duality gap is below `tolerance`
times its objective.
"""

import numba
import numpy as np
from jaxtyping import Float, Int

SWEEPS = 20_000
"""Most passes over the kept coordinates for one penalty."""


@numba.njit(cache=True, nogil=True, fastmath=True)
def _sweep(
    gram: Float[np.ndarray, "kept kept"],
    weights: Float[np.ndarray, " kept"],
    slope: Float[np.ndarray, " kept"],
    alpha: float,
    only_active: bool,
) -> float:
    """One pass; `slope` is c - Gw and is kept up to date. Returns the largest fall of the objective."""
    largest = 0.0
    for j in range(len(weights)):
        old = weights[j]
        if only_active and old == 0.0:
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
            largest = max(largest, curvature * step * step)
    return largest


@numba.njit(cache=True, nogil=True)
def _gap_and_objective(
    weights: Float[np.ndarray, " kept"],
    target: Float[np.ndarray, " kept"],
    slope: Float[np.ndarray, " kept"],
    target_square: float,
    alpha: float,
) -> tuple[float, float]:
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
    objective = 0.5 * residual_square + alpha * norm
    # the residual, shrunk until it is feasible for the dual problem
    scale = 1.0 if steepest <= alpha else alpha / steepest
    dual = scale * residual_dot_target - 0.5 * scale * scale * residual_square
    return objective - dual, objective


@numba.njit(cache=True, nogil=True)
def _solve_kept(
    gram: Float[np.ndarray, "kept kept"],
    target: Float[np.ndarray, " kept"],
    target_square: float,
    alpha: float,
    weights: Float[np.ndarray, " kept"],
    slope: Float[np.ndarray, " kept"],
    tolerance: float,
) -> int:
    """Solve on the kept coordinates, in place; return the passes used."""
    passes = 0
    small = tolerance * target_square
    while passes < SWEEPS:
        _sweep(gram, weights, slope, alpha, False)
        passes += 1
        gap, objective = _gap_and_objective(weights, target, slope, target_square, alpha)
        if gap <= tolerance * objective:
            break
        for _ in range(10):
            passes += 1
            if _sweep(gram, weights, slope, alpha, True) < 0.01 * small * small:
                break
    return passes


@numba.njit(cache=True, nogil=True)
def descend(
    gram: Float[np.ndarray, "p p"],
    target: Float[np.ndarray, " p"],
    target_square: float,
    alpha: float,
    previous_alpha: float,
    weights: Float[np.ndarray, " p"],
    slope: Float[np.ndarray, " p"],
    tolerance: float,
) -> int:
    """Solve for one penalty from the solution of `previous_alpha`, in place; return the passes used.

    `weights` and `slope` = c - Gw must belong together on entry and do so on return.
    """
    p = len(weights)
    keep = np.empty(p, dtype=np.bool_)
    for j in range(p):
        keep[j] = weights[j] != 0.0 or abs(slope[j]) >= 2.0 * alpha - previous_alpha
    passes = 0
    while True:
        kept = np.flatnonzero(keep)
        block = np.empty((len(kept), len(kept)))
        for a in range(len(kept)):
            row = gram[kept[a]]
            for b in range(len(kept)):
                block[a, b] = row[kept[b]]
        part, part_slope = weights[kept], slope[kept]
        passes += _solve_kept(block, target[kept], target_square, alpha, part, part_slope, tolerance)
        _refresh(gram, target, kept, part, weights, slope)
        violated = 0
        for j in range(p):
            if not keep[j] and abs(slope[j]) > alpha:
                keep[j] = True
                violated += 1
        if violated == 0 or passes >= SWEEPS:
            return passes


@numba.njit(cache=True, nogil=True, fastmath=True)
def _refresh(
    gram: Float[np.ndarray, "p p"],
    target: Float[np.ndarray, " p"],
    kept: Int[np.ndarray, " kept"],
    part: Float[np.ndarray, " kept"],
    weights: Float[np.ndarray, " p"],
    slope: Float[np.ndarray, " p"],
) -> None:
    slope[:] = target
    for a in range(len(kept)):
        weights[kept[a]] = part[a]
        if part[a] != 0.0:
            row = gram[kept[a]]
            step = part[a]
            for i in range(len(slope)):
                slope[i] -= step * row[i]


@numba.njit(cache=True, nogil=True)
def path(
    gram: Float[np.ndarray, "p p"],
    target: Float[np.ndarray, " p"],
    target_square: float,
    alphas: Float[np.ndarray, " alphas"],
    tolerance: float,
) -> Float[np.ndarray, "alphas p"]:
    """Return the solutions for falling penalties."""
    weights = np.zeros(len(target))
    slope = target.copy()
    found = np.empty((len(alphas), len(target)))
    previous = np.abs(slope).max() if len(slope) else 0.0
    for a in range(len(alphas)):
        descend(gram, target, target_square, alphas[a], max(previous, alphas[a]), weights, slope, tolerance)
        found[a] = weights
        previous = alphas[a]
    return found


@numba.njit(cache=True, nogil=True)
def choose(
    gram: Float[np.ndarray, "p p"],
    target: Float[np.ndarray, " p"],
    alphas: Float[np.ndarray, " alphas"],
    valid_columns: Float[np.ndarray, "p valid"],
    valid_target: Float[np.ndarray, " valid"],
    patience: int,
    tolerance: float,
) -> tuple[int, float, Float[np.ndarray, " p"]]:
    """Return index, validation R2 and weights of the penalty that predicts the validation rows best.

    Targets are standardised on the rows of `gram` (so y'y/n is 1 and their mean, the guess that R2
    is relative to, is 0). Stops early when `patience` penalties in a row bring no better R2.
    """
    weights = np.zeros(len(target))
    slope = target.copy()
    best, best_score, best_weights = 0, -np.inf, weights.copy()
    spread = (valid_target * valid_target).sum()
    previous = alphas[0]
    for a in range(len(alphas)):
        descend(gram, target, 1.0, alphas[a], previous, weights, slope, tolerance)
        previous = alphas[a]
        error = valid_target.copy()
        for j in range(len(weights)):
            if weights[j] != 0.0:
                error -= weights[j] * valid_columns[j]
        score = 1.0 - (error * error).sum() / spread
        if score > best_score:
            best, best_score, best_weights = a, score, weights.copy()
        elif a - best >= patience:
            break
    return best, best_score, best_weights


@numba.njit(cache=True, nogil=True)
def resume(
    gram: Float[np.ndarray, "p p"],
    target: Float[np.ndarray, " p"],
    alpha: float,
    start: Float[np.ndarray, " p"],
    tolerance: float,
) -> Float[np.ndarray, " p"]:
    """Return the solution for one penalty and a standardised target, begun from weights close to it."""
    weights = start.copy()
    slope = np.empty(len(weights))
    support = np.flatnonzero(weights)
    _refresh(gram, target, support, weights[support], weights, slope)
    descend(gram, target, 1.0, alpha, alpha, weights, slope, tolerance)
    return weights
