"""One model of the study: its stages, one after the other."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import polars as pl

from otoscope.corpus.table import Corpus
from otoscope.encoders.base import Encoder
from otoscope.errors import UnknownLayer
from otoscope.factors.table import FactorTable
from otoscope.pipeline.folder import RunFolder
from otoscope.pipeline.reproduce_job import Job
from otoscope.pipeline.reproduce_judging import judge_grid, probe_layers
from otoscope.pipeline.reproduce_room import grid_bytes, store_bytes
from otoscope.pipeline.reproduce_stores import extract_stores
from otoscope.pipeline.reproduce_training import grid_of, train_grid
from otoscope.pipeline.reproduce_views import Reader
from otoscope.pipeline.watch import Watch
from otoscope.protocols.mariotte2025.clips import takes
from otoscope.protocols.mariotte2025.grid import PAIR, Model
from otoscope.protocols.mariotte2025.hearing import load_model
from otoscope.protocols.mariotte2025.switches import Settings
from otoscope.sae.sparsifiers.base import k_from_sparsity


def folder_of(root: Path, model: str) -> RunFolder:
    """Return a model's folder in a reproduction's folder."""
    return RunFolder(root / "models" / model)


@dataclass(frozen=True)
class ModelRun:
    """One model on the corpus, in `models/NAME/` of the reproduction's folder."""

    model: Model
    root: Path
    corpus: Corpus
    factors: FactorTable
    settings: Settings
    device: str
    watch: Watch

    @cached_property
    def takes(self) -> pl.DataFrame:
        """What is heard of each file."""
        return takes(self.corpus, self.settings)

    def load(self) -> Encoder:
        """Load the checkpoint as the switches say."""
        return load_model(self.model.checkpoint, self.settings, device=self.device)

    def check(self) -> float:
        """Return the bytes that this model will take; raise what makes it impossible (no checkpoint, no such layer)."""
        for sparsity in self.settings.sparsities:
            k_from_sparsity(self.settings.latents, sparsity)
        encoder = self.load()
        known = [layer.index for layer in encoder.layers]
        missing = sorted(set(self.model.layers) - set(known))
        if self.settings.layers == "published" and missing:
            raise UnknownLayer(
                f"{encoder.name} has layers {known[0]} to {known[-1]}, not {missing}; name a pair with "
                f"--model {self.model.name}=CHECKPOINT@LAYER,LAYER, or --set layers=test"
            )
        width, clips = encoder.layers[-1].width, self.takes["clip_id"].n_unique()
        return store_bytes(clips, len(known), width) + grid_bytes(self.settings, width, PAIR)

    def finish(self) -> Model:
        """Bring every stage up to date; return the model with the layers that were opened."""
        self.watch.say(f"{self.model.name}: {self.model.checkpoint}")
        job = Job(self.model, folder_of(self.root, self.model.name), self.settings, self.watch)
        with job.folder.locked():
            stores = extract_stores(job, self.corpus, self.takes, self.load())
            reader = Reader(self.takes, stores, self.factors, crops=self.settings.crops)
            layers = probe_layers(job, reader)
            grid = grid_of(layers, self.settings)
            train_grid(job, reader, grid)
            judge_grid(job, reader, layers, grid)
        return replace(self.model, layers=layers)
