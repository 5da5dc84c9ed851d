"""Ridge regression of many targets with a tuned penalty.

`fit_ridge` minimises, per target, mean squared error + penalty * p |w|^2 with p the number of features that vary
(as in `metrics.probes`). The penalty is chosen by R2 on validation rows; the model is refitted on training and
validation rows and scored by R2 on test rows. In the principal coordinates of the rows each penalty and target costs
one product, so permuted targets are cheap.

`fit_group_ridge` chooses the penalty by leave-group-out cross-validation. Leaving a fold out needs no new fit: with H
the hat matrix of all fitted rows, g the rows of a fold and e = (I - H_gg)^-1 (y_g - (Hy)_g), the fit to the targets
y with y_g - e in place of y_g is that of the other folds (the block form of the leave-one-out identity; Hastie,
Tibshirani and Friedman 2009, section 7.10), so one eigendecomposition serves every fold, penalty and permutation.

Both clip each feature of predicted rows to `gram.REACH` standard deviations beyond its range over the rows that fitted
the prediction, where penalties are tried as well as in the end.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from otoscope.errors import EvaluationError
from otoscope.linear.gram import clip_to_fitted, live_columns
from otoscope.linear.logistic import rotate
from otoscope.resampling.groups import check_rows, missing_patterns, null_summary, r2_from_sums, split_rows
from otoscope.resampling.intervals import R2_SCALE, jackknife_sums

PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)

GROUP_PENALTIES = tuple(float(10.0**power) for power in range(-3, 5))
"""Penalties, for a Gram matrix with a mean diagonal of 1."""

CONSTANT = 1e4
"""Square of the constant feature that serves as intercept: large, so that it is barely penalised."""


@dataclass(frozen=True)
class RidgeSettings:
    """Grid (relative to the number of features that vary) and repetitions of `fit_ridge`."""

    penalties: Sequence[float] = PENALTIES
    permutations: int = 20


class RidgeFits(NamedTuple):
    """Result of `fit_ridge`; NaN for a factor that could not be fitted. `guesses` are predictions for all rows."""

    r2: Float[np.ndarray, " factors"]
    low: Float[np.ndarray, " factors"]
    high: Float[np.ndarray, " factors"]
    null_mean: Float[np.ndarray, " factors"]
    null_high: Float[np.ndarray, " factors"]
    valid_r2: Float[np.ndarray, " factors"]
    penalty: Float[np.ndarray, " factors"]
    guesses: Float[np.ndarray, "rows factors"]


def fit_ridge(
    features: Float[np.ndarray, "rows p"],
    targets: Float[np.ndarray, "rows factors"],
    *,
    groups: Shaped[np.ndarray, " rows"],
    split: Shaped[np.ndarray, " rows"],
    settings: RidgeSettings | None = None,
    seed: int = 0,
) -> RidgeFits:
    """Return held-out R2 of a tuned linear map for every target, with interval and null.

    Args:
        features: any representation, one row per clip.
        targets: factors; NaN where a clip has no value.
        groups: units that no two splits may share (singer, speaker).
        split: train, valid or test for each row.
        settings: grid and repetitions.
        seed: of the permutations.

    R2 is relative to the mean of the fitted rows. The null refits targets permuted among the
    training and validation rows, choice of penalty included. Raises `EvaluationError` for non-finite
    features, a missing split, or no feature that varies.
    """
    settings = settings or RidgeSettings()
    _check(features, targets, groups, settings)
    parts = {name: split_rows(split, name, len(features)) for name in ("train", "valid", "test")}
    live = live_columns(features[parts["train"]])
    if not live.any():
        raise EvaluationError(
            "all features are constant on the training rows; a linear map needs at least one that varies"
        )
    n_factors = targets.shape[1]
    five = [np.full(n_factors, math.nan) for _ in range(5)]
    valid_r2, penalty = np.full(n_factors, math.nan), np.full(n_factors, math.nan)
    guesses = np.full(targets.shape, math.nan)
    for members, present in missing_patterns(~np.isnan(targets)):
        here = {name: np.flatnonzero(rows & present) for name, rows in parts.items()}
        fitted = members[_can_be_fitted(targets[:, members], here)]
        if not len(fitted):
            continue
        found = _fit(features[:, live], targets[:, fitted], here, settings, seed)
        names, numbers = np.unique(np.asarray(groups)[here["test"]], return_inverse=True)
        sums = np.zeros((len(names), len(fitted), 2))
        np.add.at(sums, numbers, found.squares)
        shown = jackknife_sums(sums, r2_from_sums, scale=R2_SCALE)
        for curve, values in zip(five, (*shown, *null_summary(found.null)), strict=True):
            curve[fitted] = values
        valid_r2[fitted], penalty[fitted] = found.valid_r2, found.penalty
        guesses[:, fitted] = found.guesses
    r2, low, high, null_mean, null_high = five
    return RidgeFits(r2, low, high, null_mean, null_high, valid_r2, penalty, guesses)


class _RidgeResult(NamedTuple):
    squares: Float[np.ndarray, "test factors 2"]
    null: Float[np.ndarray, "permutations factors"]
    valid_r2: Float[np.ndarray, " factors"]
    penalty: Float[np.ndarray, " factors"]
    guesses: Float[np.ndarray, "rows factors"]


def _fit(
    features: Float[np.ndarray, "rows p"],
    targets: Float[np.ndarray, "rows factors"],
    here: dict[str, Int[np.ndarray, " _part"]],
    settings: RidgeSettings,
    seed: int,
) -> _RidgeResult:
    train, valid, test = (here[name] for name in ("train", "valid", "test"))
    fitted = np.concatenate([train, valid])
    rng = np.random.default_rng(seed)
    orders = [fitted, *(rng.permutation(fitted) for _ in range(settings.permutations))]
    known = np.concatenate([targets[order] for order in orders], axis=1).astype(np.float64)
    n_train, n_factors = len(train), targets.shape[1]
    penalties = np.asarray(settings.penalties, dtype=np.float64) * features.shape[1]

    mean, scale = features[train].mean(axis=0, dtype=np.float64), features[train].std(axis=0, dtype=np.float64)
    # features that vary over all training rows may be constant on the rows that have these factors
    varies = live_columns(features[train])
    standard = np.where(varies, features - mean, 0.0) / np.where(varies, scale, 1.0)
    tried = _Rotated.build(standard[train], standard[valid])
    products, centre = tried.products(known[:n_train]), known[:n_train].mean(axis=0)
    trial = np.stack([tried.rows[n_train:] @ (products / (tried.variance + p)[:, None]) for p in penalties]) + centre
    errors, away = ((known[n_train:] - trial) ** 2).sum(axis=1), ((known[n_train:] - centre) ** 2).sum(axis=0)
    penalty = penalties[errors.argmin(axis=0)]
    valid_r2 = r2_from_sums(np.stack([errors.min(axis=0), away], axis=-1))[:n_factors]

    others = np.setdiff1d(np.arange(len(features)), fitted)
    order = np.concatenate([fitted, others])
    final = _Rotated.build(standard[fitted], standard[others])
    weights = final.products(known) / (final.variance[:, None] + penalty)
    guesses = np.empty(targets.shape)
    guesses[order] = final.rows @ weights[:, :n_factors] + known[:, :n_factors].mean(axis=0)
    in_test = np.argsort(order)[test]
    truth, centre = np.tile(targets[test].astype(np.float64), (1, len(orders))), known.mean(axis=0)
    wrong = truth - (final.rows[in_test] @ weights + centre)
    squares = np.stack([wrong**2, (truth - centre) ** 2], axis=-1)
    null = r2_from_sums(squares[:, n_factors:].sum(axis=0)).reshape(settings.permutations, n_factors)
    return _RidgeResult(squares[:, :n_factors], null, valid_r2, penalty[:n_factors] / features.shape[1], guesses)


class _Rotated(NamedTuple):
    """Fitted rows and then others, these clipped to the range of the first, in their principal coordinates."""

    rows: Float[np.ndarray, "rows rank"]
    variance: Float[np.ndarray, " rank"]
    fitted: int

    @classmethod
    def build(cls, fitted: Float[np.ndarray, "fitted p"], others: Float[np.ndarray, "others p"]) -> "_Rotated":
        rows = np.concatenate([fitted, clip_to_fitted(others, fitted)]) - fitted.mean(axis=0)
        span = rotate(rows, fitted=len(fitted))
        return cls(span.rows[:, :-1], span.variance, len(fitted))

    def products(self, targets: Float[np.ndarray, "fitted targets"]) -> Float[np.ndarray, "rank targets"]:
        return self.rows[: self.fitted].T @ (targets - targets.mean(axis=0)) / self.fitted


def _can_be_fitted(
    targets: Float[np.ndarray, "rows factors"], here: dict[str, Int[np.ndarray, " _part"]]
) -> Bool[np.ndarray, " factors"]:
    if not all(len(rows) for rows in here.values()):
        return np.zeros(targets.shape[1], dtype=bool)
    return live_columns(targets[here["train"]])


def _check(
    features: Float[np.ndarray, "rows p"],
    targets: Float[np.ndarray, "rows factors"],
    groups: Shaped[np.ndarray, " rows"],
    settings: RidgeSettings,
) -> None:
    check_rows(features, targets, groups)
    if not settings.penalties or min(settings.penalties) <= 0:
        raise EvaluationError(f"penalties must be one or more numbers above 0, got {tuple(settings.penalties)}")


class GroupRidge(NamedTuple):
    """Result of `fit_group_ridge`.

    `held` are out-of-fold predictions of the fitted rows, `others` predictions of the rows that were not fitted;
    `penalty` is the chosen penalty per problem.
    """

    held: Float[np.ndarray, "problems fitted outputs"]
    others: Float[np.ndarray, "problems others outputs"]
    penalty: Float[np.ndarray, " problems"]


def fit_group_ridge(
    fitted: Float[np.ndarray, "fitted p"],
    others: Float[np.ndarray, "others p"],
    targets: Float[np.ndarray, "problems fitted outputs"],
    *,
    folds: Int[np.ndarray, " fitted"],
    penalties: tuple[float, ...] = GROUP_PENALTIES,
) -> GroupRidge:
    """Fit every problem on the fitted rows and predict the others.

    Features are standardised by the fitted rows; the outputs of a problem share the penalty with the
    smallest squared error over the folds. Raises `EvaluationError` if all features are constant.
    """
    live = live_columns(fitted)
    if not live.any():
        raise EvaluationError("all features are constant on the fitted rows; at least one must vary")
    near, far = _with_constant(fitted[:, live], others[:, live])
    parts = _decompose(near)
    variance, left, right = parts
    problems, n, outputs = targets.shape
    flat = targets.transpose(1, 0, 2).reshape(n, problems * outputs).astype(np.float64)
    turned = left.T @ flat
    # rows of each fold, clipped to the range of the other folds, in the same coordinates
    clipped = np.empty_like(left)
    for fold in np.unique(folds):
        clipped[folds == fold] = clip_to_fitted(near[folds == fold], near[folds != fold]) @ right
    error = np.full((len(penalties), problems), np.inf)
    held: list[Float[np.ndarray, "fitted columns"]] = []
    for number, penalty in enumerate(penalties):
        guess = _held_out(parts, clipped, penalty, turned, flat, folds)
        held.append(guess)
        error[number] = ((guess - flat) ** 2).sum(axis=0).reshape(problems, outputs).sum(axis=1)
    best = error.argmin(axis=0)
    chosen = np.asarray(penalties)[best]
    kept = np.stack([held[best[j]].reshape(n, problems, outputs)[:, j] for j in range(problems)])
    scale = np.sqrt(variance)[:, None] / (variance[:, None] + np.repeat(chosen, outputs))
    guesses = (clip_to_fitted(far, near) @ right) @ (scale * turned)
    return GroupRidge(kept, guesses.reshape(len(others), problems, outputs).transpose(1, 0, 2), chosen)


def _with_constant(
    fitted: Float[np.ndarray, "fitted p"], others: Float[np.ndarray, "others p"]
) -> tuple[Float[np.ndarray, "fitted q"], Float[np.ndarray, "others q"]]:
    near, far = fitted.astype(np.float64), others.astype(np.float64)
    mean, scale = near.mean(axis=0), near.std(axis=0) * np.sqrt(near.shape[1])

    def made(rows: Float[np.ndarray, "rows p"]) -> Float[np.ndarray, "rows q"]:
        return np.concatenate([(rows - mean) / scale, np.full((len(rows), 1), np.sqrt(CONSTANT))], axis=1)

    return made(near), made(far)


class _Parts(NamedTuple):
    variance: Float[np.ndarray, " rank"]
    left: Float[np.ndarray, "fitted rank"]
    right: Float[np.ndarray, "q rank"]


def _decompose(rows: Float[np.ndarray, "fitted q"]) -> _Parts:
    """Return the singular vectors of rows and the squares of their singular values, by the smaller Gram matrix."""
    if rows.shape[1] < rows.shape[0]:
        variance, right = np.linalg.eigh(rows.T @ rows)
        keep = variance > 1e-12 * variance[-1]
        variance, right = variance[keep], right[:, keep]
        return _Parts(variance, rows @ right / np.sqrt(variance), right)
    variance, left = np.linalg.eigh(rows @ rows.T)
    keep = variance > 1e-12 * variance[-1]
    variance, left = variance[keep], left[:, keep]
    return _Parts(variance, left, rows.T @ left / np.sqrt(variance))


def _held_out(
    parts: _Parts,
    clipped: Float[np.ndarray, "fitted rank"],
    penalty: float,
    turned: Float[np.ndarray, "rank columns"],
    targets: Float[np.ndarray, "fitted columns"],
    folds: Int[np.ndarray, " fitted"],
) -> Float[np.ndarray, "fitted columns"]:
    """Return the prediction of the clipped rows of each fold by the fit to the other folds."""
    guess = np.empty_like(targets)
    shrink = parts.variance / (parts.variance + penalty)
    shrunk, scale = shrink[:, None] * turned, shrink / np.sqrt(parts.variance)
    for fold in np.unique(folds):
        rows = np.flatnonzero(folds == fold)
        part = parts.left[rows]
        left_over = np.eye(len(rows)) - (part * shrink) @ part.T
        change = np.linalg.solve(left_over, targets[rows] - part @ shrunk)
        guess[rows] = (clipped[rows] * scale) @ (turned - part.T @ change)
    return guess
