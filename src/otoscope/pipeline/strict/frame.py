"""What every part of the protocol is given, and the names of its parts."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from otoscope.artifacts import fingerprint
from otoscope.config import Pooling
from otoscope.evaluate.record import Record
from otoscope.pipeline.context import Context
from otoscope.pipeline.grid import Member
from otoscope.pipeline.material import Material
from otoscope.pipeline.parts import Made, Part
from otoscope.pipeline.strict.units import Units
from otoscope.protocols import strict
from otoscope.protocols.strict.factors import Asked, ask_of, continuous_target
from otoscope.protocols.strict.measure import measure
from otoscope.protocols.strict.settings import StrictSettings
from otoscope.protocols.strict.tasks import Repetitions, Task, ask, tasks_of

FORMAT = 1
"""Raised when the same inputs would give other numbers, so that old parts are not taken for new ones."""

NOT_MEASURED = {"layer", "sparsity", "seeds", "baselines", "min_r2", "limit_sparsities", "limit_presets"}
"""Settings that change which representations are measured, or what is made of it, but not a measurement."""


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
        units: Callable[[], Units | tuple[Units, list[Record]]],
    ) -> Part:
        """Return the part that measures one representation; `units` may bring records of its own."""

        def make() -> Made:
            made = units()
            matrix, records = made if isinstance(made, tuple) else (made, [])
            return self._measured(matrix, about, records)

        return Part(f"{strict.NAME}/{name}", fingerprint(self.shared, identity), make)

    def _measured(self, units: Units, about: Record, records: list[Record]) -> Made:
        settings, asked = self.settings, self.asked
        repeat = Repetitions(settings.permutations, self.resamples, settings.folds)
        for task in self.tasks:
            records += ask(task, units, split=asked.split, groups=asked.groups, repeat=repeat, about=about)
        if not asked.names:
            return Made(records, {"tasks": _held_tasks(records)})
        found = measure(units, asked, settings, resamples=self.resamples)
        reading = found.reading
        fitted = asked.split != "test"
        for j, name in enumerate(asked.names):
            shared = replace(about, metric="factor_r2", target=name)
            records.append(
                replace(
                    shared,
                    value=float(reading.r2[j]),
                    low=float(reading.low[j]),
                    high=float(reading.high[j]),
                    null_mean=float(reading.null_mean[j]),
                    null_high=float(reading.null_high[j]),
                    n=int(reading.n[j]),
                    groups=int(reading.groups[j]),
                )
            )
            known = fitted & ~np.isnan(asked.values[:, j])
            n_groups = len(np.unique(asked.groups[known]))
            held = float(reading.held_r2[j])
            records.append(replace(shared, split="valid", value=held, n=int(known.sum()), groups=n_groups))
        return Made(records, {**found.arrays(), "tasks": _held_tasks(records)})


def dictionary_columns(member: Member) -> dict[str, Any]:
    """Return the columns of a record that say which dictionary it is of."""
    return {
        "sae_id": member.sae_id,
        "latents": member.latents,
        "k": member.k,
        "sparsity": member.sparsity,
        "seed": member.seed,
        "pooling": member.pooling,
    }


def _held_tasks(records: list[Record]) -> np.ndarray:
    scores = [r.value for r in records if r.split == "valid" and r.metric.startswith("task_")]
    return np.asarray(scores, dtype=np.float64)
