"""Penalty selection for the LASSO over group folds, for many targets on the same rows of features.

The Gram matrices are computed once and shared by all targets. At each penalty, targets are fitted on the rows outside
each fold, standardised by these rows only, and scored on the fold. The penalty with the best R2 over all folds is then
fitted to all rows. `LassoDesign` holds the settings, the rows to fit and to test on, and the resulting folds.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Shaped

from otoscope.errors import EvaluationError
from otoscope.linear.batched_lasso import (
    MIN_ADMM_TARGETS,
    BatchedLasso,
    BatchedPath,
    Iterate,
    LassoProblems,
    SolverHints,
)
from otoscope.linear.gram import REACH, Gramian, GramSubset
from otoscope.resampling.groups import group_folds

MAX_BATCH_TARGETS = 96
"""Maximum number of targets per batch: enough for matrix products, few enough for the processor's cache."""


class PenaltyGrid(NamedTuple):
    """Penalties and tolerances; see `LassoSettings`."""

    fall: Float[np.ndarray, " alphas"]
    patience: int | None
    choice_tolerance: float
    tolerance: float


class TunedLasso(NamedTuple):
    """Chosen penalty and weights per target; `weights` are in standard deviations of target per feature.

    `gap` is the maximum relative duality gap of all problems solved for the target.
    """

    alpha: Float[np.ndarray, " targets"]
    score: Float[np.ndarray, " targets"]
    weights: Float[np.ndarray, "targets p"]
    gap: Float[np.ndarray, " targets"]


class LassoFold(NamedTuple):
    """Rows to fit on, and rows to score on, standardised by the fitted rows."""

    fitted: GramSubset
    scored: Bool[np.ndarray, " rows"]
    scored_rows: Float[np.ndarray, "scored p"]


class _FoldTargets(NamedTuple):
    """Targets of one fold, standardised by its fitted rows; `values` are divided by sqrt(n)."""

    values: Float[np.ndarray, "targets fitted"]
    cross: Float[np.ndarray, "targets p"]
    square: Float[np.ndarray, " targets"]
    scored: Float[np.ndarray, "targets scored"]
    variance: Float[np.ndarray, " targets"]

    def only(self, members: slice) -> "_FoldTargets":
        """Return some of the targets."""
        return _FoldTargets(*(field[members] for field in self))


class _FoldProblem(NamedTuple):
    """A fold, its solver, and its targets."""

    fold: LassoFold
    solver: BatchedLasso
    side: _FoldTargets


def make_fold(
    rows: Gramian, *, fitted: Bool[np.ndarray, " rows"], scored: Bool[np.ndarray, " rows"], reach: float | None = None
) -> LassoFold:
    """Return a fold with at least one fitted and one scored row; `reach` clips scored rows (see `Gramian.within`)."""
    moments = rows.moments(fitted)
    return LassoFold(moments, scored, rows.within(moments, rows.rows[scored], reach=reach))


