"""What every part of the protocol is given, and the names of its parts.

Representations of clips: every one a matrix with a row a clip, whatever it was made of.

What the protocol is about to do, said before it starts.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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
from otoscope.linear.gram import live_columns
from otoscope.metrics.baselines import FROM_CODES, Encode, find_fitted
from otoscope.metrics.record import Record
from otoscope.protocols import strict
from otoscope.protocols.strict.regression import Linear, factor_records, read_linearly
from otoscope.protocols.strict.structure import label_curves, measure
from otoscope.protocols.strict.tasks import Asked, Repetitions, Task, ask, ask_of, continuous_target, tasks_of
from otoscope.runs.cache import CachedResult, ComputedResult
from otoscope.runs.code_version import MEASUREMENT_CODE, code_version
from otoscope.runs.codes import FRAMES_PER_BATCH
from otoscope.runs.context import Context
from otoscope.runs.inputs import Clips, EvaluationInputs
from otoscope.runs.training import GridMember

FITTED_ROWS = 8192
"""Training rows that a baseline is fitted on at most, drawn by seed."""

Units = Float[np.ndarray, "clips p"]


def fitted_units(name: str, store: ActivationStore, member: GridMember, clips: Clips) -> Units:
    """Return the codes of a baseline fitted on the rows that a dictionary was trained on, pooled as its codes are."""
    train = [clip for clip, split in zip(store.clip_ids, clips.split, strict=True) if split == "train"]
    rows = _training_rows(store, member, train)
    encode = find_fitted(name)(rows, latents=member.latents, k=member.k, seed=member.seed)
    return encoded_units(store, encode, member.layer, member.pooling)


def encoded_units(store: ActivationStore, encode: Encode, layer: int, pooling: Pooling) -> Units:
    """Return the codes of all clips: of their mean rows, or of every frame and averaged."""
    if pooling == "pool_then_encode":
        return np.asarray(encode(store.pooled(layer)), dtype=np.float32)
    made = [part for rows, lengths in _whole_clips(store, layer) for part in _means(encode(rows), lengths)]
    return np.stack(made).astype(np.float32)


def made_of_codes(name: str, codes: Callable[[], Units], *, seed: int) -> Units:
    """Return codes that know nothing, made of a dictionary's."""
    return FROM_CODES[name](codes(), seed=seed)


def _training_rows(store: ActivationStore, member: GridMember, train: Sequence[str]) -> Float[np.ndarray, "rows width"]:
    if member.pooling == "pool_then_encode":
        return np.ascontiguousarray(store.pooled(member.layer, train))
    rows = store.rows(member.layer, train)
    number = min(FITTED_ROWS, rows.height)
    drawn = np.random.default_rng(member.seed).choice(rows.height, number, replace=False)
    return rows.take(np.sort(drawn))


def _whole_clips(store: ActivationStore, layer: int) -> Iterator[tuple[Float[np.ndarray, "frames width"], list[int]]]:
    """Yield the frames of whole clips together, so that a batch is worth its while, and each clip's number of them."""
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
"""Code that the numbers depend on."""

NOT_MEASURED = {
    *("layer", "sparsity", "seeds", "baselines", "min_r2"),
    *("limit_sparsities", "limit_presets", "untrained_context"),
}
"""Settings that change which representations are measured, or what is made of it, but not a measurement."""


