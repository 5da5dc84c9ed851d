"""Three kinds of task from one code path: one label of many, several labels at once, a continuous target.

Every task is a matrix of outputs (a column a class, a column a label, the value itself) that a ridge
regression reads from a representation, its penalty chosen by leaving whole groups out. An output
that stands for a class is measured from the midpoint between what it is for clips of the class and
for all others when their group is left out; the largest such output names the one label, those above
0 name the several.

Factors as the protocol asks for them: robust, one for each set of near duplicates, none that a few clips rule.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from numpy.typing import NDArray

from otoscope.errors import EvaluationError
from otoscope.linear.group_ridge import fit_group_ridge
from otoscope.metrics.record import Record
from otoscope.metrics.robust_factors import RobustFactors, effective_rank, make_robust, normal_scores
from otoscope.resampling.groups import Score, bootstrap_sums, group_folds, group_sums, null_summary
from otoscope.resampling.nulls import permuted_targets
from otoscope.runs.inputs import Clips

Kind = Literal["single", "several", "continuous"]

TASK_METRICS: dict[Kind, str] = {
    "single": "task_balanced_accuracy",
    "several": "task_balanced_accuracy",
    "continuous": "task_r2",
}

MIN_CLIPS = 5
"""Fitted and test clips that a label needs on either side to be asked among several."""


@dataclass(frozen=True)
class Task:
    """What is to be read of each clip: `outputs` are 0 and 1 for classes; rows that are not `known` are left out."""

    name: str
    kind: Kind
    outputs: Float[np.ndarray, "clips outputs"]
    known: Bool[np.ndarray, " clips"]
    classes: tuple[str, ...]


class TaskResult(NamedTuple):
    """The records of one task, and by test group the sums that its score is made of."""

    records: list[Record]
    sums: Float[np.ndarray, "groups outputs figures"]


class Repetitions(NamedTuple):
    """How often targets are permuted and groups are drawn, and into how many folds they are dealt."""

    permutations: int
    resamples: int
    folds: int
    seed: int = 0


def available_tasks(
    labels: Mapping[str, Shaped[np.ndarray, " clips"]],
    factors: Float[np.ndarray, "clips factors"],
    factor_names: Sequence[str],
    *,
    split: Shaped[np.ndarray, " clips"],
    target: str | None,
) -> list[Task]:
    """Return the tasks that a corpus allows.

    A task each for the labels; with two labels or more, all classes of all labels at once; and the
    factor `target`, if it is given.
    """
    found = [single_label_task(name, values) for name, values in labels.items()]
    if len(labels) > 1 and (together := multi_label_task(labels, split=split)) is not None:
        found.append(together)
    if target is not None:
        found.append(continuous_task(target, factors[:, list(factor_names).index(target)]))
    return found


def single_label_task(name: str, values: Shaped[np.ndarray, " clips"]) -> Task:
    """Return the task to name a clip's one class; empty values are unknown."""
    classes = tuple(str(c) for c in np.unique(values[values != ""]))
    outputs = (values[:, None] == np.asarray(classes)).astype(np.float64)
    return Task(name, "single", outputs, values != "", classes)


def multi_label_task(
    labels: Mapping[str, Shaped[np.ndarray, " clips"]], *, split: Shaped[np.ndarray, " clips"]
) -> Task | None:
    """Return the task to name every class that a clip has, of all labels at once; None with fewer than two.

    Classes that fewer than `RARE` clips have or lack, among the fitted or the test clips, are left out.
    """
    known = np.all([values != "" for values in labels.values()], axis=0)
    fitted, test = known & (split != "test"), known & (split == "test")
    columns: dict[str, Bool[np.ndarray, " clips"]] = {}
    for name, values in labels.items():
        for c in np.unique(values[known]):
            has = values == c
            if all(min((has & rows).sum(), (~has & rows).sum()) >= MIN_CLIPS for rows in (fitted, test)):
                columns[f"{name}={c}"] = has
    if len(columns) < 2:
        return None
    outputs = np.stack(list(columns.values()), axis=1).astype(np.float64)
    return Task(" + ".join(labels), "several", outputs, known, tuple(columns))


