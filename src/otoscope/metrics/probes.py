"""Linear probes of labels, evaluated on held-out groups.

Multinomial logistic regression on features standardised by the training rows. With p the number of features read, the
loss is mean cross-entropy + penalty * p/2 |W|^2, in which every class has the same weight. Penalties are relative, so
that one grid serves a layer of 384 units and a code of 6,144. The penalty is chosen by balanced accuracy on the
validation groups (ties: lower cross-entropy). The probe reads all features, or the best 1, 2, 4, ... 64 by their F
ratio between the classes of the training rows: an L2 penalty alone spreads weight over every idle latent of a wide
code. The best number of features, with its own penalty, replaces all of them if its balanced accuracy on the validation
rows is higher beyond chance (`BEYOND`). The map is refitted on training and validation rows and scored on the test
groups. Each feature of a predicted row is clipped to `gram.REACH` standard deviations beyond its range over the rows
that fitted the prediction. The null permutes the labels of the test rows within their groups, or among groups if each
has one label (`otoscope.resampling.exchange`).

In a cross-fit each fold of groups is predicted by a probe that other groups fitted and tuned; interval and null are
those of the predictions of all folds together.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from otoscope.errors import EvaluationError
from otoscope.formatting import count
from otoscope.linear.gram import clip_to_fitted, live_columns
from otoscope.linear.logistic import fit_logistic, rotate
from otoscope.linear.readers import SIZES, rank_by_f
from otoscope.metrics.predictions import confusions, share_intervals, shares_right
from otoscope.resampling.exchange import exchange
from otoscope.resampling.groups import labelled_splits, null_summary, split_rows
from otoscope.resampling.intervals import Score, fold_overlap, widen
from otoscope.resampling.nulls import permutation_p

PENALTIES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Grid of penalties, relative to the number of features that vary."""


BEYOND = 1.645
"""Standard errors of the paired difference by which few features must be better than all (one-sided, 5 %).

With 40 validation clips, the best of 56 trials is often best by luck: without this margin, 34 of 52 probes of the demo
read few features and lost 2 points on test groups.
"""

COARSE = 10
"""Tolerance of trials on few features, relative to that of fits: they only choose."""


@dataclass(frozen=True)
class ProbeSettings:
    """Penalty grid of `fit_probe`, the tolerance of its fits, and numbers of best features to try besides all."""

    penalties: Sequence[float] = PENALTIES
    tolerance: float = 1e-4
    sizes: Sequence[int] = SIZES


class Probe(NamedTuple):
    """Held-out scores of a probe for one label.

    `confusion` counts test rows by true (first axis) and predicted class, in the order of `classes`; `penalty` is the
    chosen relative penalty; `valid_accuracy` and `valid_balanced_accuracy` are those on the validation rows after
    fitting the training rows alone (of a cross-fit, these three are means over folds); `n` and `groups` count the test
    rows and groups; `predicted` is the class of each test row, empty for other rows; `reader` names the chosen features
    ("all dimensions" or "8 dimensions"; different choices of the folds are joined by "or").
    """

    accuracy: Score
    balanced_accuracy: Score
    macro_f1: Score
    classes: tuple[str, ...]
    confusion: Int[np.ndarray, "classes classes"]
    penalty: float
    valid_accuracy: float
    valid_balanced_accuracy: float
    n: int
    groups: int
    predicted: Shaped[np.ndarray, " rows"]
    reader: str


