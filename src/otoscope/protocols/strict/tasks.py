"""Single-label, multi-label and continuous tasks with one code path, and the robust factors of the protocol.

A task is a matrix of outputs: one column per class or label, or the value itself. A linear reader predicts it: ridge
regression, the LASSO or the best few dimensions, whichever scores highest on folds of whole groups, for every
representation alike; penalties are cross-validated likewise. The output of a class is centred on the midpoint between
the cross-validated means of clips in and outside the class. The largest output is the predicted label of a single-label
task; outputs above 0 are the predicted labels of a multi-label task.

Factors are transformed to normal scores, without near duplicates and without factors that depend on few clips.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from numpy.typing import NDArray

from otoscope.errors import EvaluationError
from otoscope.linear.readers import READERS
from otoscope.metrics.record import Record
from otoscope.metrics.robust_factors import RobustFactors, effective_rank, make_robust, normal_scores
from otoscope.resampling.exchange import exchange
from otoscope.resampling.groups import each_fold, each_split, group_folds, group_sums, in_split, null_summary
from otoscope.resampling.intervals import (
    R2_SCALE,
    Interval,
    Score,
    independent_units,
    jackknife_sums,
    recall_interval,
)
from otoscope.resampling.nulls import permutation_p
from otoscope.runs.inputs import Clips

Kind = Literal["single", "several", "continuous"]

TASK_METRICS: dict[Kind, str] = {
    "single": "task_balanced_accuracy",
    "several": "task_balanced_accuracy",
    "continuous": "task_r2",
}

MIN_CLIPS = 5
"""Minimum number of clips with and without a class, among fitted and among test clips, in a multi-label task."""


@dataclass(frozen=True)
class Task:
    """Target outputs per clip: 0 and 1 for classes; rows that are not `known` are excluded."""

    name: str
    kind: Kind
    outputs: Float[np.ndarray, "clips outputs"]
    known: Bool[np.ndarray, " clips"]
    classes: tuple[str, ...]


class TaskResult(NamedTuple):
    """Records of one task, the sums per test group that its score is computed from, and the predicted outputs.

    `shares` are the parts of the score that each clip's right answers make up, 0 for clips that are not tested and for
    values. `tested` are the rows of the predictions `says`, `held` the score of each fold on its own fitted groups.
    """

    records: list[Record]
    sums: Float[np.ndarray, "groups outputs figures"]
    shares: Float[np.ndarray, " clips"]
    tested: Int[np.ndarray, " test"]
    says: Float[np.ndarray, "test outputs"]
    held: Float[np.ndarray, " folds"]


class Repetitions(NamedTuple):
    """Number of folds, and seed of the permutations."""

    folds: int
    seed: int = 0


def available_tasks(
    labels: Mapping[str, Shaped[np.ndarray, " clips"]],
    factors: Float[np.ndarray, "clips factors"],
    factor_names: Sequence[str],
    *,
    split: Shaped[np.ndarray, "*folds clips"],
    target: str | None,
) -> list[Task]:
    """Return the tasks that a corpus supports.

    These are one task per label, a multi-label task over all classes if there are two labels or more, and the factor
    `target` if it is not None.
    """
    found = [single_label_task(name, values) for name, values in labels.items()]
    if len(labels) > 1 and (together := multi_label_task(labels, split=split)) is not None:
        found.append(together)
    if target is not None:
        found.append(continuous_task(target, factors[:, list(factor_names).index(target)]))
    return found


def single_label_task(name: str, values: Shaped[np.ndarray, " clips"]) -> Task:
    """Return the single-label task of a label; empty values are unknown."""
    classes = tuple(str(c) for c in np.unique(values[values != ""]))
    outputs = (values[:, None] == np.asarray(classes)).astype(np.float64)
    return Task(name, "single", outputs, values != "", classes)


def multi_label_task(
    labels: Mapping[str, Shaped[np.ndarray, " clips"]], *, split: Shaped[np.ndarray, "*folds clips"]
) -> Task | None:
    """Return the multi-label task over the classes of all labels; None with fewer than two classes.

    A class is excluded if fewer than `MIN_CLIPS` clips have or lack it, among the fitted clips (of a fold) or the test
    clips (of all folds).
    """
    known = np.all([values != "" for values in labels.values()], axis=0)
    parts = [*(known & (one != "test") for one in each_split(split)), known & in_split(split, "test")]
    columns: dict[str, Bool[np.ndarray, " clips"]] = {}
    for name, values in labels.items():
        for c in np.unique(values[known]):
            has = values == c
            if all(min((has & rows).sum(), (~has & rows).sum()) >= MIN_CLIPS for rows in parts):
                columns[f"{name}={c}"] = has
    if len(columns) < 2:
        return None
    outputs = np.stack(list(columns.values()), axis=1).astype(np.float64)
    return Task(" + ".join(labels), "several", outputs, known, tuple(columns))


def continuous_task(name: str, values: Float[np.ndarray, " clips"]) -> Task:
    """Return the task to predict a value; NaN is unknown."""
    known = ~np.isnan(values)
    return Task(name, "continuous", np.where(known, values, 0.0)[:, None], known, (name,))


def evaluate_task(
    task: Task,
    features: Float[np.ndarray, "*folds clips p"],
    *,
    split: Shaped[np.ndarray, "*folds clips"],
    groups: Shaped[np.ndarray, " clips"],
    repeat: Repetitions,
    about: Record,
) -> TaskResult:
    """Return the score on test groups, with interval and null, and the cross-validated score.

    In a cross-fit every fold has its own reader and penalty; the predictions of all folds are scored together.
    """
    answers = [_read(task, own, one, groups, repeat.folds) for own, one in each_fold(features, split)]
    held_scores = np.asarray([answer.held for answer in answers])
    answers = [answer for answer in answers if len(answer.rows)] or answers[:1]
    test = np.concatenate([answer.rows for answer in answers])
    says = np.concatenate([answer.says for answer in answers])
    centre = np.concatenate([np.broadcast_to(answer.centre, answer.says.shape) for answer in answers])
    truth = task.outputs[test]
    terms = _terms(task.kind, says, truth, centre)
    # a class without test clips has no recall
    counted = (terms.sum(axis=0)[:, 1::2] > 0).all(axis=1)
    sums = group_sums(terms[:, counted], groups[test])
    interval = task_interval(task.kind, sums)
    orders = exchange(truth, groups[test]).orders(seed=repeat.seed)
    null = [_terms(task.kind, says, truth[order], centre)[:, counted].sum(axis=0) for order in orders]
    # a score of 0 needs no features
    scores = np.maximum(score_from_sums(task.kind, np.stack(null)), 0) if null else np.zeros(0)
    reader = " or ".join(dict.fromkeys(answer.reader for answer in answers))
    shared = replace(about, metric=TASK_METRICS[task.kind], target=task.name, reader=reader)
    p_value = permutation_p(np.asarray([interval.value]), scores[:, None])[0]
    score = Score(*(float(end) for end in (*interval, *null_summary(scores, most=1.0), p_value)))
    on_test = shared.with_score(shared.metric, score, split="test", n=len(test), groups=len(sums))
    on_test = on_test.widened(len(np.atleast_2d(split)))
    fitted = task.known & (in_split(split, "train") | in_split(split, "valid"))
    held = replace(shared, split="valid", value=float(np.mean([answer.held for answer in answers])))
    on_valid = replace(held, n=int(fitted.sum()), groups=len(np.unique(groups[fitted])))
    shares = np.zeros(len(task.known))
    if task.kind != "continuous":
        shares[test] = answer_shares(terms[:, counted])
    return TaskResult([on_test, on_valid], sums, shares, test, says, held_scores)


class _Answer(NamedTuple):
    """Test rows of a split, what the chosen reader says of them, means of the fitted rows, and its score over folds."""

    rows: Int[np.ndarray, " test"]
    says: Float[np.ndarray, "test outputs"]
    centre: Float[np.ndarray, " outputs"]
    reader: str
    held: float


def _read(
    task: Task,
    features: Float[np.ndarray, "clips p"],
    split: Shaped[np.ndarray, " clips"],
    groups: Shaped[np.ndarray, " clips"],
    folds: int,
) -> _Answer:
    fitted = np.flatnonzero(task.known & (split != "test"))
    # nothing can be said of clips whose only class no fitted clip has
    learnt = task.outputs[:, task.outputs[fitted].any(axis=0)].any(axis=1) | (task.kind != "single")
    test = np.flatnonzero(task.known & learnt & (split == "test"))
    known, whole = task.outputs[fitted], group_folds(groups[fitted], folds)
    readings = {
        name: read(features[fitted], features[test], known[None], folds=whole) for name, read in READERS.items()
    }
    scores = {name: _held_score(task.kind, found.held[0], known) for name, found in readings.items()}
    reader = max(scores, key=lambda name: scores[name])
    held, others = readings[reader]
    return _Answer(test, _decide(task.kind, held[0], others[0], known), known.mean(axis=0), reader, scores[reader])


def _held_score(
    kind: Kind, held: Float[np.ndarray, "fitted outputs"], known: Float[np.ndarray, "fitted outputs"]
) -> float:
    """Return the score of predictions from the other folds; -inf if it is undefined."""
    sums = _terms(kind, _decide(kind, held, held, known), known, known.mean(axis=0)).sum(axis=0)
    sums = sums[(sums[:, 1::2] > 0).all(axis=1)]
    score = float(score_from_sums(kind, sums[None])[0]) if len(sums) else math.nan
    return -math.inf if math.isnan(score) else score


def _decide(
    kind: Kind,
    held: Float[np.ndarray, "fitted outputs"],
    guesses: Float[np.ndarray, "rows outputs"],
    known: Float[np.ndarray, "fitted outputs"],
) -> Float[np.ndarray, "rows outputs"]:
    """Return the predicted value, or 1 for predicted classes and 0 for others."""
    if kind == "continuous":
        return guesses
    shifted = np.where(known.any(axis=0), guesses - _midpoints(held, known), -np.inf)
    says = _one_hot(shifted.argmax(axis=1), guesses.shape[1]) if kind == "single" else shifted > 0
    return says.astype(np.float64)


def _terms(
    kind: Kind,
    says: Float[np.ndarray, "rows outputs"],
    truth: Float[np.ndarray, "rows outputs"],
    centre: Float[np.ndarray, " outputs"] | Float[np.ndarray, "rows outputs"],
) -> Float[np.ndarray, "rows outputs figures"]:
    """Return the terms to sum over rows: squared error and deviation, or hits and sizes per class."""
    if kind == "continuous":
        return np.stack([(truth - says) ** 2, (truth - centre) ** 2], axis=-1)
    if kind == "single":
        return np.stack([says * truth, truth], axis=-1)
    return np.stack([says * truth, truth, (1 - says) * (1 - truth), 1 - truth], axis=-1)


def answer_shares(terms: Float[np.ndarray, "rows outputs figures"]) -> Float[np.ndarray, " rows"]:
    """Return the part of the score that each row's right answers make up, from hits and sizes; the sum is the score."""
    hits, sizes = terms[..., 0::2], terms[..., 1::2].sum(axis=0)
    return (hits / np.where(sizes > 0, sizes, math.nan)).mean(axis=(1, 2))


