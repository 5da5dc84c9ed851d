"""Linear probes of labels, evaluated on held-out groups.

Multinomial logistic regression on features standardised by the training rows. With p the number of features that vary,
the loss is mean cross-entropy + penalty * p/2 |W|^2, in which every class has the same weight. Penalties are relative,
so that one grid serves a layer of 384 units and a code of 6,144. The penalty is chosen by balanced accuracy on the
validation groups (ties: lower cross-entropy). The map is refitted on training and validation rows at that penalty and
scored on the test groups. Each feature of a predicted row is clipped to `gram.REACH` standard deviations beyond its
range over the rows that fitted the prediction. The null permutes the labels of the test rows within their groups, or
among groups if each has one label (`otoscope.resampling.exchange`).

In a cross-fit each fold of groups is predicted by a probe that other groups fitted and tuned; interval and null are
those of the predictions of all folds together.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped
from numpy.typing import NDArray

from otoscope.errors import EvaluationError
from otoscope.linear.gram import clip_to_fitted, live_columns
from otoscope.linear.logistic import fit_logistic, rotate
from otoscope.resampling.exchange import exchange
from otoscope.resampling.groups import group_sums, labelled_splits, null_summary, split_rows
from otoscope.resampling.intervals import (
    Interval,
    Score,
    fold_overlap,
    independent_units,
    jackknife_error,
    leave_one_out,
    recall_interval,
    share_interval,
    widen,
)
from otoscope.resampling.nulls import permutation_p


def confusions(
    truth: Int[np.ndarray, " rows"], guess: Int[np.ndarray, " rows"], groups: Shaped[np.ndarray, " rows"], n: int
) -> Float[np.ndarray, "groups classes classes"]:
    """Return one table of counts per group, true class by predicted class."""
    cells = np.zeros((len(truth), n * n))
    cells[np.arange(len(truth)), truth * n + guess] = 1
    return group_sums(cells, groups).reshape(-1, n, n)


def shares_right(tables: Float[np.ndarray, "tables classes classes"]) -> Float[np.ndarray, "tables 3"]:
    """Return accuracy, balanced accuracy and macro-F1 of confusion tables."""
    hits = np.einsum("tcc->tc", tables)
    support, claimed = tables.sum(axis=2), tables.sum(axis=1)
    accuracy = hits.sum(axis=1) / support.sum(axis=1)
    recall = _mean_where(hits, support)
    f1 = _mean_where(2 * hits, support + claimed)
    return np.stack([accuracy, recall, f1], axis=1)


def share_intervals(tables: Float[np.ndarray, "groups classes classes"]) -> tuple[Interval, Interval, Interval]:
    """Return accuracy, balanced accuracy and macro-F1 of one confusion table per group, each with its interval."""
    hits, support = np.einsum("gcc->gc", tables), tables.sum(axis=2)
    units, tested = independent_units(support), support.any(axis=0)
    balanced = recall_interval(hits, support, units)
    accuracy = recall_interval(hits.sum(axis=1)[:, None], support.sum(axis=1)[:, None], units.sum()[None])
    if np.array_equal(hits, support):
        return accuracy, balanced, balanced

    def macro_f1(sums: Float[np.ndarray, "tables classes classes"]) -> Float[np.ndarray, " tables"]:
        absent = (sums.sum(axis=2)[:, tested] == 0).any(axis=1)
        return np.where(absent, np.nan, shares_right(sums)[:, 2])

    f1, without = leave_one_out(tables, macro_f1)
    error = float(jackknife_error(without)) if len(without) > 1 else math.nan
    return accuracy, balanced, share_interval(float(f1), error, n_groups=len(tables), n=float(tables.sum()))


def _mean_where(part: NDArray[Any], whole: NDArray[Any]) -> Float[np.ndarray, " tables"]:
    """Return the mean of part/whole over the classes with non-zero `whole`."""
    counts = whole > 0
    ratio = np.divide(part, whole, out=np.zeros_like(part), where=counts)
    return ratio.sum(axis=1) / counts.sum(axis=1)


PENALTIES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Grid of penalties, relative to the number of features that vary."""