def fit_probe(
    features: Float[np.ndarray, "*folds rows p"] | Sequence[Float[np.ndarray, "rows _p"]],
    labels: Sequence[str | None] | Shaped[np.ndarray, " rows"],
    *,
    groups: Shaped[np.ndarray, " rows"],
    split: Shaped[np.ndarray, "*folds rows"],
    settings: ProbeSettings | None = None,
    seed: int = 0,
) -> Probe:
    """Return accuracy, balanced accuracy and macro-F1 on the test groups, each with interval and null.

    Args:
        features: dense activations or codes, one row per clip; of a cross-fit also those of each fold.
        labels: class of each row; rows without a label (None or empty) are excluded.
        groups: group of each row (singer, speaker); no group may occur in two splits.
        split: train, valid or test for each row; of a cross-fit, one row per fold.
        settings: grid of penalties and numbers of features.
        seed: seed of the permutations.

    Balanced accuracy is the mean recall over the classes of the test rows. Macro-F1 is the mean over the classes that
    occur in the test rows or predictions (scikit-learn's rule). Rows of a class without training rows are left out; a
    class without test rows has no recall. Raises `EvaluationError` for fewer than two classes in the training
    rows, a missing split, features that are all constant, and non-finite features.
    """
    settings = settings or ProbeSettings()
    names = np.asarray(["" if x is None else str(x) for x in labels], dtype=np.str_)
    if not settings.penalties or min(settings.penalties) <= 0:
        raise EvaluationError(f"penalties must be one or more numbers above 0, got {tuple(settings.penalties)}")
    folds: list[_Fold] = []
    for number, one in labelled_splits(split, names != ""):
        rows = features if isinstance(features, np.ndarray) and features.ndim == 2 else features[number]
        _check(rows, names, groups)
        folds.append(_predict(rows, names, one, settings))
    predicted_names = np.full(len(names), "", dtype=names.dtype)
    for fold in folds:
        predicted_names[fold.rows] = fold.predicted
    tested = np.flatnonzero(predicted_names != "")
    classes = np.unique(np.concatenate([fold.classes for fold in folds]))
    truth, predicted = (np.searchsorted(classes, x[tested]) for x in (names, predicted_names))
    tables = confusions(truth, predicted, groups[tested], len(classes))
    null, intervals = _null_shares(truth, predicted, groups[tested], len(classes), seed), share_intervals(tables)
    p_values = permutation_p(np.asarray([interval.value for interval in intervals]), null)
    factor = fold_overlap(len(np.atleast_2d(split)))
    scores = [
        Score(
            interval.value,
            *(float(end) for end in widen(*interval, factor=factor, bounds=(0.0, 1.0))),
            *(float(number) for number in of_null),
        )
        for interval, *of_null in zip(intervals, *null_summary(null, most=1.0), p_values, strict=True)
    ]
    return Probe(
        *scores,
        classes=tuple(str(c) for c in classes),
        confusion=tables.sum(axis=0).astype(np.int64),
        penalty=float(np.mean([fold.penalty for fold in folds])),
        valid_accuracy=float(np.mean([fold.valid_accuracy for fold in folds])),
        valid_balanced_accuracy=float(np.mean([fold.valid_balanced_accuracy for fold in folds])),
        n=len(truth),
        groups=len(tables),
        predicted=predicted_names,
        reader=" or ".join(map(_reader, sorted({fold.size for fold in folds}))),
    )


ALL = sys.maxsize
"""Number of features that stands for all of them."""


def _reader(size: int) -> str:
    return "all dimensions" if size == ALL else count(size, "dimension")


class _Fold(NamedTuple):
    """Predicted classes of the test rows, all classes, chosen penalty and features, and scores on validation rows."""

    rows: Int[np.ndarray, " test"]
    predicted: Shaped[np.ndarray, " test"]
    classes: Shaped[np.ndarray, " classes"]
    penalty: float
    size: int
    valid_accuracy: float
    valid_balanced_accuracy: float


def _predict(
    features: Float[np.ndarray, "rows p"],
    names: Shaped[np.ndarray, " rows"],
    split: Shaped[np.ndarray, " rows"],
    settings: ProbeSettings,
) -> _Fold:
    learnt = np.isin(names, names[split_rows(split, "train", len(names)) & (names != "")])
    parts = [np.flatnonzero(split_rows(split, name, len(names)) & learnt) for name in ("train", "valid", "test")]
    classes, number = _number_classes(names, parts)
    n_train, n_fitted = len(parts[0]), len(parts[0]) + len(parts[1])
    known = number[np.concatenate(parts[:2])]
    trial = partial(_try, parts=parts, known=known, n_classes=len(classes), penalties=settings.penalties)
    best = trial(features, size=ALL, tolerance=settings.tolerance)
    if settings.sizes and _beyond_chance(best.missed):
        ranked = rank_by_f(features[parts[0]], known[:n_train])
        few = [
            trial(features[:, ranked[:size]], size=size, tolerance=COARSE * settings.tolerance)
            for size in settings.sizes
            if size < len(ranked)
        ]
        rival = max(few, key=lambda one: (one.balanced_accuracy, -one.doubt), default=best)
        best = rival if _beyond_chance(best.missed - rival.missed) else best
    logits = _fit_and_apply(
        best.data.rows[:n_fitted],
        best.data.rows[n_fitted:],
        known,
        best.penalty * best.data.n_live,
        best.data.variance,
        len(classes),
        settings.tolerance,
        start=best.start,
    )
    return _Fold(
        parts[2],
        classes[logits.argmax(axis=1)],
        classes,
        best.penalty,
        best.size,
        best.accuracy,
        best.balanced_accuracy,
    )


