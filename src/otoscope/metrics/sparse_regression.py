"""Sparse regression and sparse probes: held-out scores of a factor or label from its 1, 2, 4, ... 64 best latents.

k-sparse probing (Gurnee et al., arXiv:2305.01610), applied to factors too: a direct test of whether fewer dimensions
encode the same. It needs no entropy and no normaliser, and treats dense units, principal components and codes alike.

- Factors: latents are selected on training rows, greedily and for many targets at once from the Gram matrix; the ridge
  penalty is chosen on validation rows, the weights are fitted on both, and R2 is reported on test rows.
- Labels: latents are ranked on training rows, and a logistic regression uses the first k of them
  (`otoscope.metrics.probes`: penalty chosen on validation rows, fitted on both, reported on test rows).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from otoscope.errors import EvaluationError
from otoscope.linear.gram import live_columns, moments_of
from otoscope.linear.readers import SIZES, rank_by_f
from otoscope.metrics.probes import PENALTIES, ProbeSettings, fit_probe
from otoscope.resampling.exchange import score_factors
from otoscope.resampling.groups import check_rows, each_fold, mean_known, missing_patterns, split_rows
from otoscope.resampling.intervals import Score, fold_overlap, widen

CHUNK = 32


def pursue(
    gram: Float[np.ndarray, "p p"],
    cross: Float[np.ndarray, "p targets"],
    *,
    size: int,
    ridge: float = 1e-3,
) -> Int[np.ndarray, "targets size"]:
    """Return the columns selected by orthogonal matching pursuit for each target, in order of selection.

    Each step adds the column with the largest absolute product with the target's residual and refits all weights (Pati
    et al., Asilomar 1993; from the Gram matrix only, as Rubinstein et al., Technion CS-2008-08). `ridge` on the
    diagonal makes duplicated columns harmless. Ties go to the first column.

    Args:
        gram: X'X/n of standardised columns.
        cross: X'Y/n.
        size: number of columns to select, at most p.
        ridge: added to the diagonal of the fits.
    """
    # scikit-learn's orthogonal_mp_gram selects the same sets (64 of 512 columns for 150 targets) but takes 0.79 s
    # instead of 0.12 s, and 1.2 s with the path that gives the order.
    chosen = np.empty((cross.shape[1], size), dtype=np.int64)
    for begin in range(0, cross.shape[1], CHUNK):
        chosen[begin : begin + CHUNK] = _pursue(gram, cross[:, begin : begin + CHUNK].T, size, ridge)
    return chosen


def _pursue(
    gram: Float[np.ndarray, "p p"], cross: Float[np.ndarray, "targets p"], size: int, ridge: float
) -> Int[np.ndarray, "targets size"]:
    targets = np.arange(len(cross))
    chosen = np.empty((len(cross), size), dtype=np.int64)
    # row k: products of every column with the k-th selected one, orthogonalised against those before it
    turned = np.empty((len(cross), size, len(gram)))
    left = cross.astype(np.float64).copy()
    free = np.ones(cross.shape, dtype=bool)
    for step in range(size):
        best = np.where(free, np.abs(left), -1.0).argmax(axis=1)
        chosen[:, step] = best
        free[targets, best] = False
        # Gram-Schmidt on products: the part of the new column orthogonal to those selected
        so_far = turned[targets, :step, best]
        fresh = gram[best] - (so_far[:, None] @ turned[:, :step])[:, 0]
        length = np.sqrt(np.maximum(fresh[targets, best] + ridge, ridge))
        fresh /= length[:, None]
        turned[:, step] = fresh
        left -= (left[targets, best] / length)[:, None] * fresh
    return chosen


@dataclass(frozen=True)
class SparseSettings:
    """Points of the curve, and grid of ridge penalties (times the number of rows)."""

    sizes: Sequence[int] = SIZES
    penalties: Sequence[float] = (1e-3, 1e-2, 1e-1, 1.0)


class FactorCurves(NamedTuple):
    """Held-out R2 by number of latents; NaN for a factor that could not be fitted.

    `chosen` lists the latents in order of selection (-1 if there are fewer live ones or the factor was not fitted), of
    a cross-fit in the first fold; `n` and `groups` count the test rows and groups that have the factor.
    """

    sizes: tuple[int, ...]
    r2: Float[np.ndarray, "factors sizes"]
    low: Float[np.ndarray, "factors sizes"]
    high: Float[np.ndarray, "factors sizes"]
    null_mean: Float[np.ndarray, "factors sizes"]
    null_high: Float[np.ndarray, "factors sizes"]
    chosen: Int[np.ndarray, "factors most"]
    n: Int[np.ndarray, " factors"]
    groups: Int[np.ndarray, " factors"]


def sparse_regression(
    features: Float[np.ndarray, "*folds rows p"],
    targets: Float[np.ndarray, "rows factors"],
    *,
    groups: Shaped[np.ndarray, " rows"],
    split: Shaped[np.ndarray, "*folds rows"],
    settings: SparseSettings | None = None,
) -> FactorCurves:
    """Return each factor's curve of held-out R2 over the number of latents.

    Args:
        features: any representation, one row per clip; of a cross-fit also one such matrix per fold.
        targets: factors, preferably robust ones; NaN if missing.
        groups: group of each row (singer, speaker); no group may occur in two splits.
        split: train, valid or test for each row; of a cross-fit, one row per fold.
        settings: sizes and penalties.

    Latents are selected by orthogonal matching pursuit on the standardised training rows. A size above the number of
    live latents uses all of them. R2 is relative to the mean of the fitted rows and may be negative. Memory is about
    8 p^2 bytes. Raises `EvaluationError` for non-finite features, a missing split, sizes that do not increase, or
    features that are all constant.
    """
    settings = settings or SparseSettings()
    _check(features, targets, groups, settings)
    sizes, n_factors = tuple(settings.sizes), targets.shape[1]
    folds = [_fit_split(own, targets, one, settings) for own, one in each_fold(features, split)]
    guesses, centre = (mean_known(np.stack([getattr(fold, name) for fold in folds])) for name in ("guesses", "centre"))
    truth, middle = (np.repeat(x.astype(np.float64), len(sizes), axis=1) for x in (targets, centre))
    found = score_factors(truth, guesses.reshape(truth.shape), middle, groups)
    ends = widen(found.r2, found.low, found.high, factor=fold_overlap(len(folds)), bounds=(-math.inf, 1.0))
    curves = (x.reshape(n_factors, len(sizes)) for x in (found.r2, *ends, found.null_mean, found.null_high))
    tested = ~np.isnan(centre)
    n_groups = np.asarray([len(np.unique(groups[rows])) for rows in tested.T], dtype=np.int64)
    return FactorCurves(sizes, *curves, chosen=folds[0].chosen, n=tested.sum(axis=0), groups=n_groups)


class _Fold(NamedTuple):
    """Selected latents, and of the test rows of a split their predictions and the means of the rows fitted for them."""

    chosen: Int[np.ndarray, "factors most"]
    guesses: Float[np.ndarray, "rows factors sizes"]
    centre: Float[np.ndarray, "rows factors"]


def _fit_split(
    features: Float[np.ndarray, "rows p"],
    targets: Float[np.ndarray, "rows factors"],
    split: Shaped[np.ndarray, " rows"],
    settings: SparseSettings,
) -> _Fold:
    parts = {name: split_rows(split, name, len(features)) for name in ("train", "valid", "test")}
    chosen = np.full((targets.shape[1], settings.sizes[-1]), -1)
    guesses = np.full((*targets.shape, len(settings.sizes)), math.nan)
    centre = np.full(targets.shape, math.nan)
    for members, present in missing_patterns(~np.isnan(targets)):
        here = {name: rows & present for name, rows in parts.items()}
        varies = live_columns(targets[here["train"]][:, members]) if here["train"].any() else np.zeros(len(members))
        fitted = members[np.asarray(varies, dtype=bool)]
        if not len(fitted) or not all(rows.any() for rows in here.values()):
            continue
        trials = _try(features, targets[:, fitted], here, settings)
        chosen[fitted, : trials.chosen.shape[1]] = trials.chosen
        guesses[np.ix_(here["test"], fitted)] = trials.guesses
        centre[np.ix_(here["test"], fitted)] = trials.centre
    return _Fold(chosen, guesses, centre)


class _Trials(NamedTuple):
    """Selected latents, predictions of the test rows from the first of them, and means of the fitted rows."""

    chosen: Int[np.ndarray, "factors most"]
    guesses: Float[np.ndarray, "test factors sizes"]
    centre: Float[np.ndarray, " factors"]


def _try(
    features: Float[np.ndarray, "rows p"],
    targets: Float[np.ndarray, "rows factors"],
    parts: dict[str, Bool[np.ndarray, " rows"]],
    settings: SparseSettings,
) -> _Trials:
    """Fit all targets as one batch."""
    train, valid, test = (np.flatnonzero(parts[name]) for name in ("train", "valid", "test"))
    live = np.flatnonzero(live_columns(features[train]))
    if not len(live):
        raise EvaluationError("all features are constant on the training rows; there is nothing to choose from")
    fitted = np.concatenate([train, valid])
    known = targets[fitted].astype(np.float64)

    moments = moments_of(features[train][:, live])
    x_fitted, x_test = moments.within(features[fitted][:, live]), moments.within(features[test][:, live])
    n_train, most = len(train), min(settings.sizes[-1], len(live))
    centred = known[:n_train] - known[:n_train].mean(axis=0)
    taken = pursue(moments.gram, moments.cross(centred / np.maximum(centred.std(axis=0), 1e-300)), size=most)

    guesses = [
        _guess(x_fitted[:, columns], known[:, j], x_test[:, columns], n_train, settings)
        for j, columns in enumerate(taken)
    ]
    return _Trials(live[taken], np.stack(guesses, axis=1), known.mean(axis=0))


def _guess(
    fitted: Float[np.ndarray, "fitted most"],
    known: Float[np.ndarray, " fitted"],
    others: Float[np.ndarray, "test most"],
    n_train: int,
    settings: SparseSettings,
) -> Float[np.ndarray, "test sizes"]:
    """Return predictions from the first 1, 2, 4, ... columns, each with its own penalty."""
    guesses = np.empty((len(others), len(settings.sizes)))
    for i, size in enumerate(min(size, fitted.shape[1]) for size in settings.sizes):
        trained = _ridge(fitted[:n_train, :size], known[:n_train], settings.penalties)
        errors = ((known[n_train:, None] - fitted[n_train:, :size] @ trained.weights - trained.offsets) ** 2).sum(
            axis=0
        )
        best = settings.penalties[int(errors.argmin())]
        final = _ridge(fitted[:, :size], known, [best])
        guesses[:, i] = (others[:, :size] @ final.weights + final.offsets)[:, 0]
    return guesses


class _Ridge(NamedTuple):
    weights: Float[np.ndarray, "size penalties"]
    offsets: Float[np.ndarray, " penalties"]


def _ridge(x: Float[np.ndarray, "rows size"], y: Float[np.ndarray, " rows"], penalties: Sequence[float]) -> _Ridge:
    mean, centre = x.mean(axis=0), y.mean()
    spread = x - mean
    variance, axes = np.linalg.eigh(spread.T @ spread / len(x))
    turned = axes.T @ (spread.T @ (y - centre) / len(x))
    weights = axes @ (turned[:, None] / (np.maximum(variance, 0)[:, None] + np.asarray(penalties)))
    return _Ridge(weights, centre - mean @ weights)


def _check(
    features: Float[np.ndarray, "*folds rows p"],
    targets: Float[np.ndarray, "rows factors"],
    groups: Shaped[np.ndarray, " rows"],
    settings: SparseSettings,
) -> None:
    check_rows(features, targets, groups)
    check_sizes(settings.sizes)


def check_sizes(sizes: Sequence[int]) -> None:
    """Raise `EvaluationError` unless sizes increase from 1 or more."""
    if not sizes or sizes[0] < 1 or any(b <= a for a, b in pairwise(sizes)):
        raise EvaluationError(f"sizes must increase from 1 or more, got {tuple(sizes)}; {SIZES} is usual")


@dataclass(frozen=True)
class SparseProbeSettings:
    """Points of the curve, grid of penalties, and the tolerance of the fits."""

    sizes: Sequence[int] = SIZES
    penalties: Sequence[float] = PENALTIES
    tolerance: float = 1e-3


class LabelCurve(NamedTuple):
    """Balanced accuracy on test rows by number of latents, and the latents in order of rank (in the first fold)."""

    sizes: tuple[int, ...]
    scores: tuple[Score, ...]
    chosen: Int[np.ndarray, " most"]
    n: int
    groups: int


def sparse_probe(
    features: Float[np.ndarray, "*folds rows p"],
    labels: Sequence[str | None] | Shaped[np.ndarray, " rows"],
    *,
    groups: Shaped[np.ndarray, " rows"],
    split: Shaped[np.ndarray, "*folds rows"],
    settings: SparseProbeSettings | None = None,
) -> LabelCurve:
    """Return the curve of balanced accuracy over the number of latents for one label.

    Latents are ranked by the F ratio of an analysis of variance between the classes of the training rows (for two
    classes: the squared mean difference over the variance within classes). A size above the number of live latents uses
    all of them. Arguments and errors as in `probes.fit_probe`.
    """
    settings = settings or SparseProbeSettings()
    check_sizes(settings.sizes)
    names = np.asarray(["" if x is None else str(x) for x in labels], dtype=np.str_)
    if not features.shape[-2] == len(names) == len(groups):
        raise EvaluationError(
            f"{features.shape[-2]} rows, {len(names)} labels and {len(groups)} groups disagree; give one each a row"
        )
    own = list(each_fold(features, split))
    rankings = [_rank(rows, names, one, settings.sizes[-1]) for rows, one in own]
    few = ProbeSettings(settings.penalties, settings.tolerance, sizes=())
    probes = [
        fit_probe(
            [rows[:, ranking[:size]] for (rows, _), ranking in zip(own, rankings, strict=True)],
            names,
            groups=groups,
            split=split,
            settings=few,
        )
        for size in settings.sizes
    ]
    scores = tuple(probe.balanced_accuracy for probe in probes)
    return LabelCurve(tuple(settings.sizes), scores, rankings[0], probes[0].n, probes[0].groups)


def _rank(
    features: Float[np.ndarray, "rows p"],
    names: Shaped[np.ndarray, " rows"],
    split: Shaped[np.ndarray, " rows"],
    most: int,
) -> Int[np.ndarray, " most"]:
    train = split_rows(split, "train", len(names)) & (names != "")
    ranking = rank_by_f(features[train], names[train])[:most]
    if not len(ranking):
        raise EvaluationError("all features are constant on the training rows; there is nothing to choose from")
    return ranking
