"""The dictionaries of one model of the study, each continued where it was."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from otoscope.artifacts import fingerprint
from otoscope.config.mariotte2025 import ReproductionSettings
from otoscope.formatting import count
from otoscope.reproduce.mariotte2025.corpus import LABEL
from otoscope.reproduce.mariotte2025.stores import FORMAT, Job, Reader
from otoscope.runs.cache import run_stage
from otoscope.runs.progress import ProgressReporter, task
from otoscope.runs.training import SAVE_EVERY_S, is_trained
from otoscope.sae.bank import Bank, BankMember
from otoscope.sae.checkpoint import CARD, WEIGHTS
from otoscope.sae.config import MARIOTTE2025, TrainConfig
from otoscope.sae.data import ArrayRows
from otoscope.sae.sparsifiers.base import k_from_sparsity


class Dictionary(NamedTuple):
    """A dictionary of the grid."""

    layer: int
    sparsity: float
    k: int

    @property
    def sae_id(self) -> str:
        """Name of its folder."""
        return f"layer{self.layer:02d}-k{self.k}"


def grid_of(layers: Sequence[int], settings: ReproductionSettings) -> list[Dictionary]:
    """Return a dictionary for each layer and sparsity.

    >>> [d.sae_id for d in grid_of([3, 12], Settings(sparsities=(0.75, 0.99)))]
    ['layer03-k512', 'layer03-k20', 'layer12-k512', 'layer12-k20']
    """
    return [
        Dictionary(layer, sparsity, k_from_sparsity(settings.latents, sparsity))
        for layer in layers
        for sparsity in settings.sparsities
    ]


def train_grid(job: Job, reader: Reader, grid: Sequence[Dictionary]) -> None:
    """Train the dictionaries of the grid that are not there yet; write `saes/ID/` each."""
    config = _recipe(reader, job.settings)
    recipe = config.model_dump(mode="json")
    inputs = {d: fingerprint(FORMAT, reader.identity, recipe, job.settings.checkpoint, d) for d in grid}
    homes = {d: job.folder.saes / d.sae_id for d in grid}

    def work() -> None:
        missing = [d for d in grid if not is_trained(homes[d], inputs[d])]
        title = f"{job.model.name}: training {count(len(missing), 'dictionary', 'dictionaries')}"
        with task(job.watch, title, len(missing), "dictionaries"):
            for layer in sorted({d.layer for d in missing}):
                wanted = {d: inputs[d] for d in missing if d.layer == layer}
                _train(_bank(job, reader, layer, wanted, config), job.watch)

    outputs = [home / name for home in homes.values() for name in (CARD, WEIGHTS)]
    everything = fingerprint(list(inputs.values()))
    run_stage(job.folder, "train", inputs=everything, outputs=outputs, work=work, progress=job.watch)


def _recipe(reader: Reader, settings: ReproductionSettings) -> TrainConfig:
    """Return the study's recipe for stored crops: as many steps, a validation after each pass over the files."""
    files = len(reader.known.train_labels[LABEL])
    epochs = settings.sae_epochs / reader.crops
    return MARIOTTE2025.model_copy(update={"epochs": epochs, "validate_rows": files})


def _bank(job: Job, reader: Reader, layer: int, wanted: Mapping[Dictionary, str], config: TrainConfig) -> Bank:
    """Return the bank of one layer's dictionaries; `wanted` holds what each rests on."""
    views = reader.views(layer)
    valid = views.valid
    if job.settings.checkpoint == "last_batch":
        valid = valid[-(len(valid) % config.batch or config.batch) :]
    members = [
        BankMember(
            name=d.sae_id,
            latents=job.settings.latents,
            k=d.k,
            seed=job.settings.seed,
            preset=config,
            folder=job.folder.saes / d.sae_id,
            card={"sae_id": d.sae_id, "encoder": job.model.checkpoint, "layer": layer, "inputs": inputs},
        )
        for d, inputs in wanted.items()
    ]
    return Bank(ArrayRows(views.train), ArrayRows(np.ascontiguousarray(valid)), members)


def _train(bank: Bank, watch: ProgressReporter) -> None:
    shown = dict.fromkeys((member.name for member in bank.members), 0.0)
    for name, step, trained in bank.train(save_every_s=SAVE_EVERY_S, discard_stale=True):
        now = 1.0 if step is None or trained is not None else step.step / step.steps
        watch.advance(now - shown[name], note=name)
        shown[name] = now
