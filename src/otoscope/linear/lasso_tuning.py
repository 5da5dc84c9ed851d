"""A LASSO with its penalty chosen on other groups, for many targets over the same rows of features.

The Gram matrices are computed once and shared by all targets, which go down the penalties together:
at each they are fitted on the rows outside every fold, standardised by these rows alone, and scored
on the fold; the penalty with the best R2 over all folds together is then fitted to all rows.

What `fit_factors` is asked: settings, rows to fit and to test on, and the folds and penalties that follow.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Shaped

from otoscope.errors import EvaluationError
from otoscope.linear.batched_lasso import MIN_ADMM_TARGETS, BatchedLasso, BatchedPath, SolverHints
from otoscope.linear.gram import REACH, Gramian, GramSubset
from otoscope.linear.lasso_problem import Iterate, LassoProblems
from otoscope.resampling.groups import CONFIDENCE, RESAMPLES, group_folds

MAX_BATCH_TARGETS = 96
"""Most targets solved together: enough for products of matrices, few enough to stay near the processor."""


class PenaltyGrid(NamedTuple):
    """Penalties to try and how exactly to solve; see `otoscope.linear.lasso.LassoSettings`."""

    fall: Float[np.ndarray, " alphas"]
    patience: int | None
    choice_tolerance: float
    tolerance: float


class TunedLasso(NamedTuple):
    """What was chosen for each target; `weights` are in standard deviations of target over feature.

    `gap` is the largest relative duality gap of all problems solved for the target.
    """

    alpha: Float[np.ndarray, " targets"]
    score: Float[np.ndarray, " targets"]
    weights: Float[np.ndarray, "targets p"]
    gap: Float[np.ndarray, " targets"]


class LassoFold(NamedTuple):
    """Rows to fit on, and the rows to score on, standardised by the former."""

    fitted: GramSubset
    scored: Bool[np.ndarray, " rows"]
    scored_rows: Float[np.ndarray, "scored p"]


class _FoldTargets(NamedTuple):
    """Targets as one fold sees them, one a row; `values` are those of the fitted rows, over the root of n."""

    values: Float[np.ndarray, "targets fitted"]
    cross: Float[np.ndarray, "targets p"]
    square: Float[np.ndarray, " targets"]
    scored: Float[np.ndarray, "targets scored"]
    variance: Float[np.ndarray, " targets"]

    def only(self, members: slice) -> "_FoldTargets":
        """Return some of the targets."""
        return _FoldTargets(*(field[members] for field in self))


class _FoldProblem(NamedTuple):
    """A fold, what solves on it, and some targets as it sees them."""

    fold: LassoFold
    solver: BatchedLasso
    side: _FoldTargets


def make_fold(
    rows: Gramian,
    *,
    fitted: Bool[np.ndarray, " rows"],
    scored: Bool[np.ndarray, " rows"],
    reach: float | None = None,
) -> LassoFold:
    """Return a fold; both sides need a row. `reach` holds the rows that are scored (see `Gramian.within`)."""
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

    Targets are read on the rows of `whole` and of the folds only. Penalties fall from the smallest
    that leaves no weight, on all rows with several folds and on the fitted rows with one. The result
    does not depend on the number of threads.
    """
    on_whole = _fold_targets(rows, whole, whole.inside, targets)
    sides = [_fold_targets(rows, fold.fitted, fold.scored, targets) for fold in folds]
    first = on_whole if len(folds) > 1 else sides[0]
    alphas = np.abs(first.cross).max(axis=1, initial=0)[:, None] * grid.fall
    count = targets.shape[1]
    solvers = [_solver(rows, fold.fitted, count) for fold in folds]
    last = _solver(rows, whole, count)

    def some(members: slice) -> TunedLasso:
        asked = [
            _FoldProblem(fold, solver, side.only(members))
            for fold, solver, side in zip(folds, solvers, sides, strict=True)
        ]
        return _tune(asked, last, on_whole.only(members), alphas[members], grid)

    pieces = -(-count // MAX_BATCH_TARGETS)
    ends = np.arange(pieces + 1) * count // pieces
    parts = list(pool.map(some, [slice(begin, end) for begin, end in pairwise(ends)]))
    return TunedLasso(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def _tune(
    asked: Sequence[_FoldProblem],
    last: BatchedLasso,
    on_whole: _FoldTargets,
    alphas: Float[np.ndarray, "targets alphas"],
    grid: PenaltyGrid,
) -> TunedLasso:
    """Choose a penalty for each of some targets, then fit it to all rows."""
    count = len(alphas)
    spread = sum((side.variance * (side.scored**2).sum(axis=1) for _, _, side in asked), np.zeros(count))
    scores = np.full(alphas.shape, -np.inf)
    weights, rungs, worst = np.zeros_like(on_whole.cross), np.zeros(count, dtype=np.int64), np.zeros(count)
    trails = [
        BatchedPath(solver, side.cross, side.square, side.values, grid.choice_tolerance) for _, solver, side in asked
    ]
    going = np.arange(count)
    for step in range(alphas.shape[1]):
        errors = np.zeros(len(going))
        for (fold, _, side), trail in zip(asked, trails, strict=True):
            worst[going] = np.maximum(worst[going], trail.solve_at(going, alphas[:, step]))
            missed = side.scored[going] - trail.weights[going] @ fold.scored_rows.T
            errors += side.variance[going] * (missed**2).sum(axis=1)
        seen, varies = scores[going].max(axis=1), spread[going] > 0
        scores[going, step] = np.where(varies, 1 - errors / np.where(varies, spread[going], 1), -np.inf)
        better = going[scores[going, step] > seen]
        weights[better], rungs[better] = trails[0].weights[better], trails[0].pace.rungs[better]
        if grid.patience:
            going = going[step - scores[going].argmax(axis=1) < grid.patience]
        if not len(going):
            break
    chosen = scores.argmax(axis=1)
    alpha = alphas[np.arange(count), chosen]
    start = Iterate(weights, last.slopes(on_whole.cross, weights))
    wanted = LassoProblems(on_whole.cross, on_whole.square, alpha, on_whole.values)
    found, gaps = last.solve(wanted, start, SolverHints(rungs, np.zeros(count, dtype=bool)), grid.tolerance)
    return TunedLasso(alpha, scores.max(axis=1), found.weights, np.maximum(worst, gaps))


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
"""Largest duality gap of a solution, as a share of its objective."""


@dataclass(frozen=True)
class LassoSettings:
    """Grid, stopping rule and repetitions of `fit_factors`.

    `alphas` penalties fall evenly in their logarithm from the smallest that leaves no weight to
    `smallest_alpha` times that; left out, it is 0.01 with fewer training rows than features and
    0.001 otherwise (below 0.01 a fit with more features than rows only nears interpolation; glmnet
    stops there too). After `patience` penalties in a row without a better R2, smaller ones are not
    tried; None tries them all. `folds` of 0 chooses on the validation groups, 2 or more on so many
    folds of the training and validation groups together. Penalties are compared at duality gaps of
    `choice_tolerance` of the objective; what is reported is fitted to `tolerance`. The null permutes
    rows freely, or `within_groups` so that it keeps what the codes know of the group. `reach`: rows that
    are predicted count as no further, in any feature, than so many deviations beyond what the fitted
    rows span; None: as they are.
    """

    alphas: int = 20
    smallest_alpha: float | None = None
    patience: int | None = 3
    folds: int = 0
    permutations: int = 20
    within_groups: bool = False
    resamples: int = RESAMPLES
    confidence: float = CONFIDENCE
    tolerance: float = TOLERANCE
    choice_tolerance: float = TOLERANCE
    reach: float | None = REACH

    def __post_init__(self) -> None:
        """Raise `EvaluationError` for a number of folds that chooses nothing."""
        if self.folds < 0 or self.folds == 1:
            raise EvaluationError(f"folds={self.folds}; give 0 to choose on the validation groups, or 2 and more")


class LassoDesign:
    """All rows, those that are fitted in one order, and their Gram matrix, shared by factors of every pattern."""

    def __init__(
        self,
        features: Float[np.ndarray, "rows live"],
        targets: Float[np.ndarray, "rows factors"],
        groups: Shaped[np.ndarray, " rows"],
        parts: dict[str, Bool[np.ndarray, " rows"]],
        settings: LassoSettings,
        seed: int,
    ) -> None:
        self.features, self.targets, self.groups = features, targets, groups
        self.settings, self.seed = settings, seed
        self.fitted = np.concatenate([np.flatnonzero(parts["train"]), np.flatnonzero(parts["valid"])])
        self.train: Bool[np.ndarray, " fitted"] = np.arange(len(self.fitted)) < parts["train"].sum()
        self.test = parts["test"]
        self.gramian = Gramian(features[self.fitted])

    def folds(self, present: Bool[np.ndarray, " fitted"]) -> list[LassoFold]:
        """Return the folds to choose on, of the rows that are present; none where one side would be empty."""
        if not self.settings.folds:
            sides = [(self.train & present, ~self.train & present)]
        else:
            number = np.full(len(present), -1)
            number[present] = group_folds(self.groups[self.fitted[present]], self.settings.folds)
            sides = [(present & (number != fold), number == fold) for fold in range(number.max() + 1)]
        reach = self.settings.reach
        return [make_fold(self.gramian, fitted=fitted, scored=scored, reach=reach) for fitted, scored in sides]

    def enough(self, present: Bool[np.ndarray, " rows"]) -> bool:
        """Say whether the rows that are present can be fitted, chosen on and tested on."""
        fitted = present[self.fitted]
        if not (present & self.test).any() or not fitted[self.train].any() or not fitted[~self.train].any():
            return False
        return not self.settings.folds or len(np.unique(self.groups[self.fitted[fitted]])) > 1

    def grid(self, n_fitted: int) -> PenaltyGrid:
        """Return the penalties, as shares of the largest."""
        settings = self.settings
        smallest = settings.smallest_alpha or (1e-2 if n_fitted < self.features.shape[1] else 1e-3)
        fall = np.geomspace(1, smallest, settings.alphas)
        return PenaltyGrid(fall, settings.patience, settings.choice_tolerance, settings.tolerance)