def continuous_task(name: str, values: Float[np.ndarray, " clips"]) -> Task:
    """Return the task to say a value; NaN is unknown."""
    known = ~np.isnan(values)
    return Task(name, "continuous", np.where(known, values, 0.0)[:, None], known, (name,))


def evaluate_task(
    task: Task,
    features: Float[np.ndarray, "clips p"],
    *,
    split: Shaped[np.ndarray, " clips"],
    groups: Shaped[np.ndarray, " clips"],
    repeat: Repetitions,
    about: Record,
) -> TaskResult:
    """Return the task's score on test groups with interval and null, and on the groups left out of the fits."""
    fitted, test = np.flatnonzero(task.known & (split != "test")), np.flatnonzero(task.known & (split == "test"))
    rng = np.random.default_rng(repeat.seed)
    wanted = task.outputs[fitted]
    orders = [
        np.arange(len(fitted)),
        *(permuted_targets(wanted, groups[fitted], rng) for _ in range(repeat.permutations)),
    ]
    found = fit_group_ridge(
        features[fitted],
        features[test],
        np.stack([wanted[order] for order in orders]),
        folds=group_folds(groups[fitted], repeat.folds),
    )
    truth = task.outputs[test]
    told = [_sums(task.kind, found.held[i], found.others[i], wanted[order], truth) for i, order in enumerate(orders)]
    sums = group_sums(told[0], groups[test])
    found_at = bootstrap_sums(sums, lambda s: score_from_sums(task.kind, s), resamples=repeat.resamples)
    null = np.asarray([score_from_sums(task.kind, part.sum(axis=0)[None])[0] for part in told[1:]])
    shared = replace(about, metric=TASK_METRICS[task.kind], target=task.name)
    score = Score(*(float(end) for end in (*found_at, *null_summary(null))))
    on_test = shared.with_score(shared.metric, score, split="test", n=len(test), groups=len(sums))
    held = _sums(task.kind, found.held[0], found.held[0], wanted, wanted).sum(axis=0)
    of_groups = len(np.unique(groups[fitted]))
    held_score = float(score_from_sums(task.kind, held[None])[0])
    return TaskResult(
        [on_test, replace(shared, split="valid", value=held_score, n=len(fitted), groups=of_groups)], sums
    )


def _sums(
    kind: Kind,
    held: Float[np.ndarray, "fitted outputs"],
    guesses: Float[np.ndarray, "rows outputs"],
    known: Float[np.ndarray, "fitted outputs"],
    truth: Float[np.ndarray, "rows outputs"],
) -> Float[np.ndarray, "rows outputs figures"]:
    """Return what is summed over rows: error and spread of a value; hits and sizes of either answer for a class."""
    if kind == "continuous":
        return np.stack([(truth - guesses) ** 2, (truth - known.mean(axis=0)) ** 2], axis=-1)
    shifted = guesses - _midpoints(held, known)
    says = shifted > 0
    if kind == "single":
        says = _one_hot(shifted.argmax(axis=1), truth.shape[1])
        return np.stack([says * truth, truth], axis=-1)
    return np.stack([says * truth, truth, ~says * (1 - truth), 1 - truth], axis=-1)


def score_from_sums(kind: Kind, sums: Float[np.ndarray, "draws outputs figures"]) -> NDArray[Any]:
    """Return R2, mean recall over classes, or balanced accuracy averaged over labels."""
    if kind == "continuous":
        error, spread = sums[:, 0, 0], sums[:, 0, 1]
        return 1 - np.divide(error, spread, out=np.full(error.shape, math.nan), where=spread > 0)
    recall = _ratio(sums[..., 0], sums[..., 1])
    if kind == "several":
        recall = (recall + _ratio(sums[..., 2], sums[..., 3])) / 2
    defined = ~np.isnan(recall)
    return np.where(defined, recall, 0).sum(axis=1) / np.maximum(defined.sum(axis=1), 1)


