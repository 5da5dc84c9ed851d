"""Held-out prediction of factors by a LASSO with a tuned penalty.

Per factor: minimise 1/(2n) |y - Xw|^2 + alpha |w|_1 on the training rows for falling alpha, choose
alpha by R2 on the validation groups, refit on training and validation rows together at that alpha, and
report R2 on the test groups, relative to the mean of the fitted rows. With `folds`, training and
validation groups together are split into folds, and alpha is chosen by R2 over all folds, each predicted
from the others. X and y are standardised on the fitted rows of each fit, and predicted rows are clipped to
`reach` standard deviations beyond the range of the fitted rows. Interval, null and the R2 within groups are
those of the predictions (`otoscope.resampling.exchange`). In a cross-fit all of this is done for each fold of groups,
which the other groups predict, and the predictions of all folds are scored together.
"""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from threadpoolctl import threadpool_limits

from otoscope.errors import EvaluationError
from otoscope.hardware import available_cores
from otoscope.linear import lasso_path
from otoscope.linear.gram import live_columns, moments_of
from otoscope.linear.lasso_tuning import TOLERANCE, LassoDesign, LassoSettings, tune
from otoscope.resampling.exchange import score_factors
from otoscope.resampling.groups import each_fold, mean_known, missing_patterns, split_rows
from otoscope.resampling.intervals import Score, fold_overlap, widen


class FactorFits(NamedTuple):
    """Result of `fit_factors`: arrays over factors, NaN where a factor could not be fitted.

    `weights` are those of the final fit, in standard deviations of factor per feature; 0 for features that are constant
    on the training rows (`live` is False). `n` and `groups` count the test rows and groups that have the factor.
    `valid_r2` is the R2 by which the penalty was chosen, on validation groups or over folds. `gap` is the maximum
    relative duality gap of all problems solved for the factor. `predicted` holds the predictions of the test rows, NaN
    elsewhere, and `centre` the means of the rows that they were fitted on. R2 with interval, `null_mean`, `p_value` and
    `within` are those of `ExchangeScores`; `null_high` is its `family_high`. Of a cross-fit, `alpha`, `valid_r2` and
    `weights` are means over folds; with features of its own in each fold, `weights` and `live` are the first fold's.
    """

    r2: Float[np.ndarray, " factors"]
    low: Float[np.ndarray, " factors"]
    high: Float[np.ndarray, " factors"]
    null_mean: Float[np.ndarray, " factors"]
    null_high: Float[np.ndarray, " factors"]
    p_value: Float[np.ndarray, " factors"]
    within: Float[np.ndarray, " factors"]
    within_low: Float[np.ndarray, " factors"]
    within_high: Float[np.ndarray, " factors"]
    alpha: Float[np.ndarray, " factors"]
    valid_r2: Float[np.ndarray, " factors"]
    weights: Float[np.ndarray, "p factors"]
    live: Bool[np.ndarray, " p"]
    n: Int[np.ndarray, " factors"]
    groups: Int[np.ndarray, " factors"]
    gap: Float[np.ndarray, " factors"]
    predicted: Float[np.ndarray, "rows factors"]
    centre: Float[np.ndarray, "rows factors"]

    def score(self, factor: int) -> Score:
        """Return one factor's R2 with its interval and null."""
        fields = (self.r2, self.low, self.high, self.null_mean, self.null_high, self.p_value)
        return Score(*(float(field[factor]) for field in fields))

    def within_score(self, factor: int) -> Score:
        """Return one factor's R2 within groups with its interval."""
        return Score(*(float(field[factor]) for field in (self.within, self.within_low, self.within_high)))


