"""Shared state of the protocol and the measurement of one representation, a matrix with one row per clip."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from otoscope.activations.store import ActivationStore
from otoscope.artifacts import fingerprint
from otoscope.config import Pooling
from otoscope.config.strict import StrictSettings
from otoscope.formatting import count
from otoscope.linear.gram import varies_in_training
from otoscope.metrics.baselines import Encode, find_fitted
from otoscope.metrics.record import Record
from otoscope.protocols import strict
from otoscope.protocols.strict.regression import RidgeScores, factor_records, fit_ridge_scores
from otoscope.protocols.strict.structure import label_curve_records, score_representation
from otoscope.protocols.strict.tasks import (
    FactorTargets,
    Repetitions,
    Task,
    available_tasks,
    continuous_target,
    evaluate_task,
    prepare_factors,
)
from otoscope.runs.cache import CachedResult, ComputedResult
from otoscope.runs.code_version import MEASUREMENT_CODE, code_version
from otoscope.runs.codes import FRAMES_PER_BATCH, as_of_folds, stack_folds
from otoscope.runs.context import Context
from otoscope.runs.inputs import Clips, EvaluationInputs
from otoscope.runs.predictions import NOT_TESTED, predicted_key
from otoscope.runs.training import GridMember, fold_members

FITTED_ROWS = 8192
"""Maximum number of training rows that a baseline is fitted on, sampled by seed."""

Units = Float[np.ndarray, "*folds clips p"]


def fitted_units(name: str, store: ActivationStore, member: GridMember, clips: Clips) -> Units:
    """Return the codes of a baseline fitted on the training rows of an SAE, pooled like its codes."""
    split_of = zip(store.clip_ids, clips.split_in(member.fold), strict=True)
    train = [clip for clip, split in split_of if split == "train"]
    rows = _training_rows(store, member, train)
    encode = find_fitted(name)(rows, latents=member.latents, k=member.k, seed=member.seed)
    return encoded_units(store, encode, member.layer, member.pooling)


def encoded_units(store: ActivationStore, encode: Encode, layer: int, pooling: Pooling) -> Units:
    """Return the codes of all clips: of their mean rows, or the mean over the codes of their frames."""
    if pooling == "pool_then_encode":
        return np.asarray(encode(store.pooled(layer)), dtype=np.float32)
    made = [part for rows, lengths in _whole_clips(store, layer) for part in _means(encode(rows), lengths)]
    return np.stack(made).astype(np.float32)


def _training_rows(store: ActivationStore, member: GridMember, train: Sequence[str]) -> Float[np.ndarray, "rows width"]:
    if member.pooling == "pool_then_encode":
        return np.ascontiguousarray(store.pooled(member.layer, train))
    rows = store.rows(member.layer, train)
    number = min(FITTED_ROWS, rows.height)
    drawn = np.random.default_rng(member.seed).choice(rows.height, number, replace=False)
    return rows.take(np.sort(drawn))


def _whole_clips(store: ActivationStore, layer: int) -> Iterator[tuple[Float[np.ndarray, "frames width"], list[int]]]:
    """Yield batches of frames of complete clips, and the number of frames per clip."""
    waiting: list[Float[np.ndarray, "frames width"]] = []
    for _, frames in store.iter_clips(layer):
        waiting.append(frames)
        if sum(map(len, waiting)) >= FRAMES_PER_BATCH:
            yield np.concatenate(waiting), [len(part) for part in waiting]
            waiting = []
    if waiting:
        yield np.concatenate(waiting), [len(part) for part in waiting]


def _means(
    codes: Float[np.ndarray, "frames latents"], lengths: Sequence[int]
) -> Iterator[Float[np.ndarray, " latents"]]:
    start = 0
    for length in lengths:
        yield codes[start : start + length].mean(axis=0)
        start += length


CODE = (*MEASUREMENT_CODE, "otoscope.protocols.strict")
"""Modules that the numbers depend on."""

NOT_MEASURED = {
    *("layer", "sparsity", "seeds", "baselines", "min_r2"),
    *("limit_sparsities", "limit_presets", "untrained_context"),
}
"""Settings that select representations or summarise measurements, but do not change a measurement."""


class UnitsWithRecords(NamedTuple):
    """Representation with the records and arrays that its computation produced."""

    units: Units
    records: list[Record]
    arrays: dict[str, NDArray[Any]]


@dataclass(frozen=True)
class StrictExperiment:
    """A run with its clips, factors and tasks."""

    run: Context
    material: EvaluationInputs
    fold_layers: tuple[int, ...] = ()
    """Layer that each fold chose, where they differ; empty where all folds share one."""

    @property
    def settings(self) -> StrictSettings:
        """The section `evaluate.strict`."""
        return self.run.config.evaluate.strict

    @property
    def pooling(self) -> Pooling:
        """Pooling order of all codes except those of the study's preset: the first of the run."""
        return self.run.config.train.poolings[0]

    @cached_property
    def targets(self) -> FactorTargets:
        """Robust factors of the clips."""
        of = {card.name: card.category for card in self.material.factors.cards}
        return prepare_factors(self.material.clips, of, near_duplicates=self.settings.near_duplicates)

    @cached_property
    def tasks(self) -> list[Task]:
        """Tasks that the corpus supports."""
        clips = self.material.clips
        target = continuous_target(self.targets, self.settings.target)
        return available_tasks(clips.labels, clips.factors, clips.factor_names, split=clips.reader_split, target=target)

    @cached_property
    def shared(self) -> str:
        """Fingerprint of the inputs that all measurements share."""
        settings = self.settings.model_dump(mode="json", exclude=NOT_MEASURED)
        return fingerprint(
            code_version(*CODE), self.material.fingerprint, settings, self.run.config.splits.dictionaries
        )

    def fold_members(self, member: GridMember) -> list[GridMember]:
        """Return the SAEs of the folds behind the scores of a member; none if the folds share it."""
        own = fold_members(member, self.run.config.splits, self.material.clips.folds)
        each = zip(own or [member] * len(self.fold_layers), self.fold_layers, strict=True)
        return [replace(one, layer=layer) for one, layer in each] if self.fold_layers else own

    def units_of(self, member: GridMember, make: Callable[[GridMember], Units]) -> Units:
        """Return the representation made from an SAE, or that of each fold if folds have SAEs of their own."""
        folds = self.fold_members(member)
        made = {one: make(one) for one in dict.fromkeys(folds)}
        return stack_folds([made[one] for one in folds]) if folds else make(member)

    def units_of_layer(self, layer: int, make: Callable[[int], Units]) -> Units:
        """Return the representation made from a layer, or from that of each fold if these differ."""
        made = {one: make(one) for one in dict.fromkeys(self.fold_layers or (layer,))}
        return stack_folds([made[one] for one in self.fold_layers]) if self.fold_layers else made[layer]

    def record_template(self, representation: str, layer: int, *, pooling: str = "mean") -> Record:
        """Return the record with the columns that all records of one representation share."""
        return self.material.record_template(
            layer, protocol=strict.NAME, representation=representation, pooling=pooling
        )

    def measurement(
        self,
        name: str,
        about: Record,
        identity: object,
        units: Callable[[], Units | UnitsWithRecords],
        *,
        full: bool,
    ) -> CachedResult:
        """Return the part that measures one representation, in `full` or by ridge regression only.

        `units` may return records and arrays of its own.
        """

        def make() -> ComputedResult:
            made = units()
            brought = made if isinstance(made, UnitsWithRecords) else UnitsWithRecords(made, [], {})
            return self._measure(brought, about, full=full)

        depth = "full" if full else "linear"
        inputs = fingerprint(self.shared, self.fold_layers, depth, identity)
        return CachedResult(f"{strict.NAME}/{depth}/{name}", inputs, make)

    def _measure(self, brought: UnitsWithRecords, about: Record, *, full: bool) -> ComputedResult:
        settings, targets = self.settings, self.targets
        repeat = Repetitions(settings.folds)
        own = bool(self.fold_layers) or self.run.config.splits.per_fold
        units = as_of_folds(with_noise_if_constant(brought.units, targets), targets.clips.folds, own=own)
        records, arrays = list(brought.records), dict(brought.arrays)
        held = np.zeros((targets.clips.folds, len(self.tasks)))
        for number, task in enumerate(self.tasks):
            answer = evaluate_task(task, units, split=targets.split, groups=targets.groups, repeat=repeat, about=about)
            records += answer.records
            arrays[f"task.{number}"], arrays[f"task.{number}.shares"] = answer.sums, answer.shares
            if task.kind == "single":
                predicted = np.full(len(task.known), NOT_TESTED, dtype=np.int32)
                predicted[answer.tested] = answer.says.argmax(axis=1)
                arrays[predicted_key(task.name)] = predicted
            held[:, number] = answer.held
        if targets.names:
            linear = fit_ridge_scores(units, targets, folds=settings.folds)
            arrays |= {f"linear.{name}": value for name, value in linear._asdict().items()}
        if full:
            records += label_curve_records(units, targets, settings, about)
        if full and targets.names:
            found = score_representation(units, targets, settings)
            records += factor_records(found.lasso, targets, about)
            arrays |= found.to_arrays()
        return ComputedResult(records, {**arrays, "tasks": held})


