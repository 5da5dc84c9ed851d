"""One model of the study: its stages, one after the other."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import polars as pl

from otoscope.config.mariotte2025 import ReproductionSettings
from otoscope.corpus.table import Corpus
from otoscope.encoders.base import Encoder
from otoscope.errors import UnknownLayer
from otoscope.factors.table import FactorTable
from otoscope.protocols.mariotte2025.models import PAIR, Model
from otoscope.reproduce.mariotte2025.corpus import takes
from otoscope.reproduce.mariotte2025.encoder import load_model
from otoscope.reproduce.mariotte2025.estimate import grid_bytes, store_bytes
from otoscope.reproduce.mariotte2025.measure import judge_grid, probe_layers
from otoscope.reproduce.mariotte2025.stores import Job, Reader, extract_stores
from otoscope.reproduce.mariotte2025.training import grid_of, train_grid
from otoscope.runs.folder import RunFolder
from otoscope.runs.progress import ProgressReporter
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
    settings: ReproductionSettings
    device: str
    watch: ProgressReporter

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
        self.watch.message(f"{self.model.name}: {self.model.checkpoint}")
        job = Job(self.model, folder_of(self.root, self.model.name), self.settings, self.watch)
        with job.folder.locked():
            stores = extract_stores(job, self.corpus, self.takes, self.load())
            reader = Reader(self.takes, stores, self.factors, crops=self.settings.crops)
            layers = probe_layers(job, reader)
            grid = grid_of(layers, self.settings)
            train_grid(job, reader, grid)
            judge_grid(job, reader, layers, grid)
        return replace(self.model, layers=layers)