def _null_shares(
    truth: Int[np.ndarray, " test"],
    predicted: Int[np.ndarray, " test"],
    groups: Shaped[np.ndarray, " test"],
    n_classes: int,
    seed: int,
) -> Float[np.ndarray, "permutations 3"]:
    orders = exchange(truth, groups).orders(seed=seed)
    cells = [np.bincount(truth[order] * n_classes + predicted, minlength=n_classes**2) for order in orders]
    return shares_right(np.asarray(cells, dtype=np.float64).reshape(-1, n_classes, n_classes))


class _Data(NamedTuple):
    """Training, validation and test rows, in this order, in the span of the first two.

    Test rows are clipped to the range of the first two, and `tried`, the validation rows that choose the penalty, to
    that of the training rows.
    """

    rows: Float[np.ndarray, "rows q"]
    tried: Float[np.ndarray, "valid q"]
    variance: Float[np.ndarray, " rank"]
    n_live: int

    @classmethod
    def build(
        cls,
        features: Float[np.ndarray, "rows p"],
        train: Int[np.ndarray, " train"],
        valid: Int[np.ndarray, " valid"],
        test: Int[np.ndarray, " test"],
    ) -> "_Data":
        live = live_columns(features[train])
        if not live.any():
            raise EvaluationError("all features are constant on the training rows")
        used = features[np.concatenate([train, valid, test])][:, live].astype(np.float64)
        used -= used[: len(train)].mean(axis=0)
        used /= used[: len(train)].std(axis=0)
        fitted, first = used[: len(train) + len(valid)], used[: len(train)]
        far, tried = clip_to_fitted(used[len(fitted) :], fitted), clip_to_fitted(fitted[len(train) :], first)
        rows, variance = rotate(np.concatenate([fitted, far, tried]), fitted=len(fitted))
        return cls(rows[: len(used)], rows[len(used) :], variance, n_live=int(live.sum()))


class _Trial(NamedTuple):
    """Best penalty for some features, and its scores on the validation rows.

    `missed` holds the weights of wrongly predicted validation rows, 0 for others; classes weigh the same, all rows
    together 1. `doubt` is the cross-entropy.
    """

    size: int
    data: _Data
    penalty: float
    accuracy: float
    balanced_accuracy: float
    doubt: float
    missed: Float[np.ndarray, " valid"]
    start: Float[np.ndarray, "q classes"]


def _beyond_chance(gains: Float[np.ndarray, " valid"]) -> bool:
    """Return whether paired differences of rows sum to more than `BEYOND` standard errors.

    As in McNemar's test, one further row of mean weight counts as different: three rows to none are no evidence.
    """
    return float(gains.sum()) > BEYOND * math.sqrt((gains**2).sum() + 1 / len(gains) ** 2)


