"""How well each factor is predicted from codes by a sparse linear map, on groups never fitted.

Per factor: minimise 1/(2n) |y - Xw|^2 + alpha |w|_1 on the training rows for falling alpha, choose
alpha by R2 on the validation groups, fit again on training and validation rows together at that
alpha, and report R2 on the test groups, relative to the mean of the rows that were fitted. X and y
are standardised on the fitted rows each time. The null repeats all of it, choice of alpha
included, on targets whose rows were permuted among the fitted rows.
"""

import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from numpy.typing import NDArray

from otoscope.errors import EvaluationError
from otoscope.evaluate import descent
from otoscope.evaluate.groups import CONFIDENCE, RESAMPLES, Score, bootstrap_sums, group_sums, null_summary
from otoscope.evaluate.moments import Moments, live_columns, moments_of
from otoscope.evaluate.splits import rows_of

TOLERANCE = 1e-6
"""Largest duality gap of a solution, as a share of its objective."""


@dataclass(frozen=True)
class LassoSettings:
    """Grid, stopping rule and repetitions of `fit_factors`.

    `alphas` penalties fall evenly in their logarithm from the smallest that leaves no weight to
    `smallest_alpha` times that; left out, it is 0.01 with fewer training rows than features and
    0.001 otherwise (below 0.01 a fit with more features than rows only nears interpolation; glmnet
    stops there too). After `patience` penalties in a row without a better R2 on the validation
    groups, smaller ones are not tried. Penalties are compared at duality gaps of `choice_tolerance`
    of the objective; what is reported is fitted to `tolerance`.
    """

    alphas: int = 20
    smallest_alpha: float | None = None
    patience: int = 3
    permutations: int = 20
    resamples: int = RESAMPLES
    confidence: float = CONFIDENCE
    tolerance: float = TOLERANCE
    choice_tolerance: float = 1e-4


class FactorFits(NamedTuple):
    """What `fit_factors` found; every array runs over factors, NaN where a factor could not be fitted.

    `weights` are those of the last fit, in standard deviations of factor over feature, 0 for
    features that are constant on the training rows (`live` is False there). `n` and `groups` count
    the test rows and groups that have the factor.
    """

    r2: Float[np.ndarray, " factors"]
    low: Float[np.ndarray, " factors"]
    high: Float[np.ndarray, " factors"]
    null_mean: Float[np.ndarray, " factors"]
    null_high: Float[np.ndarray, " factors"]
    alpha: Float[np.ndarray, " factors"]
    valid_r2: Float[np.ndarray, " factors"]
    weights: Float[np.ndarray, "p factors"]
    live: Bool[np.ndarray, " p"]
    n: Int[np.ndarray, " factors"]
    groups: Int[np.ndarray, " factors"]

    def score(self, factor: int) -> Score:
        """Return one factor's R2 with its interval and null."""
        fields = (self.r2, self.low, self.high, self.null_mean, self.null_high)
        return Score(*(float(field[factor]) for field in fields))


def fit_factors(
    features: Float[np.ndarray, "rows p"],
    targets: Float[np.ndarray, "rows factors"],
    *,
    groups: Shaped[np.ndarray, " rows"],
    split: Shaped[np.ndarray, " rows"],
    settings: LassoSettings | None = None,
    seed: int = 0,
    workers: int | None = None,
) -> FactorFits:
    """Return held-out R2, interval, null and weights of a tuned LASSO for every factor.

    Args:
        features: dense activations or codes, one row a clip.
        targets: factors; NaN where a clip has none. Rows without a factor are left out for it.
        groups: what must not be shared between splits (singer, speaker).
        split: train, valid or test for each row.
        settings: grid and repetitions.
        seed: of the bootstrap and of the permutations.
        workers: threads over factors; the result does not depend on it. All cores if absent.

    A factor scores NaN when it is constant on the training rows or has no row in some split.
    Memory is about 16 p^2 + 24 rows p bytes. Raises `EvaluationError` for non-finite features, a
    missing split, or arrays of different length.
    """
    settings = settings or LassoSettings()
    _check(features, targets, groups)
    parts = {name: rows_of(split, name, len(features)) for name in ("train", "valid", "test")}
    found = _nothing(features.shape[1], targets.shape[1])
    found.live[:] = live_columns(features[parts["train"]])
    with ThreadPoolExecutor(workers or len(os.sched_getaffinity(0))) as pool:
        for members, present in _patterns(targets):
            present_parts = {name: rows & present for name, rows in parts.items()}
            if all(rows.any() for rows in present_parts.values()):
                _fit_block(found, features, targets, members, groups, present_parts, settings, seed, pool)
    return found


