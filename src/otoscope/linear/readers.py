"""Linear readers of a representation: ridge regression, the LASSO, and ridge regression on the best dimensions.

A wide code that holds one clean dimension per source is read badly by ridge regression, which spreads weight over all
idle dimensions, and well by a reader that may leave dimensions out; dense activations are read best by ridge
regression. A comparison by one reader alone therefore says something about the reader. Each tunes its penalty on folds
of whole groups and returns what it predicts for the fitted rows from the other folds.
"""

import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int, Shaped

from otoscope.linear.gram import REACH, Gramian, live_columns
from otoscope.linear.lasso_tuning import PenaltyGrid, make_fold, predict_folds, tune
from otoscope.linear.ridge import fit_group_ridge

SIZES = (1, 2, 4, 8, 16, 32, 64)
"""Numbers of dimensions that sparse readers and probes try."""

SPARSE_PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)
"""Penalties of the sparse reader, for a Gram matrix with a diagonal of 1."""

LASSO_GRID = PenaltyGrid(np.geomspace(1, 1e-2, 15), 3, 1e-3, 1e-4)


class Reading(NamedTuple):
    """Predictions per problem: of the fitted rows from the other folds, and of the other rows."""

    held: Float[np.ndarray, "problems fitted outputs"]
    others: Float[np.ndarray, "problems others outputs"]


@runtime_checkable
class Reader(Protocol):
    """Linear map from rows to outputs, tuned on folds; raises `EvaluationError` if all features are constant."""

    def __call__(
        self,
        fitted: Float[np.ndarray, "fitted p"],
        others: Float[np.ndarray, "others p"],
        targets: Float[np.ndarray, "problems fitted outputs"],
        *,
        folds: Int[np.ndarray, " fitted"],
    ) -> Reading:
        """Fit every problem on the fitted rows and predict the others."""
        ...


def read_by_ridge(
    fitted: Float[np.ndarray, "fitted p"],
    others: Float[np.ndarray, "others p"],
    targets: Float[np.ndarray, "problems fitted outputs"],
    *,
    folds: Int[np.ndarray, " fitted"],
) -> Reading:
    """Return predictions from all dimensions with an L2 penalty; see `fit_group_ridge`."""
    found = fit_group_ridge(fitted, others, targets, folds=folds)
    return Reading(found.held, found.others)


def read_by_lasso(
    fitted: Float[np.ndarray, "fitted p"],
    others: Float[np.ndarray, "others p"],
    targets: Float[np.ndarray, "problems fitted outputs"],
    *,
    folds: Int[np.ndarray, " fitted"],
) -> Reading:
    """Return predictions with an L1 penalty, chosen for each output."""
    live = live_columns(fitted)
    problems, n, outputs = targets.shape
    flat = targets.transpose(1, 0, 2).reshape(n, problems * outputs).astype(np.float64)
    rows = Gramian(fitted[:, live])
    parts = [make_fold(rows, fitted=folds != f, scored=folds == f, reach=REACH) for f in np.unique(folds)]
    whole = rows.moments(np.ones(n, dtype=bool))
    with ThreadPoolExecutor(1) as pool:
        tuned = tune(rows, whole, parts, flat, LASSO_GRID, pool)
    held = predict_folds(rows, parts, flat, tuned, LASSO_GRID.tolerance)
    far = rows.within(whole, rows.apply(others[:, live]), reach=REACH)
    scale = flat.std(axis=0)
    guesses = far @ tuned.weights.T * np.where(scale > 0, scale, 1) + flat.mean(axis=0)
    return Reading(*(part.reshape(-1, problems, outputs).transpose(1, 0, 2) for part in (held, guesses)))