class Brought(NamedTuple):
    """A representation with records and arrays that came up as it was made."""

    units: Units
    records: list[Record]
    arrays: dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Frame:
    """A run, its clips, and what is asked of them."""

    run: Context
    material: EvaluationInputs

    @property
    def settings(self) -> StrictSettings:
        """The section `evaluate.strict`."""
        return self.run.config.evaluate.strict

    @property
    def resamples(self) -> int:
        """How often groups are drawn."""
        return self.run.config.evaluate.resamples

    @property
    def pooling(self) -> Pooling:
        """The order of pooling of all codes but those of the paper's recipe: the first of the run's."""
        return self.run.config.train.poolings[0]

    @cached_property
    def asked(self) -> Asked:
        """The factors, made robust."""
        of = {card.name: card.category for card in self.material.factors.cards}
        return ask_of(self.material.clips, of, near_duplicates=self.settings.near_duplicates)

    @cached_property
    def tasks(self) -> list[Task]:
        """The tasks that the corpus allows."""
        clips = self.material.clips
        target = continuous_target(self.asked, self.settings.target)
        return tasks_of(clips.labels, clips.factors, clips.factor_names, split=clips.split, target=target)

    @cached_property
    def shared(self) -> str:
        """What every measurement rests on beside its representation."""
        settings = self.settings.model_dump(mode="json", exclude=NOT_MEASURED)
        return fingerprint(code_version(*CODE), self.material.fingerprint, settings, self.resamples)

    def about(self, representation: str, layer: int, *, pooling: str = "mean") -> Record:
        """Return what all records of one representation share."""
        return self.material.record_template(
            layer, protocol=strict.NAME, representation=representation, pooling=pooling
        )

    def part(
        self,
        name: str,
        about: Record,
        identity: object,
        units: Callable[[], Units | Brought],
        *,
        full: bool,
    ) -> CachedResult:
        """Return the part that reads one representation, in `full` or only linearly.

        `units` may bring records and arrays of its own.
        """

        def make() -> ComputedResult:
            made = units()
            brought = made if isinstance(made, Brought) else Brought(made, [], {})
            return self._measured(brought, about, full=full)

        depth = "full" if full else "linear"
        return CachedResult(f"{strict.NAME}/{depth}/{name}", fingerprint(self.shared, depth, identity), make)

    def _measured(self, brought: Brought, about: Record, *, full: bool) -> ComputedResult:
        settings, asked = self.settings, self.asked
        repeat = Repetitions(settings.permutations, self.resamples, settings.folds)
        units, records, arrays = readable(brought.units, asked), list(brought.records), dict(brought.arrays)
        held: list[float] = []
        for number, task in enumerate(self.tasks):
            answer = ask(task, units, split=asked.split, groups=asked.groups, repeat=repeat, about=about)
            records += answer.records
            arrays[f"task.{number}"] = answer.sums
            held.append(answer.records[-1].value)
        if asked.names:
            linear = read_linearly(units, asked, folds=settings.folds, permutations=settings.permutations)
            arrays |= {f"linear.{name}": value for name, value in linear._asdict().items()}
        if full:
            records += label_curves(units, asked, settings, about, resamples=self.resamples)
        if full and asked.names:
            found = measure(units, asked, settings, resamples=self.resamples)
            records += factor_records(found.reading, asked, about)
            arrays |= found.arrays()
        return ComputedResult(records, {**arrays, "tasks": np.asarray(held, dtype=np.float64)})


def readable(units: Units, asked: Asked) -> Units:
    """Return a representation, with a column of noise where none of its own varies over the training clips.

    A dictionary may be dead; what is then read is what chance reads, and not an error.
    """
    if live_columns(units[asked.split == "train"]).any():
        return units
    noise = np.random.default_rng(0).standard_normal((len(units), 1)).astype(np.float32)
    return np.concatenate([units, noise], axis=1)


def linear_of(arrays: Mapping[str, NDArray[Any]]) -> Linear:
    """Return the linear reading that a part kept."""
    return Linear(**{name: arrays[f"linear.{name}"] for name in Linear._fields})


def say_plan(frame: Frame) -> None:
    """Say how many representations, dictionaries and regressions are to come."""
    settings, config, asked = frame.settings, frame.run.config, frame.asked
    layers, sparsities = len(frame.material.store.layers), len(config.train.sparsities)
    limits = len(settings.limit_presets) * len(settings.limit_sparsities)
    light, full = layers + sparsities + limits, 1 + settings.seeds + len(settings.baselines)
    fits = full * len(asked.names) * (1 + settings.permutations)
    dropped = len(asked.clips.factor_names) - len(asked.names)
    say = frame.run.progress.message
    say(
        f"  strict: {count(len(asked.names), 'factor')} ({dropped} dropped or near duplicates of these), "
        f"{count(len(frame.tasks), 'task')}: {', '.join(task.name for task in frame.tasks) or 'none'}"
    )
    say(
        f"  strict: at most {light} representations read linearly ({layers} layers, {sparsities} sparsities, {limits} "
        f"for the limit), then {full} in full (dense, {settings.seeds} seeds, {len(settings.baselines)} to beat): "
        f"{fits:,} tuned regressions over {count(frame.material.corpus.clips.height, 'clip')}"
    )