def _ratio(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[Any]:
    return np.divide(part, whole, out=np.full(part.shape, math.nan), where=whole > 0)


def _midpoints(
    held: Float[np.ndarray, "fitted outputs"], known: Float[np.ndarray, "fitted outputs"]
) -> Float[np.ndarray, " outputs"]:
    """Return halfway between an output's mean where it should be 1 and where it should be 0."""
    with_it = (held * known).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    without = (held * (1 - known)).sum(axis=0) / np.maximum((1 - known).sum(axis=0), 1)
    return (with_it + without) / 2


def _one_hot(numbers: Int[np.ndarray, " rows"], size: int) -> Bool[np.ndarray, "rows size"]:
    return np.arange(size) == numbers[:, None]


PITCH_FACTORS = ("f0_mean_hz", "F0semitoneFrom27.5Hz_sma3nz_amean")
"""The continuous task asks for the first of these that a corpus has, or for its first factor of pitch."""


@dataclass(frozen=True)
class FactorTargets:
    """The clips with the factors that are asked: normal scores, `[clips, factors]`, and each one's category."""

    clips: Clips
    values: Float[np.ndarray, "clips factors"]
    names: tuple[str, ...]
    categories: tuple[str, ...]
    robust: RobustFactors | None

    @property
    def split(self) -> Shaped[np.ndarray, " clips"]:
        """Train, valid or test of each clip."""
        return self.clips.split

    @property
    def groups(self) -> Shaped[np.ndarray, " clips"]:
        """What each clip must not share with another split."""
        return self.clips.groups


def prepare_factors(clips: Clips, categories: Mapping[str, str], *, near_duplicates: float) -> FactorTargets:
    """Make a corpus's factors robust on its training clips; without a usable factor none are asked."""
    if not clips.factor_names:
        return FactorTargets(clips, np.zeros((len(clips.split), 0)), (), (), None)
    train = clips.split == "train"
    try:
        robust = make_robust(clips.factors, clips.factor_names, train=train, duplicate=near_duplicates)
    except EvaluationError:
        return FactorTargets(clips, np.zeros((len(clips.split), 0)), (), (), None)
    of = tuple(categories.get(name, "other") for name in robust.names)
    return FactorTargets(clips, robust.apply(clips.factors), robust.names, of, robust)


def continuous_target(targets: FactorTargets, wanted: str | None) -> str | None:
    """Return the factor of the continuous task: the one wanted, a pitch, or the first; None without factors.

    Raises `EvaluationError` for a factor that the corpus does not have.
    """
    names = targets.clips.factor_names
    if wanted is not None:
        if wanted not in names:
            raise EvaluationError(f"evaluate.strict.target: no factor {wanted!r}; the corpus has {', '.join(names)}")
        return wanted
    pitches = [name for name in PITCH_FACTORS if name in names]
    pitches += [name for name, kind in zip(targets.names, targets.categories, strict=True) if kind == "pitch"]
    return next(iter([*pitches, *targets.names]), None)


def effective_rank_records(targets: FactorTargets, about: Record) -> Iterator[Record]:
    """Yield the effective rank of the factors as given and as asked: on how many facts the numbers rest."""
    if targets.robust is None:
        return
    train = targets.split == "train"
    groups = len(np.unique(targets.groups[train]))
    given = effective_rank(normal_scores(targets.clips.factors[train]))
    for target, value, n in (
        ("as given", given, len(targets.robust.given)),
        ("as asked", targets.robust.effective_rank, len(targets.names)),
    ):
        yield replace(about, metric="effective_rank", target=target, split="train", value=value, n=n, groups=groups)