@dataclass(frozen=True)
class ProbeSettings:
    """Penalty grid of `fit_probe`, and the tolerance of its fits."""

    penalties: Sequence[float] = PENALTIES
    tolerance: float = 1e-4


class Probe(NamedTuple):
    """Held-out scores of a probe for one label.

    `confusion` counts test rows by true (first axis) and predicted class, in the order of `classes`; `penalty` is the
    chosen relative penalty; `valid_accuracy` and `valid_balanced_accuracy` are those on the validation rows after
    fitting the training rows alone (of a cross-fit, these three are means over folds); `n` and `groups` count the test
    rows and groups; `predicted` is the class of each test row, empty for other rows.
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
        settings: grid of penalties.
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
        valid_accuracy=float(np.mean([fold.valid[0] for fold in folds])),
        valid_balanced_accuracy=float(np.mean([fold.valid[1] for fold in folds])),
        n=len(truth),
        groups=len(tables),
        predicted=predicted_names,
    )


class _Fold(NamedTuple):
    """Predicted classes of the test rows, all classes, chosen penalty, and the scores on the validation rows."""

    rows: Int[np.ndarray, " test"]
    predicted: Shaped[np.ndarray, " test"]
    classes: Shaped[np.ndarray, " classes"]
    penalty: float
    valid: tuple[float, float]


def _predict(
    features: Float[np.ndarray, "rows p"],
    names: Shaped[np.ndarray, " rows"],
    split: Shaped[np.ndarray, " rows"],
    settings: ProbeSettings,
) -> _Fold:
    learnt = np.isin(names, names[split_rows(split, "train", len(names)) & (names != "")])
    parts = [np.flatnonzero(split_rows(split, name, len(names)) & learnt) for name in ("train", "valid", "test")]
    classes, number = _number_classes(names, parts)
    data = _Data.build(features, *parts)
    n_train, n_fitted = len(parts[0]), len(parts[0]) + len(parts[1])
    known = number[np.concatenate(parts[:2])]
    chosen, valid, start = _choose(data, known, n_train, len(classes), settings)
    logits = _fit_and_apply(
        data.rows[:n_fitted],
        data.rows[n_fitted:],
        known,
        chosen * data.n_live,
        data.variance,
        len(classes),
        settings.tolerance,
        start=start,
    )
    return _Fold(parts[2], classes[logits.argmax(axis=1)], classes, chosen, valid)


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


def _choose(
    data: _Data, known: Int[np.ndarray, " fitted"], n_train: int, n_classes: int, settings: ProbeSettings
) -> tuple[float, tuple[float, float], Float[np.ndarray, "q classes"]]:
    """Return the penalty, its accuracy and balanced accuracy on the validation rows, and its weights."""
    penalties = np.asarray(settings.penalties, dtype=np.float64)
    present = np.unique(known[:n_train])
    weights = fit_logistic(
        data.rows[:n_train],
        np.broadcast_to(np.searchsorted(present, known[:n_train]), (len(penalties), n_train)),
        n_classes=len(present),
        penalties=penalties * data.n_live,
        variance=data.variance,
        weights=np.broadcast_to(class_weights(known[:n_train]), (len(penalties), n_train)),
        tolerance=settings.tolerance,
    )
    logits = np.full((len(penalties), len(known) - n_train, n_classes), -np.inf)
    logits[:, :, present] = data.tried @ weights
    truth = known[n_train:]
    table = np.stack([confusions(truth, g, np.zeros(len(truth)), n_classes)[0] for g in logits.argmax(axis=2)])
    figures = shares_right(table)
    balanced = figures[:, 1]
    shifted = logits - logits.max(axis=2, keepdims=True)
    log_share = shifted - np.log(np.exp(shifted).sum(axis=2, keepdims=True))
    # rows of classes without training rows carry no information on the penalty
    seen = np.isin(truth, present)
    doubt = -log_share[:, seen, truth[seen]].mean(axis=1) if seen.any() else np.zeros(len(penalties))
    best = int(np.lexsort((doubt, -balanced))[0])
    start = np.zeros((data.rows.shape[1], n_classes))
    start[:, present] = weights[best]
    return float(penalties[best]), (float(figures[best, 0]), float(balanced[best])), start


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
