"""Regression of every factor from a representation, scored on held-out groups.

Ridge regression is cheap enough for every layer, sparsity and seed; it selects layer and sparsity and yields sparsity
limits and layer curves. The LASSO, whose weights show how many dimensions carry a factor, is fitted only for
representations compared in full.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from otoscope.config.strict import StrictSettings
from otoscope.linear.lasso import LassoSettings, fit_factors
from otoscope.linear.ridge import fit_group_ridge
from otoscope.metrics.record import Record
from otoscope.protocols.strict.tasks import FactorTargets
from otoscope.resampling.exchange import score_factors
from otoscope.resampling.groups import (
    each_fold,
    group_folds,
    group_sums,
    in_split,
    mean_known,
    missing_patterns,
)
from otoscope.resampling.intervals import Score


class LassoScores(NamedTuple):
    """LASSO scores per factor: held-out R2, its interval over groups, its null, and the weights.

    `held_r2` is the cross-validated R2 on train and validation groups at the chosen penalty. `null_high` and `p_value`
    treat all factors as one family. `weights` are in standard deviations of factor per standard deviation of unit.
    `live` marks units that vary. `n` and `groups` count test rows and groups.
    """

    r2: Float[np.ndarray, " factors"]
    low: Float[np.ndarray, " factors"]
    high: Float[np.ndarray, " factors"]
    null_mean: Float[np.ndarray, " factors"]
    null_high: Float[np.ndarray, " factors"]
    p_value: Float[np.ndarray, " factors"]
    held_r2: Float[np.ndarray, " factors"]
    weights: Float[np.ndarray, "p factors"]
    live: Bool[np.ndarray, " p"]
    n: Int[np.ndarray, " factors"]
    groups: Int[np.ndarray, " factors"]


def fit_lasso_scores(
    units: Float[np.ndarray, "*folds clips p"], targets: FactorTargets, settings: StrictSettings
) -> LassoScores:
    """Fit every factor by a LASSO whose penalty is cross-validated over groups."""
    fits = fit_factors(
        units,
        targets.values,
        groups=targets.groups,
        split=targets.split,
        settings=LassoSettings(folds=settings.folds),
        workers=1,
    )
    return LassoScores(
        fits.r2, fits.low, fits.high, fits.null_mean, fits.null_high, fits.p_value, fits.valid_r2,
        fits.weights, fits.live, fits.n, fits.groups,
    )  # fmt: skip


def predicted_factors(lasso: LassoScores, min_r2: float) -> Bool[np.ndarray, " factors"]:
    """Return the mask of predicted factors: held-out R2 of at least `min_r2` and above the null of the family."""
    above = np.isnan(lasso.null_high) | (lasso.r2 > lasso.null_high)
    return (lasso.r2 >= min_r2) & above


def factor_records(lasso: LassoScores, targets: FactorTargets, about: Record) -> Iterator[Record]:
    """Yield the R2 of each factor on test groups, with interval and null, and its cross-validated R2."""
    fitted = in_split(targets.split, "train") | in_split(targets.split, "valid")
    for j, name in enumerate(targets.names):
        shared = replace(about, metric="factor_r2", target=name)
        numbers = (lasso.r2, lasso.low, lasso.high, lasso.null_mean, lasso.null_high, lasso.p_value)
        score = Score(*(float(number[j]) for number in numbers))
        yield shared.with_score("factor_r2", score, n=int(lasso.n[j]), groups=int(lasso.groups[j]))
        known = fitted & ~np.isnan(targets.values[:, j])
        n_groups = len(np.unique(targets.groups[known]))
        yield replace(shared, split="valid", value=float(lasso.held_r2[j]), n=int(known.sum()), groups=n_groups)


def predicted_share_records(
    lasso: LassoScores, min_r2: float, about: Record, *, among: Bool[np.ndarray, " factors"], target: str = ""
) -> Iterator[Record]:
    """Yield the share of predicted factors among the given ones.

    The interval counts factors by the ends of their own intervals. The null is 0: with all targets permuted, no factor
    exceeds the maximum of the family in 95 % of cases.
    """
    if not among.any():
        return
    n_groups = int(lasso.groups.max(initial=0))

    def share(r2: Float[np.ndarray, " factors"]) -> float:
        return float(predicted_factors(lasso._replace(r2=np.nan_to_num(r2, nan=-np.inf)), min_r2)[among].mean())

    score = Score(
        share(lasso.r2),
        share(lasso.low) if n_groups > 1 else math.nan,
        share(lasso.high) if n_groups > 1 else math.nan,
        null_mean=0.0,
        null_high=0.0,
    )
    yield about.with_score("predicted_share", score, target=target, n=int(among.sum()), groups=n_groups)


class RidgeScores(NamedTuple):
    """Ridge scores per factor: squared error and deviation by test group, R2 over folds of the others, null of R2."""

    squares: Float[np.ndarray, "groups factors 2"]
    held_r2: Float[np.ndarray, "folds factors"]
    null_mean: Float[np.ndarray, " factors"]
    null_high: Float[np.ndarray, " factors"]


def fit_ridge_scores(
    units: Float[np.ndarray, "*folds clips p"], targets: FactorTargets, *, folds: int, seed: int = 0
) -> RidgeScores:
    """Fit every factor by ridge regression; a group or factor without clips has sums of 0."""
    tried = [_predict(own, targets, split, folds) for own, split in each_fold(units, targets.split)]
    guesses, centre = (mean_known(np.stack([one[i] for one in tried])) for i in (0, 1))
    held = np.stack([of_others for _, _, of_others in tried])
    test_rows = in_split(targets.split, "test")
    squares = np.nan_to_num(np.stack([(targets.values - guesses) ** 2, (targets.values - centre) ** 2], axis=-1))
    found = score_factors(targets.values, guesses, centre, targets.groups, seed=seed)
    # one row per test group, even if it lacks some factors
    sums = group_sums(squares[test_rows], targets.groups[test_rows])
    return RidgeScores(sums, held, found.null_mean, found.null_high)


def _predict(
    units: Float[np.ndarray, "clips p"], targets: FactorTargets, split: Shaped[np.ndarray, " clips"], folds: int
) -> tuple[Float[np.ndarray, "clips factors"], Float[np.ndarray, "clips factors"], Float[np.ndarray, " factors"]]:
    """Return predictions of the test clips, means of the clips fitted for them, and the R2 over folds of the others."""
    guesses, centres = np.full((2, *targets.values.shape), math.nan)
    held_r2 = np.full(len(targets.names), math.nan)
    for members, present in missing_patterns(~np.isnan(targets.values)):
        fitted, test = np.flatnonzero((split != "test") & present), np.flatnonzero((split == "test") & present)
        if len(np.unique(targets.groups[fitted])) < 2 or not len(test):
            continue
        fitted_targets = targets.values[np.ix_(fitted, members)]
        problems, whole = fitted_targets.T[:, :, None], group_folds(targets.groups[fitted], folds)
        fit = fit_group_ridge(units[fitted], units[test], problems, folds=whole)
        centre = fitted_targets.mean(axis=0)
        guesses[np.ix_(test, members)], centres[np.ix_(test, members)] = fit.others[:, :, 0].T, centre
        held = ((fit.held[:, :, 0].T - fitted_targets) ** 2).sum(axis=0)
        spread = ((fitted_targets - centre) ** 2).sum(axis=0)
        held_r2[members] = 1 - held / np.where(spread > 0, spread, math.nan)
    return guesses, centres, held_r2