def read_by_few(
    fitted: Float[np.ndarray, "fitted p"],
    others: Float[np.ndarray, "others p"],
    targets: Float[np.ndarray, "problems fitted outputs"],
    *,
    folds: Int[np.ndarray, " fitted"],
) -> Reading:
    """Return predictions by ridge regression from the best 1, 2, 4, ... 64 dimensions (k-sparse probe).

    Dimensions are ranked by the sum over outputs of their squared correlation (Gurnee et al., arXiv 2305.01610). Their
    number and the penalty have the smallest squared error over the folds; a fold takes part neither in the ranking nor
    in the fit that predict it.
    """
    live = live_columns(fitted)
    near, far = fitted[:, live].astype(np.float64), others[:, live].astype(np.float64)
    held, guesses = np.zeros(targets.shape), np.zeros((len(targets), len(others), targets.shape[2]))
    for i, target in enumerate(targets.astype(np.float64)):
        outside = {f: _path(near[folds != f], target[folds != f], near[folds == f]) for f in np.unique(folds)}
        errors = {
            key: sum(float(((outside[fold][key] - target[folds == fold]) ** 2).sum()) for fold in outside)
            for key in outside[folds[0]]
        }
        best = min(errors, key=lambda key: errors[key])
        for fold, path in outside.items():
            held[i, folds == fold] = path[best]
        guesses[i] = _path(near, target, far)[best]
    return Reading(held, guesses)


def _path(
    rows: Float[np.ndarray, "rows p"], targets: Float[np.ndarray, "rows outputs"], others: Float[np.ndarray, "others p"]
) -> Mapping[tuple[int, float], Float[np.ndarray, "others outputs"]]:
    """Return predictions of other rows by number of dimensions and penalty."""
    mean, scale = rows.mean(axis=0), rows.std(axis=0)
    scale = np.where(scale > 1e-12 * (np.abs(mean) + 1e-300), scale, np.inf)
    near, centre = (rows - mean) / scale, targets.mean(axis=0)
    cross = near.T @ (targets - centre) / len(rows)
    spread = targets.std(axis=0)
    ranked = np.argsort(-((cross / np.where(spread > 0, spread, np.inf)) ** 2).sum(axis=1), kind="stable")[: SIZES[-1]]
    near, far, cross = near[:, ranked], ((others - mean) / scale)[:, ranked], cross[ranked]
    # a latent that barely fires in these rows may be dozens of deviations away in others
    far = np.clip(far, near.min(axis=0) - REACH, near.max(axis=0) + REACH)
    gram = near.T @ near / len(rows)
    found: dict[tuple[int, float], Float[np.ndarray, "others outputs"]] = {}
    for size in SIZES:
        k = min(size, len(ranked))
        values, axes = np.linalg.eigh(gram[:k, :k])
        for penalty in SPARSE_PENALTIES:
            weights = axes @ ((axes.T @ cross[:k]) / (np.maximum(values, 0) + penalty)[:, None])
            found[size, penalty] = far[:, :k] @ weights + centre
    return found


READERS: Mapping[str, Reader] = {
    "ridge": read_by_ridge,
    "few dimensions": read_by_few,
    "LASSO": read_by_lasso,
}
"""Readers by name, in the order in which ties are resolved."""


def rank_by_f(rows: Float[np.ndarray, "rows p"], names: Shaped[np.ndarray, " rows"]) -> Int[np.ndarray, " live"]:
    """Return the columns that vary, by decreasing F ratio between classes.

    F is the variance between class means over the variance within classes. Columns that separate all classes without
    variance within them come first.
    """
    live = live_columns(rows)
    x = rows[:, live].astype(np.float64)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    between = np.zeros(x.shape[1])
    for name in np.unique(names):
        members = x[names == name]
        between += len(members) * members.mean(axis=0) ** 2
    within = len(x) - between
    # with unit variance F increases with the share between classes, and rounding cannot reverse it
    ratio = np.where(within > 1e-12 * len(x), between / np.maximum(within, 1e-12 * len(x)), math.inf)
    return np.flatnonzero(live)[np.argsort(-ratio, kind="stable")]
