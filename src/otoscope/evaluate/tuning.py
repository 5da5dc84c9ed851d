"""A LASSO with its penalty chosen on other groups, for many targets over the same rows of features.

The Gram matrices are computed once and shared by all targets. Per target and fold the whole path of
penalties is fitted on the rows outside the fold, standardised by these rows alone, and scored on
the fold; the penalty with the best R2 over all folds together is then fitted to all rows.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from otoscope.evaluate import descent
from otoscope.evaluate.gramian import Gramian, Moments

CHUNK = 4
"""Penalties fitted between two looks at whether smaller ones still promise anything."""


class Grid(NamedTuple):
    """Penalties to try and how exactly to solve; see `otoscope.evaluate.lasso.LassoSettings`."""

    fall: Float[np.ndarray, " alphas"]
    patience: int | None
    choice_tolerance: float
    tolerance: float


class Tuned(NamedTuple):
    """What was chosen for each target; `weights` are in standard deviations of target over feature.

    `gap` is the largest relative duality gap of all problems solved for the target.
    """

    alpha: Float[np.ndarray, " targets"]
    score: Float[np.ndarray, " targets"]
    weights: Float[np.ndarray, "targets p"]
    gap: Float[np.ndarray, " targets"]


class Fold(NamedTuple):
    """Rows to fit on, and the rows to score on, standardised by the former."""

    fitted: Moments
    scored: Bool[np.ndarray, " rows"]
    scored_rows: Float[np.ndarray, "scored p"]


class _Side(NamedTuple):
    """Targets as one fold sees them, one a row."""

    cross: Float[np.ndarray, "targets p"]
    square: Float[np.ndarray, " targets"]
    scored: Float[np.ndarray, "targets scored"]
    variance: Float[np.ndarray, " targets"]


def fold_of(rows: Gramian, *, fitted: Bool[np.ndarray, " rows"], scored: Bool[np.ndarray, " rows"]) -> Fold:
    """Return a fold; both sides need a row."""
    moments = rows.moments(fitted)
    return Fold(moments, scored, (rows.rows[scored] - moments.mean) / moments.scale)


def tune(
    rows: Gramian,
    whole: Moments,
    folds: Sequence[Fold],
    targets: Float[np.ndarray, "rows targets"],
    grid: Grid,
    pool: ThreadPoolExecutor,
) -> Tuned:
    """Choose a penalty for each target and fit it to the rows of `whole`.

    Targets are read on the rows of `whole` and of the folds only. Penalties fall from the smallest
    that leaves no weight, on all rows with several folds and on the fitted rows with one. The result
    does not depend on the number of threads.
    """
    on_whole = _side(rows, whole, whole.inside, targets)
    sides = [_side(rows, fold.fitted, fold.scored, targets) for fold in folds]
    first = on_whole if len(folds) > 1 else sides[0]
    largest = np.abs(first.cross).max(axis=1, initial=0)

    def one(target: int) -> tuple[float, float, Float[np.ndarray, " p"], float]:
        alphas = largest[target] * grid.fall
        scores, start, worst = _choose(folds, sides, target, alphas, grid)
        chosen = int(np.argmax(scores))
        last = descent.path(
            whole.gram,
            on_whole.cross[target],
            on_whole.square[target],
            alphas[chosen : chosen + 1],
            grid.tolerance,
            start=start[chosen],
            rank=_rank(whole),
        )
        return alphas[chosen], scores[chosen], last.weights[-1], max(worst, float(last.gaps.max()))

    alpha, score, weights, gap = zip(*pool.map(one, range(targets.shape[1])), strict=True)
    return Tuned(np.asarray(alpha), np.asarray(score), np.stack(weights), np.asarray(gap))


def _choose(
    folds: Sequence[Fold],
    sides: Sequence[_Side],
    target: int,
    alphas: Float[np.ndarray, " alphas"],
    grid: Grid,
) -> tuple[list[float], Float[np.ndarray, "alphas p"], float]:
    """Return R2 for each penalty that was tried, the first fold's weights at these, and the largest gap."""
    spread = sum(side.variance[target] * (side.scored[target] ** 2).sum() for side in sides)
    scores: list[float] = []
    first: list[Float[np.ndarray, "alphas p"]] = []
    starts: list[Float[np.ndarray, " p"] | None] = [None] * len(folds)
    worst = 0.0
    for part in _chunks(alphas, grid.patience):
        errors = np.zeros(len(part))
        for number, (fold, side) in enumerate(zip(folds, sides, strict=True)):
            found = descent.path(
                fold.fitted.gram,
                side.cross[target],
                side.square[target],
                part,
                grid.choice_tolerance,
                start=starts[number],
                rank=_rank(fold.fitted),
            )
            starts[number] = found.weights[-1]
            worst = max(worst, float(found.gaps.max()))
            missed = side.scored[target] - found.weights @ fold.scored_rows.T
            errors += side.variance[target] * (missed**2).sum(axis=1)
            if number == 0:
                first.append(found.weights)
        for error in errors:
            scores.append(float(1 - error / spread) if spread > 0 else -np.inf)
            if grid.patience and len(scores) - 1 - int(np.argmax(scores)) >= grid.patience:
                return scores, np.concatenate(first), worst
    return scores, np.concatenate(first), worst


def _chunks(alphas: Float[np.ndarray, " alphas"], patience: int | None) -> Iterator[Float[np.ndarray, " part"]]:
    size = CHUNK if patience else len(alphas)
    for first in range(0, len(alphas), size):
        yield alphas[first : first + size]


def _rank(moments: Moments) -> int:
    return max(int(moments.inside.sum()) - 1, 1)


def _side(
    rows: Gramian, fitted: Moments, scored: Bool[np.ndarray, " rows"], targets: Float[np.ndarray, "rows targets"]
) -> _Side:
    """Standardise targets by the fitted rows."""
    inside = targets[fitted.inside]
    mean, scale = inside.mean(axis=0), inside.std(axis=0)
    scale = np.where(scale > 0, scale, 1)
    standard = (inside - mean) / scale
    return _Side(
        cross=rows.cross(fitted, standard),
        square=(standard**2).mean(axis=0),
        scored=np.ascontiguousarray(((targets[scored] - mean) / scale).T),
        variance=scale**2,
    )
