"""Activation stores of one model, and the arrays that the study trains, validates and reports on."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Float, Shaped

from otoscope.activations.extract import iter_extract
from otoscope.activations.format import Sharding, remove_store
from otoscope.activations.storage import open_storage
from otoscope.activations.store import ActivationStore
from otoscope.artifacts import fingerprint
from otoscope.config.mariotte2025 import ReproductionSettings
from otoscope.corpus.table import COLUMNS, Corpus
from otoscope.encoders.base import Encoder
from otoscope.errors import StaleArtifact
from otoscope.factors.table import FactorTable
from otoscope.protocols.mariotte2025.measure import ClipTargets, SplitFeatures
from otoscope.protocols.mariotte2025.published import MISRATED_LAYERS
from otoscope.reproduce.mariotte2025.corpus import LABEL, study_encoder
from otoscope.runs.cache import run_stage
from otoscope.runs.folder import RunFolder
from otoscope.runs.progress import ProgressReporter, task

WRONG_RATE_HZ = 16_000

WHOLE_WINDOW_S = 600.0
"""Window of whole files: they are encoded in one piece, as in the study, unless the model has its own window."""


@dataclass(frozen=True)
class StoreSpec:
    """ReproductionSettings of one store: takes, crops or whole files, train mode, sample rate, layers."""

    name: str
    takes: tuple[str, ...]
    crop: bool
    stochastic: bool
    rate_hz: int | None
    layers: tuple[int, ...]


def store_specs(model: str, layers: tuple[int, ...], settings: ReproductionSettings) -> list[StoreSpec]:
    """Return the stores of a model with these layers.

    >>> from otoscope.config.mariotte2025 import ReproductionSettings
    >>> [spec.name for spec in store_specs("MERT", tuple(range(13)), ReproductionSettings())]
    ['train', 'check', 'whole', 'train-misrated', 'check-misrated']
    >>> fixed = ReproductionSettings(mert_rate="fix", factor_audio="crop")
    >>> [spec.name for spec in store_specs("MERT", tuple(range(13)), fixed)]
    ['train', 'check']
    """
    train, check = ("train",), ("valid", "test")
    specs = [StoreSpec("train", train, True, True, None, layers), StoreSpec("check", check, True, False, None, layers)]
    if settings.factor_audio == "whole":
        specs.append(StoreSpec("whole", ("whole",), False, False, None, layers))
    misrated = tuple(layer for layer in MISRATED_LAYERS if layer in layers)
    if model == "MERT" and settings.mert_rate == "mixed" and misrated:
        specs.append(StoreSpec("train-misrated", train, True, True, WRONG_RATE_HZ, misrated))
        specs.append(StoreSpec("check-misrated", check, True, False, WRONG_RATE_HZ, misrated))
    return specs


def extract_store(
    spec: StoreSpec,
    folder: RunFolder,
    corpus: Corpus,
    takes: pl.DataFrame,
    encoder: Encoder,
    *,
    settings: ReproductionSettings,
    progress: ProgressReporter,
    title: str,
) -> ActivationStore:
    """Encode the takes of a store; skipped if it is current."""
    encoder = study_encoder(
        encoder, crop=spec.crop, switches=settings, stochastic=spec.stochastic, rate_hz=spec.rate_hz
    )
    clips = takes.filter(pl.col("take").is_in(spec.takes)).unique("clip_id", maintain_order=True)
    if encoder.window_s is not None:
        # a model with a window encodes only the first window: the authors do not split files
        clips = clips.with_columns(pl.min_horizontal("duration_s", pl.lit(encoder.window_s)).alias("duration_s"))
    corpus = replace(corpus, clips=clips.select(list(COLUMNS)).sort("clip_id"))
    path = folder.activations / spec.name

    def work() -> None:
        with task(progress, title, clips.height, "clips"):
            try:
                _write(path, spec, corpus, encoder, progress)
            except StaleArtifact:
                remove_store(open_storage(path))  # written with other switches or another checkpoint
                _write(path, spec, corpus, encoder, progress)

    audio = corpus.clips.select("clip_id", "start_s", "duration_s", "digest").rows()
    inputs = fingerprint(audio, encoder.name, encoder.revision, spec.layers)
    outputs = [path / "manifest.json"]
    run_stage(folder, f"extract-{spec.name}", inputs=inputs, outputs=outputs, work=work, progress=progress)
    return ActivationStore.open(path)


def _write(path: Path, spec: StoreSpec, corpus: Corpus, encoder: Encoder, progress: ProgressReporter) -> None:
    sharding = Sharding(window_s=WHOLE_WINDOW_S)
    for state in iter_extract(corpus, encoder, path, layers=spec.layers, frames=False, sharding=sharding, strict=True):
        progress.advance(state.clips_new, note=f"{state.times_real_time:.1f} x real time")


class StudyData:
    """Hidden states, labels and factors of one model, as the arrays of the study.

    `takes` is the table of `cut_takes`. `stores` may lack "whole" (factors are then regressed on crops) and the
    two stores of the wrong sample rate.
    """

    def __init__(
        self, takes: pl.DataFrame, stores: Mapping[str, ActivationStore], factors: FactorTable, *, crops: int
    ) -> None:
        self.stores, self.factors, self.crops = stores, factors, crops
        self._takes = {
            name: rows.sort("path", "crop") for (name,), rows in takes.partition_by("take", as_dict=True).items()
        }

    @property
    def layers(self) -> list[int]:
        """All layers."""
        return self.stores["train"].layers

    @cached_property
    def fingerprint(self) -> str:
        """Fingerprint of hidden states and labels."""
        stores = {name: store.content_id() for name, store in self.stores.items()}
        columns = "path", "clip_id", f"label_{LABEL}", "group"
        labels = {name: rows.select(*columns).rows() for name, rows in self._takes.items()}
        return fingerprint(stores, labels, self.crops)

    @cached_property
    def known(self) -> ClipTargets:
        """Labels, singers and factors, in the order of the views."""
        test = self._takes["test"]
        return ClipTargets(
            train_labels={LABEL: self._labels(self._takes["train"].unique("path", maintain_order=True))},
            valid_labels={LABEL: self._labels(self._takes["valid"])},
            test_labels={LABEL: self._labels(test)},
            test_groups=test["group"].to_numpy(),
            whole_groups=test["group"].to_numpy(),
            factors=self.factors.values(test["path"].to_list()),
            factor_names=tuple(self.factors.names),
        )

    def views(self, layer: int) -> SplitFeatures:
        """Return the states of a layer for SAEs and regressions."""
        return self._views(layer, "train", "check")

    def probe_views(self, layer: int) -> SplitFeatures:
        """Return the states for the probe of the layer itself: at the wrong sample rate where the authors' were."""
        misrated = self.stores.get("train-misrated")
        if misrated is None or layer not in misrated.layers:
            return self.views(layer)
        return self._views(layer, "train-misrated", "check-misrated")

    def _views(self, layer: int, train: str, check: str) -> SplitFeatures:
        valid, test = (self._pooled(check, layer, self._takes[side]) for side in ("valid", "test"))
        whole = self._pooled("whole", layer, self._takes["whole"]) if "whole" in self.stores else test
        return SplitFeatures(self._crops(train, layer), valid, test, whole)

    def _crops(self, store: str, layer: int) -> Float[np.ndarray, "crops files width"]:
        """Return the crops of each file; a file with fewer crops repeats them."""
        files = self._takes["train"].group_by("path", maintain_order=True).agg("clip_id")["clip_id"].to_list()
        clips = [crops[crop % len(crops)] for crop in range(self.crops) for crops in files]
        index = {clip_id: i for i, clip_id in enumerate(self.stores[store].clip_ids)}
        rows = self.stores[store].pooled(layer)[[index[clip] for clip in clips]]
        return rows.reshape(self.crops, len(files), -1)

    def _pooled(self, store: str, layer: int, rows: pl.DataFrame) -> Float[np.ndarray, "clips width"]:
        return np.ascontiguousarray(self.stores[store].pooled(layer, rows["clip_id"].to_list()))

    @staticmethod
    def _labels(rows: pl.DataFrame) -> Shaped[np.ndarray, " clips"]:
        return rows[f"label_{LABEL}"].fill_null("").to_numpy()