def task_interval(kind: Kind, sums: Float[np.ndarray, "groups outputs figures"]) -> Interval:
    """Return the score of `score_from_sums` with its interval over groups."""
    if kind == "continuous":
        found = jackknife_sums(sums, lambda part: score_from_sums(kind, part), scale=R2_SCALE)
        return Interval(*(float(x) for x in found))
    hits, rows = sums[..., 0], sums[..., 1]
    if kind == "single":
        return recall_interval(hits, rows, independent_units(rows))
    # recall and specificity of a label count alike; a label that is absent or everywhere has neither
    both = (rows.sum(axis=0) > 0) & (sums[..., 3].sum(axis=0) > 0)
    hits, rows = (np.stack([sums[:, both, i], sums[:, both, i + 2]], axis=-1) for i in (0, 1))
    units = [independent_units(rows[:, label]) for label in range(rows.shape[1])]
    flat = (len(sums), 2 * rows.shape[1])
    return recall_interval(hits.reshape(flat), rows.reshape(flat), np.concatenate([*units, np.zeros(0)]))


def score_from_sums(kind: Kind, sums: Float[np.ndarray, "draws outputs figures"]) -> NDArray[Any]:
    """Return R2, mean recall over classes, or mean balanced accuracy over labels, by kind of task.

    NaN for draws without deviation, or without a clip of some class: a mean over fewer classes is another score.
    """
    if kind == "continuous":
        error, spread = sums[:, 0, 0], sums[:, 0, 1]
        return 1 - np.divide(error, spread, out=np.full(error.shape, math.nan), where=spread > 0)
    recall = _ratio(sums[..., 0], sums[..., 1])
    if kind == "several":
        recall = (recall + _ratio(sums[..., 2], sums[..., 3])) / 2
    return recall.mean(axis=1)