def lasso_weights(
    features: Float[np.ndarray, "rows p"],
    targets: Float[np.ndarray, "rows factors"],
    *,
    alpha: float,
    tolerance: float = TOLERANCE,
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
    correlation = moments.cross(standard)
    for column, factor in enumerate(np.flatnonzero(varies)):
        largest = float(np.abs(correlation[:, column]).max(initial=0))
        steps = np.geomspace(largest, alpha, 8) if largest > alpha > 0 else np.array([alpha])
        found = descent.path(moments.gram, np.ascontiguousarray(correlation[:, column]), 1.0, steps, tolerance)[-1]
        weights[live, factor] = found
        r2[factor] = 1 - np.mean((standard[:, column] - moments.standard @ found) ** 2)
    return weights, r2


def _fit_block(
    found: FactorFits,
    features: Float[np.ndarray, "rows p"],
    targets: Float[np.ndarray, "rows factors"],
    members: Int[np.ndarray, " members"],
    groups: Shaped[np.ndarray, " rows"],
    parts: dict[str, Bool[np.ndarray, " rows"]],
    settings: LassoSettings,
    seed: int,
    pool: ThreadPoolExecutor,
) -> None:
    """Fit the factors that are present on the same rows; write into `found`."""
    train, valid, test = (np.flatnonzero(parts[name]) for name in ("train", "valid", "test"))
    live = live_columns(features[train])
    members = members[live_columns(targets[np.ix_(train, members)])]
    if not live.any() or not len(members):
        return
    block = _Block.build(features[:, live], train=train, valid=valid, test=test)
    fitted = np.concatenate([train, valid])
    y, y_test = targets[np.ix_(fitted, members)], targets[np.ix_(test, members)]

    fit = block.fit(y, settings, pool)
    errors = block.errors(y, y_test, fit.weights)
    sums = group_sums(errors, groups[test])
    r2, low, high = bootstrap_sums(sums, _r2, resamples=settings.resamples, confidence=settings.confidence, seed=seed)
    null: list[NDArray[Any]] = []
    for order in _orders(len(fitted), settings.permutations, seed):
        permuted = block.fit(y[order], settings, pool)
        null.append(_r2(block.errors(y[order], y_test, permuted.weights).sum(axis=0)))
    null_mean, null_high = null_summary(np.asarray(null).reshape(len(null), len(members)))

    for field, value in zip(found, (r2, low, high, null_mean, null_high, fit.alpha, fit.valid_r2), strict=False):
        field[members] = value
    found.weights[np.ix_(np.flatnonzero(live), members)] = fit.weights
    found.n[members] = len(test)
    found.groups[members] = len(sums)


class _Fit(NamedTuple):
    alpha: Float[np.ndarray, " factors"]
    valid_r2: Float[np.ndarray, " factors"]
    weights: Float[np.ndarray, "p factors"]


@dataclass(frozen=True)
class _Block:
    """Moments of the features, shared by all factors and permutations."""

    train: Moments
    fitted: Moments
    valid_columns: Float[np.ndarray, "p valid"]
    test_rows: Float[np.ndarray, "test p"]

    @classmethod
    def build(
        cls,
        features: Float[np.ndarray, "rows p"],
        *,
        train: Int[np.ndarray, " train"],
        valid: Int[np.ndarray, " valid"],
        test: Int[np.ndarray, " test"],
    ) -> "_Block":
        on_train = moments_of(features[train])
        on_fitted = moments_of(features[np.concatenate([train, valid])])
        return cls(
            train=on_train,
            fitted=on_fitted,
            valid_columns=np.ascontiguousarray(on_train.apply(features[valid]).T),
            test_rows=on_fitted.apply(features[test]),
        )

    def fit(self, y: Float[np.ndarray, "fitted factors"], settings: LassoSettings, pool: ThreadPoolExecutor) -> _Fit:
        """Choose the penalty on the validation rows (the last ones of `y`), then fit on all of `y`."""
        n_train = len(self.train.standard)
        mean, scale = y[:n_train].mean(axis=0), _scale(y[:n_train])
        on_train = self.train.cross((y[:n_train] - mean) / scale)
        on_fitted = self.fitted.cross(_standardised(y))
        valid_y = (y[n_train:] - mean) / scale
        smallest = settings.smallest_alpha or (1e-2 if n_train < self.train.standard.shape[1] else 1e-3)
        fall = np.geomspace(1, smallest, settings.alphas)

        def one(factor: int) -> tuple[float, float, Float[np.ndarray, " p"]]:
            target = np.ascontiguousarray(on_train[:, factor])
            alphas = np.abs(target).max() * fall
            index, score, weights = descent.choose(
                self.train.gram,
                target,
                alphas,
                self.valid_columns,
                np.ascontiguousarray(valid_y[:, factor]),
                settings.patience,
                settings.choice_tolerance,
            )
            alpha = float(alphas[index])
            again = np.ascontiguousarray(on_fitted[:, factor])
            return alpha, score, descent.resume(self.fitted.gram, again, alpha, weights, settings.tolerance)

        fits = list(pool.map(one, range(y.shape[1])))
        alpha, score, weights = zip(*fits, strict=True)
        return _Fit(np.asarray(alpha), np.asarray(score), np.stack(weights, axis=1))

    def errors(
        self,
        y: Float[np.ndarray, "fitted factors"],
        y_test: Float[np.ndarray, "test factors"],
        weights: Float[np.ndarray, "p factors"],
    ) -> Float[np.ndarray, "test factors 2"]:
        """Return squared error and squared distance from the fitted mean, per test row and factor."""
        standard = (y_test - y.mean(axis=0)) / _scale(y)
        return np.stack([(standard - self.test_rows @ weights) ** 2, standard**2], axis=-1)


def _r2(sums: Float[np.ndarray, "... 2"]) -> Float[np.ndarray, "..."]:
    error, spread = sums[..., 0], sums[..., 1]
    return 1 - np.divide(error, spread, out=np.full(error.shape, math.nan), where=spread > 0)


def _scale(y: Float[np.ndarray, "rows factors"]) -> Float[np.ndarray, " factors"]:
    scale = y.std(axis=0)
    return np.where(scale > 0, scale, 1)


def _standardised(y: Float[np.ndarray, "rows factors"]) -> Float[np.ndarray, "rows factors"]:
    return (y - y.mean(axis=0)) / _scale(y)


def _orders(n_rows: int, permutations: int, seed: int) -> Iterator[Int[np.ndarray, " rows"]]:
    rng = np.random.default_rng(seed)
    for _ in range(permutations):
        yield rng.permutation(n_rows)


def _patterns(
    targets: Float[np.ndarray, "rows factors"],
) -> Iterator[tuple[Int[np.ndarray, " members"], Bool[np.ndarray, " rows"]]]:
    """Yield the factors that are present on the same rows, together with those rows."""
    present = ~np.isnan(targets)
    patterns, which = np.unique(present.T, axis=0, return_inverse=True)
    for number, pattern in enumerate(patterns):
        yield np.flatnonzero(which == number), pattern


def _nothing(p: int, factors: int) -> FactorFits:
    return FactorFits(
        *np.full((7, factors), math.nan),
        weights=np.zeros((p, factors)),
        live=np.zeros(p, dtype=bool),
        n=np.zeros(factors, dtype=np.int64),
        groups=np.zeros(factors, dtype=np.int64),
    )


def _check(
    features: Float[np.ndarray, "rows p"],
    targets: Float[np.ndarray, "rows factors"],
    groups: Shaped[np.ndarray, " rows"],
) -> None:
    if features.ndim != 2 or targets.ndim != 2:
        raise EvaluationError(f"features and factors must be [rows, ...], got {features.shape} and {targets.shape}")
    if not len(features) == len(targets) == len(groups):
        raise EvaluationError(
            f"{len(features)} rows of features, {len(targets)} of factors and {len(groups)} groups; give one each a row"
        )
    if not np.isfinite(features).all():
        raise EvaluationError("features hold NaN or infinity; drop such rows first")
    if np.isinf(targets).any():
        raise EvaluationError("factors hold infinity; use NaN for what is missing")