def tune(
    rows: Gramian,
    whole: GramSubset,
    folds: Sequence[LassoFold],
    targets: Float[np.ndarray, "rows targets"],
    grid: PenaltyGrid,
    pool: ThreadPoolExecutor,
) -> TunedLasso:
    """Choose a penalty for each target and fit it to the rows of `whole`.

    Only the rows of `whole` and of the folds are used. Penalties fall from the smallest that leaves all weights zero:
    on all rows with several folds, on the fitted rows with one. The result does not depend on the number of threads.
    """
    on_whole = _fold_targets(rows, whole, whole.inside, targets)
    sides = [_fold_targets(rows, fold.fitted, fold.scored, targets) for fold in folds]
    first = on_whole if len(folds) > 1 else sides[0]
    alphas = np.abs(first.cross).max(axis=1, initial=0)[:, None] * grid.fall
    count = targets.shape[1]
    solvers = [_solver(rows, fold.fitted, count) for fold in folds]
    last = _solver(rows, whole, count)

    def some(members: slice) -> TunedLasso:
        fold_problems = [
            _FoldProblem(fold, solver, side.only(members))
            for fold, solver, side in zip(folds, solvers, sides, strict=True)
        ]
        return _tune(fold_problems, last, on_whole.only(members), alphas[members], grid)

    pieces = -(-count // MAX_BATCH_TARGETS)
    ends = np.arange(pieces + 1) * count // pieces
    parts = list(pool.map(some, [slice(begin, end) for begin, end in pairwise(ends)]))
    return TunedLasso(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def _tune(
    fold_problems: Sequence[_FoldProblem],
    last: BatchedLasso,
    on_whole: _FoldTargets,
    alphas: Float[np.ndarray, "targets alphas"],
    grid: PenaltyGrid,
) -> TunedLasso:
    """Choose a penalty for each target of a batch, then fit it to all rows."""
    count = len(alphas)
    total_variance = sum(
        (side.variance * (side.scored**2).sum(axis=1) for _, _, side in fold_problems), np.zeros(count)
    )
    scores = np.full(alphas.shape, -np.inf)
    weights, rho_power, worst = np.zeros_like(on_whole.cross), np.zeros(count, dtype=np.int64), np.zeros(count)
    paths = [
        BatchedPath(solver, side.cross, side.square, side.values, grid.choice_tolerance)
        for _, solver, side in fold_problems
    ]
    going = np.arange(count)
    for step in range(alphas.shape[1]):
        errors = np.zeros(len(going))
        for (fold, _, side), path in zip(fold_problems, paths, strict=True):
            worst[going] = np.maximum(worst[going], path.solve_at(going, alphas[:, step]))
            missed = side.scored[going] - path.weights[going] @ fold.scored_rows.T
            errors += side.variance[going] * (missed**2).sum(axis=1)
        seen, varies = scores[going].max(axis=1), total_variance[going] > 0
        scores[going, step] = np.where(varies, 1 - errors / np.where(varies, total_variance[going], 1), -np.inf)
        better = going[scores[going, step] > seen]
        weights[better], rho_power[better] = paths[0].weights[better], paths[0].hints.rho_power[better]
        if grid.patience:
            going = going[step - scores[going].argmax(axis=1) < grid.patience]
        if not len(going):
            break
    chosen = scores.argmax(axis=1)
    alpha = alphas[np.arange(count), chosen]
    start = Iterate(weights, last.slopes(on_whole.cross, weights))
    problems = LassoProblems(on_whole.cross, on_whole.square, alpha, on_whole.values)
    found, gaps = last.solve(problems, start, SolverHints(rho_power, np.zeros(count, dtype=bool)), grid.tolerance)
    return TunedLasso(alpha, scores.max(axis=1), found.weights, np.maximum(worst, gaps))


def predict_folds(
    rows: Gramian,
    folds: Sequence[LassoFold],
    targets: Float[np.ndarray, "rows targets"],
    tuned: TunedLasso,
    tolerance: float,
) -> Float[np.ndarray, "rows targets"]:
    """Return the prediction of each row from the other folds, at the chosen penalties, in the units of the targets."""
    held, count = np.zeros(targets.shape), targets.shape[1]
    for fold in folds:
        side = _fold_targets(rows, fold.fitted, fold.scored, targets)
        solver = _solver(rows, fold.fitted, count)
        start = Iterate(tuned.weights, solver.slopes(side.cross, tuned.weights))
        hints = SolverHints(np.zeros(count, dtype=np.int64), np.zeros(count, dtype=bool))
        problems = LassoProblems(side.cross, side.square, tuned.alpha, side.values)
        found, _ = solver.solve(problems, start, hints, tolerance)
        mean = targets[fold.fitted.inside].mean(axis=0)
        held[fold.scored] = fold.scored_rows @ found.weights.T * np.sqrt(side.variance) + mean
    return held


def _solver(rows: Gramian, fitted: GramSubset, count: int) -> BatchedLasso:
    columns = rows.columns(fitted) if count >= MIN_ADMM_TARGETS else None
    return BatchedLasso(fitted.gram, rank=_rank(fitted), targets=count, columns=columns)


def _rank(moments: GramSubset) -> int:
    return max(int(moments.inside.sum()) - 1, 1)


def _fold_targets(
    rows: Gramian, fitted: GramSubset, scored: Bool[np.ndarray, " rows"], targets: Float[np.ndarray, "rows targets"]
) -> _FoldTargets:
    """Standardise targets by the fitted rows."""
    inside = targets[fitted.inside]
    mean, scale = inside.mean(axis=0), inside.std(axis=0)
    scale = np.where(scale > 0, scale, 1)
    standard = (inside - mean) / scale
    return _FoldTargets(
        values=np.ascontiguousarray(standard.T) / np.sqrt(len(standard)),
        cross=rows.cross(fitted, standard),
        square=(standard**2).mean(axis=0),
        scored=np.ascontiguousarray(((targets[scored] - mean) / scale).T),
        variance=scale**2,
    )


TOLERANCE = 1e-6
"""Maximum relative duality gap of a solution."""


@dataclass(frozen=True)
class LassoSettings:
    """Grid, stopping rule and repetitions of `fit_factors`.

    `alphas` penalties fall geometrically from the smallest that leaves all weights zero to `smallest_alpha` times
    that; by default 0.01 with fewer training rows than features and 0.001 otherwise (below 0.01 a fit with more
    features than rows approaches interpolation; glmnet stops there too). `patience` penalties in a row without a better
    R2 end the search; None tries all. With `folds=0` the penalty is chosen on the validation groups, with 2 or more on
    that number of folds of the training and validation groups together. Penalties are compared at relative duality
    gaps of `choice_tolerance`; the reported fit has `tolerance`. `reach` clips each feature of predicted rows to
    that many standard deviations beyond the range of the fitted rows; None leaves them unchanged.
    """

    alphas: int = 20
    smallest_alpha: float | None = None
    patience: int | None = 3
    folds: int = 0
    tolerance: float = TOLERANCE
    choice_tolerance: float = TOLERANCE
    reach: float | None = REACH

    def __post_init__(self) -> None:
        """Raise `EvaluationError` for a negative number of folds or a single fold."""
        if self.folds < 0 or self.folds == 1:
            raise EvaluationError(f"folds={self.folds}; give 0 to choose on the validation groups, or 2 or more")


class LassoDesign:
    """Rows, splits and Gram matrix of the fitted rows, shared by factors with any pattern of missing values."""

    def __init__(
        self,
        features: Float[np.ndarray, "rows live"],
        targets: Float[np.ndarray, "rows factors"],
        groups: Shaped[np.ndarray, " rows"],
        parts: dict[str, Bool[np.ndarray, " rows"]],
        settings: LassoSettings,
    ) -> None:
        self.features, self.targets, self.groups, self.settings = features, targets, groups, settings
        self.fitted = np.concatenate([np.flatnonzero(parts["train"]), np.flatnonzero(parts["valid"])])
        self.train: Bool[np.ndarray, " fitted"] = np.arange(len(self.fitted)) < parts["train"].sum()
        self.test = parts["test"]
        self.gramian = Gramian(features[self.fitted])

    def folds(self, present: Bool[np.ndarray, " fitted"]) -> list[LassoFold]:
        """Return the folds of the present rows on which the penalty is chosen."""
        if not self.settings.folds:
            sides = [(self.train & present, ~self.train & present)]
        else:
            number = np.full(len(present), -1)
            number[present] = group_folds(self.groups[self.fitted[present]], self.settings.folds)
            sides = [(present & (number != fold), number == fold) for fold in range(number.max() + 1)]
        reach = self.settings.reach
        return [make_fold(self.gramian, fitted=fitted, scored=scored, reach=reach) for fitted, scored in sides]

    def is_feasible(self, present: Bool[np.ndarray, " rows"]) -> bool:
        """Return whether the present rows suffice to fit, to choose a penalty and to test."""
        fitted = present[self.fitted]
        if not (present & self.test).any() or not fitted[self.train].any() or not fitted[~self.train].any():
            return False
        return not self.settings.folds or len(np.unique(self.groups[self.fitted[fitted]])) > 1

    def grid(self, n_fitted: int) -> PenaltyGrid:
        """Return the penalties relative to the largest."""
        settings = self.settings
        smallest = settings.smallest_alpha or (1e-2 if n_fitted < self.features.shape[1] else 1e-3)
        fall = np.geomspace(1, smallest, settings.alphas)
        return PenaltyGrid(fall, settings.patience, settings.choice_tolerance, settings.tolerance)
