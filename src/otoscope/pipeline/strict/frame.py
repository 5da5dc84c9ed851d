"""What every part of the protocol is given, and the names of its parts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from otoscope.artifacts import fingerprint
from otoscope.config import Pooling
from otoscope.linear.gram import live_columns
from otoscope.metrics.record import Record
from otoscope.pipeline.context import Context
from otoscope.pipeline.material import Material
from otoscope.pipeline.parts import Made, Part
from otoscope.pipeline.strict.units import Units
from otoscope.protocols import strict
from otoscope.protocols.strict.curves import label_curves
from otoscope.protocols.strict.factors import Asked, ask_of, continuous_target
from otoscope.protocols.strict.linear import Linear, read_linearly
from otoscope.protocols.strict.measure import measure
from otoscope.protocols.strict.reading import factor_records
from otoscope.protocols.strict.settings import StrictSettings
from otoscope.protocols.strict.tasks import Repetitions, Task, ask, tasks_of

FORMAT = 3
"""Raised when the same inputs would give other numbers, so that old parts are not taken for new ones."""

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
    material: Material

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
        return fingerprint(FORMAT, self.material.identity, settings, self.resamples)

    def about(self, representation: str, layer: int, *, pooling: str = "mean") -> Record:
        """Return what all records of one representation share."""
        return self.material.about(layer, protocol=strict.NAME, representation=representation, pooling=pooling)

    def part(
        self,
        name: str,
        about: Record,
        identity: object,
        units: Callable[[], Units | Brought],
        *,
        full: bool,
    ) -> Part:
        """Return the part that reads one representation, in `full` or only linearly.

        `units` may bring records and arrays of its own.
        """

        def make() -> Made:
            made = units()
            brought = made if isinstance(made, Brought) else Brought(made, [], {})
            return self._measured(brought, about, full=full)

        depth = "full" if full else "linear"
        return Part(f"{strict.NAME}/{depth}/{name}", fingerprint(self.shared, depth, identity), make)

    def _measured(self, brought: Brought, about: Record, *, full: bool) -> Made:
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
        return Made(records, {**arrays, "tasks": np.asarray(held, dtype=np.float64)})


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