def fit_factors(
    features: Float[np.ndarray, "*folds rows p"],
    targets: Float[np.ndarray, "rows factors"],
    *,
    groups: Shaped[np.ndarray, " rows"],
    split: Shaped[np.ndarray, "*folds rows"],
    settings: LassoSettings | None = None,
    seed: int = 0,
    workers: int | None = None,
) -> FactorFits:
    """Return held-out R2, interval, null and weights of a tuned LASSO for every factor.

    Args:
        features: dense activations or codes, one row per clip; of a cross-fit also one such matrix per fold.
        targets: factors; NaN where a clip has no value. Such rows are excluded for that factor.
        groups: units that no two splits may share (singer, speaker).
        split: train, valid or test for each row; of a cross-fit, one row per fold.
        settings: grid and repetitions.
        seed: of the permutations.
        workers: threads over factors, by default all cores; the result does not depend on it.

    A factor scores NaN when it is constant on the training rows or has no row in some split.
    Memory is about 8 p^2 bytes per fold (one without `folds`) plus 16 p^2; from 32 targets of up to 3,072 features, 25
    p^2 more per fold. Raises `EvaluationError` for non-finite features, a missing split, arrays of different length, or
    folds over a single group.
    """
    settings = settings or LassoSettings()
    _check(features, targets, groups)
    threads = workers or available_cores()
    # one BLAS thread: work is parallel over factors already, and sums keep one order
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(threads) as pool:
        folds = [_fit_split(own, targets, groups, one, settings, pool) for own, one in each_fold(features, split)]
    if features.ndim == 3:  # columns of different folds do not correspond
        folds[1:] = [fold._replace(weights=folds[0].weights, live=folds[0].live) for fold in folds[1:]]
    return _pool_folds(folds, targets, groups, seed)


def lasso_weights(
    features: Float[np.ndarray, "rows p"],
    targets: Float[np.ndarray, "rows factors"],
    *,
    alpha: float,
) -> tuple[Float[np.ndarray, "p factors"], Float[np.ndarray, " factors"]]:
    """Return LASSO weights at one penalty and the R2 on the same rows (in sample).

    Both sides are standardised first; this is the regression of arXiv:2509.24793 (alpha 0.1).
    Constant features get weight 0, constant factors weight 0 and R2 NaN.
    """
    _check(features, targets, np.zeros(len(features)))
    if np.isnan(targets).any():
        raise EvaluationError("factors hold NaN; an in-sample fit needs complete rows")
    live = live_columns(features)
    moments = moments_of(features[:, live])
    varies = live_columns(targets)
    weights = np.zeros((features.shape[1], targets.shape[1]))
    r2 = np.full(targets.shape[1], math.nan)
    standard = _standardised(targets[:, varies])
    correlation = np.ascontiguousarray(moments.cross(standard).T)
    for column, factor in enumerate(np.flatnonzero(varies)):
        largest = float(np.abs(correlation[column]).max(initial=0))
        steps = np.geomspace(largest, alpha, 8) if largest > alpha > 0 else np.array([alpha])
        path = lasso_path.solve_path(moments.gram, correlation[column], 1.0, steps, TOLERANCE, rank=len(features) - 1)
        solution = path.weights[-1]
        weights[live, factor] = solution
        r2[factor] = 1 - np.mean((standard[:, column] - moments.standard @ solution) ** 2)
    return weights, r2


class _Fold(NamedTuple):
    """Fits of one split; see `FactorFits`."""

    alpha: Float[np.ndarray, " factors"]
    valid_r2: Float[np.ndarray, " factors"]
    weights: Float[np.ndarray, "p factors"]
    gap: Float[np.ndarray, " factors"]
    live: Bool[np.ndarray, " p"]
    predicted: Float[np.ndarray, "rows factors"]
    centre: Float[np.ndarray, "rows factors"]


def _fit_split(
    features: Float[np.ndarray, "rows p"],
    targets: Float[np.ndarray, "rows factors"],
    groups: Shaped[np.ndarray, " rows"],
    split: Shaped[np.ndarray, " rows"],
    settings: LassoSettings,
    pool: ThreadPoolExecutor,
) -> _Fold:
    parts = {name: split_rows(split, name, len(features)) for name in ("train", "valid", "test")}
    live = live_columns(features[parts["train"] | parts["valid"] if settings.folds else parts["train"]])
    alpha, valid_r2, gap = np.full((3, targets.shape[1]), math.nan)
    predicted, centre = np.full((2, *targets.shape), math.nan)
    weights = np.zeros((features.shape[1], targets.shape[1]))
    fold = _Fold(alpha, valid_r2, weights, gap, live, predicted, centre)
    if live.any():
        design = LassoDesign(features[:, live], targets, groups, parts, settings)
        for members, present in missing_patterns(~np.isnan(targets)):
            _fit_pattern(fold, design, members, present, pool)
    return fold