def with_noise_if_constant(units: Units, targets: FactorTargets) -> Units:
    """Return the representation, with a column of noise if it is constant on the training clips.

    A dead SAE then scores at chance instead of raising an error.
    """
    if varies_in_training(units, targets.split):
        return units
    noise = np.random.default_rng(0).standard_normal((*units.shape[:-1], 1)).astype(np.float32)
    return np.concatenate([units, noise], axis=-1)


def ridge_scores_from(arrays: Mapping[str, NDArray[Any]]) -> RidgeScores:
    """Return the ridge scores stored by a part."""
    return RidgeScores(**{name: arrays[f"linear.{name}"] for name in RidgeScores._fields})


def report_plan(experiment: StrictExperiment) -> None:
    """Print the number of factors, tasks, representations and regressions to compute."""
    settings, config, targets = experiment.settings, experiment.run.config, experiment.targets
    layers, sparsities = len(experiment.material.store.layers), len(config.train.sparsities)
    limits = len(settings.limit_presets) * len(settings.limit_sparsities)
    light, full = layers + sparsities + limits, 1 + settings.seeds + len(settings.baselines)
    fits = full * len(targets.names)
    dropped = len(targets.clips.factor_names) - len(targets.names)
    say = experiment.run.progress.message
    say(
        f"  strict: {count(len(targets.names), 'factor')} ({dropped} dropped or near duplicates of these), "
        f"{count(len(experiment.tasks), 'task')}: {', '.join(task.name for task in experiment.tasks) or 'none'}"
    )
    say(
        f"  strict: at most {light} representations read linearly ({layers} layers, {sparsities} sparsities, {limits} "
        f"for the limit), then {full} in full (dense, {settings.seeds} seeds, {len(settings.baselines)} to beat): "
        f"{fits:,} tuned regressions over {count(experiment.material.corpus.clips.height, 'clip')}"
    )