def _ratio(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[Any]:
    return np.divide(part, whole, out=np.full(part.shape, math.nan), where=whole > 0)


def _midpoints(
    held: Float[np.ndarray, "fitted outputs"], known: Float[np.ndarray, "fitted outputs"]
) -> Float[np.ndarray, " outputs"]:
    """Return the midpoint between the mean output of rows in the class and that of other rows."""
    with_it = (held * known).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    without = (held * (1 - known)).sum(axis=0) / np.maximum((1 - known).sum(axis=0), 1)
    return (with_it + without) / 2


def _one_hot(numbers: Int[np.ndarray, " rows"], size: int) -> Bool[np.ndarray, "rows size"]:
    return np.arange(size) == numbers[:, None]


PITCH_FACTORS = ("f0_mean_hz", "F0semitoneFrom27.5Hz_sma3nz_amean")
"""Targets of the continuous task in order of preference; then the first pitch factor."""


@dataclass(frozen=True)
class FactorTargets:
    """Clips with their robust factors as normal scores, `[clips, factors]`, and the category of each factor."""

    clips: Clips
    values: Float[np.ndarray, "clips factors"]
    names: tuple[str, ...]
    categories: tuple[str, ...]
    robust: RobustFactors | None

    @property
    def split(self) -> Shaped[np.ndarray, "*folds clips"]:
        """Train, valid or test of each clip, of a cross-fit in each fold."""
        return self.clips.reader_split

    @property
    def groups(self) -> Shaped[np.ndarray, " clips"]:
        """Group of each clip; splits share no group."""
        return self.clips.groups


def prepare_factors(clips: Clips, categories: Mapping[str, str], *, near_duplicates: float) -> FactorTargets:
    """Return the robust factors, fitted on the training clips; none if no factor is usable.

    In a cross-fit every clip is a training clip of some fold. The factors are the questions asked, and the same in all
    folds; no representation takes part in their choice.
    """
    if not clips.factor_names:
        return FactorTargets(clips, np.zeros((len(clips.split), 0)), (), (), None)
    train = in_split(clips.reader_split, "train")
    try:
        robust = make_robust(clips.factors, clips.factor_names, train=train, duplicate=near_duplicates)
    except EvaluationError:
        return FactorTargets(clips, np.zeros((len(clips.split), 0)), (), (), None)
    of = tuple(categories.get(name, "other") for name in robust.names)
    return FactorTargets(clips, robust.apply(clips.factors), robust.names, of, robust)


def continuous_target(targets: FactorTargets, configured: str | None) -> str | None:
    """Return the factor of the continuous task: the configured one, a pitch, or the first; None without factors.

    Raises `EvaluationError` if the corpus lacks the configured factor.
    """
    names = targets.clips.factor_names
    if configured is not None:
        if configured not in names:
            raise EvaluationError(
                f"evaluate.strict.target: no factor {configured!r}; the corpus has {', '.join(names)}"
            )
        return configured
    pitches = [name for name in PITCH_FACTORS if name in names]
    pitches += [name for name, kind in zip(targets.names, targets.categories, strict=True) if kind == "pitch"]
    return next(iter([*pitches, *targets.names]), None)


def effective_rank_records(targets: FactorTargets, about: Record) -> Iterator[Record]:
    """Yield the effective rank of the original and of the robust factors."""
    if targets.robust is None:
        return
    train = in_split(targets.split, "train")
    groups = len(np.unique(targets.groups[train]))
    given = effective_rank(normal_scores(targets.clips.factors[train]))
    for target, value, n in (
        ("as given", given, len(targets.robust.given)),
        ("as asked", targets.robust.effective_rank, len(targets.names)),
    ):
        yield replace(about, metric="effective_rank", target=target, split="train", value=value, n=n, groups=groups)
