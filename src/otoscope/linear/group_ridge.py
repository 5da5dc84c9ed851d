"""Ridge regression of many targets with the penalty chosen by leave-group-out cross-validation.

Leaving a fold out needs no new fit: with H the hat matrix of all fitted rows and g the rows of a
fold, the prediction of the other folds for it is y_g - (I - H_gg)^-1 (y_g - (Hy)_g) (the block form of
the leave-one-out identity; Hastie, Tibshirani and Friedman 2009, section 7.10), so one
eigendecomposition serves every fold, penalty and permutation.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from otoscope.errors import EvaluationError
from otoscope.linear.gram import live_columns

PENALTIES = tuple(float(10.0**power) for power in range(-3, 5))
"""Penalties, for a Gram matrix with a mean diagonal of 1."""

CONSTANT = 1e4
"""Square of the constant feature that serves as intercept: large, so that it is barely penalised."""


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
    penalties: tuple[float, ...] = PENALTIES,
) -> GroupRidge:
    """Fit every problem on the fitted rows and predict the others.

    Features are standardised by the fitted rows; the outputs of a problem share the penalty with the
    smallest squared error over the folds. Raises `EvaluationError` if all features are constant.
    """
    live = live_columns(fitted)
    if not live.any():
        raise EvaluationError("all features are constant on the fitted rows; at least one must vary")
    near, far = _with_constant(fitted[:, live], others[:, live])
    variance, left, right = _decompose(near)
    problems, n, outputs = targets.shape
    flat = targets.transpose(1, 0, 2).reshape(n, problems * outputs).astype(np.float64)
    turned = left.T @ flat
    error = np.full((len(penalties), problems), np.inf)
    held: list[Float[np.ndarray, "fitted columns"]] = []
    for number, penalty in enumerate(penalties):
        guess = _held_out(left, variance / (variance + penalty), turned, flat, folds)
        held.append(guess)
        error[number] = ((guess - flat) ** 2).sum(axis=0).reshape(problems, outputs).sum(axis=1)
    best = error.argmin(axis=0)
    chosen = np.asarray(penalties)[best]
    kept = np.stack([held[best[j]].reshape(n, problems, outputs)[:, j] for j in range(problems)])
    scale = np.sqrt(variance)[:, None] / (variance[:, None] + np.repeat(chosen, outputs))
    guesses = (far @ right) @ (scale * turned)
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
    left: Float[np.ndarray, "fitted rank"],
    shrink: Float[np.ndarray, " rank"],
    turned: Float[np.ndarray, "rank columns"],
    targets: Float[np.ndarray, "fitted columns"],
    folds: Int[np.ndarray, " fitted"],
) -> Float[np.ndarray, "fitted columns"]:
    guess = np.empty_like(targets)
    shrunk = shrink[:, None] * turned
    for fold in np.unique(folds):
        rows = np.flatnonzero(folds == fold)
        part = left[rows]
        left_over = np.eye(len(rows)) - (part * shrink) @ part.T
        guess[rows] = targets[rows] - np.linalg.solve(left_over, targets[rows] - part @ shrunk)
    return guess