def _pool_folds(
    folds: Sequence[_Fold],
    targets: Float[np.ndarray, "rows factors"],
    groups: Shaped[np.ndarray, " rows"],
    seed: int,
) -> FactorFits:
    """Score the predictions of all folds together."""
    predicted, centre = (
        mean_known(np.stack([getattr(fold, name) for fold in folds])) for name in ("predicted", "centre")
    )
    scores = score_factors(targets, predicted, centre, groups, seed=seed)._asdict()
    for value, low, high in (("r2", "low", "high"), ("within", "within_low", "within_high")):
        ends = widen(scores[value], scores[low], scores[high], factor=fold_overlap(len(folds)), bounds=(-math.inf, 1.0))
        scores[low], scores[high] = ends
    tested = ~np.isnan(predicted)
    return FactorFits(
        **(scores | {"null_high": scores.pop("family_high")}),
        alpha=mean_known(np.stack([fold.alpha for fold in folds])),
        valid_r2=mean_known(np.stack([fold.valid_r2 for fold in folds])),
        weights=np.mean([fold.weights for fold in folds], axis=0),
        live=np.any([fold.live for fold in folds], axis=0),
        n=tested.sum(axis=0),
        groups=np.asarray([len(np.unique(groups[rows])) for rows in tested.T], dtype=np.int64),
        gap=np.fmax.reduce([fold.gap for fold in folds]),
        predicted=predicted,
        centre=centre,
    )


def _fit_pattern(
    fits: _Fold,
    design: LassoDesign,
    members: Int[np.ndarray, " members"],
    present: Bool[np.ndarray, " rows"],
    pool: ThreadPoolExecutor,
) -> None:
    """Fit the factors that are present on the same rows; write into `fits`."""
    settings, fitted = design.settings, present[design.fitted]
    if not design.is_feasible(present):
        return
    decisive = fitted if settings.folds else fitted & design.train
    members = members[live_columns(design.targets[np.ix_(design.fitted[decisive], members)])]
    if not len(members):
        return
    y, test = design.targets[np.ix_(design.fitted[fitted], members)], np.flatnonzero(design.test & present)
    targets = np.zeros((len(fitted), len(members)))
    targets[fitted] = y
    folds, all_fitted = design.folds(fitted), design.gramian.moments(fitted)
    tuned = tune(design.gramian, all_fitted, folds, targets, design.grid(int(folds[0].fitted.inside.sum())), pool)

    rows = design.gramian.within(all_fitted, design.gramian.apply(design.features[test]), reach=settings.reach)
    centre = y.mean(axis=0)
    fits.predicted[np.ix_(test, members)] = rows @ tuned.weights.T * _scale(y) + centre
    fits.centre[np.ix_(test, members)] = centre
    fits.alpha[members], fits.valid_r2[members], fits.gap[members] = tuned.alpha, tuned.score, tuned.gap
    fits.weights[np.ix_(np.flatnonzero(fits.live), members)] = tuned.weights.T


def _scale(y: Float[np.ndarray, "rows factors"]) -> Float[np.ndarray, " factors"]:
    scale = y.std(axis=0)
    return np.where(scale > 0, scale, 1)


def _standardised(y: Float[np.ndarray, "rows factors"]) -> Float[np.ndarray, "rows factors"]:
    return (y - y.mean(axis=0)) / _scale(y)


def _check(
    features: Float[np.ndarray, "*folds rows p"],
    targets: Float[np.ndarray, "rows factors"],
    groups: Shaped[np.ndarray, " rows"],
) -> None:
    if features.ndim not in (2, 3) or targets.ndim != 2:
        raise EvaluationError(f"features and factors must be [rows, ...], got {features.shape} and {targets.shape}")
    if not features.shape[-2] == len(targets) == len(groups):
        raise EvaluationError(
            f"{features.shape[-2]} rows of features, {len(targets)} of factors, {len(groups)} groups; "
            "give one each per row"
        )
    if not np.isfinite(features).all():
        raise EvaluationError("features hold NaN or infinity; drop such rows first")
    if np.isinf(targets).any():
        raise EvaluationError("factors hold infinity; use NaN for missing values")