def _try(
    features: Float[np.ndarray, "rows p"],
    *,
    size: int,
    parts: Sequence[Int[np.ndarray, " _part"]],
    known: Int[np.ndarray, " fitted"],
    n_classes: int,
    penalties: Sequence[float],
    tolerance: float,
) -> _Trial:
    """Fit the training rows with each penalty, and choose one on the validation rows."""
    data, n_train = _Data.build(features, *parts), len(parts[0])
    relative = np.asarray(penalties, dtype=np.float64)
    present = np.unique(known[:n_train])
    weights = fit_logistic(
        data.rows[:n_train],
        np.broadcast_to(np.searchsorted(present, known[:n_train]), (len(relative), n_train)),
        n_classes=len(present),
        penalties=relative * data.n_live,
        variance=data.variance,
        weights=np.broadcast_to(class_weights(known[:n_train]), (len(relative), n_train)),
        tolerance=tolerance,
    )
    logits = np.full((len(relative), len(known) - n_train, n_classes), -np.inf)
    logits[:, :, present] = data.tried @ weights
    truth = known[n_train:]
    wrong = logits.argmax(axis=2) != truth
    missed = wrong * class_weights(truth) / len(truth)
    # recalls that sum to the same in another order are equal
    balanced = (1 - missed.sum(axis=1)).round(12)
    shifted = logits - logits.max(axis=2, keepdims=True)
    log_share = shifted - np.log(np.exp(shifted).sum(axis=2, keepdims=True))
    # rows of classes without training rows carry no information on the penalty
    seen = np.isin(truth, present)
    doubt = -log_share[:, seen, truth[seen]].mean(axis=1) if seen.any() else np.zeros(len(relative))
    best = int(np.lexsort((doubt, -balanced))[0])
    start = np.zeros((data.rows.shape[1], n_classes))
    start[:, present] = weights[best]
    scores = float(1 - wrong[best].mean()), float(balanced[best]), float(doubt[best])
    return _Trial(size, data, float(relative[best]), *scores, missed[best], start)


def _fit_and_apply(
    rows: Float[np.ndarray, "fitted q"],
    others: Float[np.ndarray, "test q"],
    classes: Int[np.ndarray, " fitted"],
    penalty: float,
    variance: Float[np.ndarray, " rank"],
    n_classes: int,
    tolerance: float,
    *,
    start: Float[np.ndarray, "q classes"],
) -> Float[np.ndarray, "test classes"]:
    """Return logits of other rows, minus infinity for classes without fitted rows."""
    present = np.unique(classes)
    (weights,) = fit_logistic(
        rows,
        np.searchsorted(present, classes)[None],
        n_classes=len(present),
        penalties=np.array([penalty]),
        variance=variance,
        weights=class_weights(classes)[None],
        start=start[None][:, :, present],
        tolerance=tolerance,
    )
    logits = np.full((len(others), n_classes), -np.inf)
    logits[:, present] = others @ weights
    return logits


def class_weights(classes: Int[np.ndarray, " rows"]) -> Float[np.ndarray, " rows"]:
    """Return weights of mean 1 that sum to the same for every class that occurs.

    >>> class_weights(np.array([0, 0, 0, 2])).round(3).tolist()
    [0.667, 0.667, 0.667, 2.0]
    """
    _, which, counts = np.unique(classes, return_inverse=True, return_counts=True)
    return len(classes) / (len(counts) * counts[which])


def _number_classes(
    names: Shaped[np.ndarray, " rows"], parts: Sequence[Int[np.ndarray, " _part"]]
) -> tuple[Shaped[np.ndarray, " classes"], Int[np.ndarray, " rows"]]:
    """Return the classes of all used rows, and every row's class index (unused rows: 0)."""
    for part, split in zip(parts, ("train", "valid", "test"), strict=True):
        if not len(part):
            raise EvaluationError(f"no row of the split {split!r} has this label; a probe needs some in each split")
    used = np.concatenate(parts)
    classes, which = np.unique(names[used], return_inverse=True)
    number = np.zeros(len(names), dtype=np.int64)
    number[used] = which
    if len(np.unique(number[parts[0]])) < 2:
        only = str(names[parts[0][0]])
        raise EvaluationError(f"all training rows have the one class {only!r}; a probe needs two or more")
    return classes, number


def _check(
    features: Float[np.ndarray, "rows p"],
    names: Shaped[np.ndarray, " rows"],
    groups: Shaped[np.ndarray, " rows"],
) -> None:
    if features.ndim != 2 or not len(features) == len(names) == len(groups):
        raise EvaluationError(
            f"features {features.shape}, {len(names)} labels and {len(groups)} groups disagree; give one each a row"
        )
    if not np.isfinite(features).all():
        raise EvaluationError("features hold NaN or infinity; drop such rows first")
