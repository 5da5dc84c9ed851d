"""The stores of one model of the study: every clip encoded once in each way in which it is heard.

Pooled states of a reproduction, sorted into the views that the study trains, chooses and reports on.

What the stages of one model of the study share.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float, Shaped

from otoscope.activations.extract import iter_extract
from otoscope.activations.sharding import Sharding
from otoscope.activations.store import ActivationStore
from otoscope.artifacts import fingerprint
from otoscope.config.mariotte2025 import ReproductionSettings
from otoscope.corpus.table import COLUMNS, Corpus
from otoscope.encoders.base import Encoder
from otoscope.errors import StaleArtifact
from otoscope.factors.table import FactorTable
from otoscope.metrics.record import Record
from otoscope.protocols.mariotte2025 import NAME
from otoscope.protocols.mariotte2025.measure import Known, Views
from otoscope.protocols.mariotte2025.models import MISRATED_LAYERS, Model
from otoscope.reproduce.mariotte2025.corpus import LABEL
from otoscope.reproduce.mariotte2025.encoder import heard
from otoscope.runs.cache import run_stage
from otoscope.runs.folder import RunFolder
from otoscope.runs.progress import ProgressReporter, task


class Reader:
    """Reads views of any layer out of a model's stores, and knows the clips' labels and factors.

    `takes` is what `clips.takes` gives; `stores` may lack "whole" (factors are then read from crops) and the two
    of the wrong rate.
    """

    def __init__(
        self, takes: pl.DataFrame, stores: Mapping[str, ActivationStore], factors: FactorTable, *, crops: int
    ) -> None:
        self.stores, self.crops = stores, crops
        self._by = {
            name: rows.sort("path", "crop") for (name,), rows in takes.partition_by("take", as_dict=True).items()
        }
        self.factors = factors

    @property
    def layers(self) -> list[int]:
        """All layers."""
        return self.stores["train"].layers

    @cached_property
    def identity(self) -> str:
        """All that views and labels are a function of."""
        stores = {name: store.content_id() for name, store in self.stores.items()}
        labels = {
            name: rows.select("path", "clip_id", f"label_{LABEL}", "group").rows() for name, rows in self._by.items()
        }
        return fingerprint(stores, labels, self.crops)

    @cached_property
    def known(self) -> Known:
        """Labels, singers and factors, in the order of the views."""
        whole = self._by["test"]
        return Known(
            train_labels={LABEL: self._labels(self._by["train"].unique("path", maintain_order=True))},
            valid_labels={LABEL: self._labels(self._by["valid"])},
            test_labels={LABEL: self._labels(whole)},
            test_groups=whole["group"].to_numpy(),
            whole_groups=whole["group"].to_numpy(),
            factors=self.factors.values(whole["path"].to_list()),
            factor_names=tuple(self.factors.names),
        )

    def views(self, layer: int) -> Views:
        """Return the states that dictionaries and regressions are fitted to."""
        return self._views(layer, "train", "check")

    def probed(self, layer: int) -> Views:
        """Return the states that the layer's own probe was fitted to: of the wrong rate where the authors slipped."""
        wrong = self.stores.get("train-misrated")
        if wrong is None or layer not in wrong.layers:
            return self.views(layer)
        return self._views(layer, "train-misrated", "check-misrated")

    def _views(self, layer: int, train: str, check: str) -> Views:
        valid, test = (self._pooled(check, layer, self._by[side]) for side in ("valid", "test"))
        whole = self._pooled("whole", layer, self._by["whole"]) if "whole" in self.stores else test
        return Views(self._crops(train, layer), valid, test, whole)

    def _crops(self, store: str, layer: int) -> Float[np.ndarray, "crops files width"]:
        """Return each file's crops; where a file has fewer, they come again."""
        rows = self._by["train"]
        names = rows.group_by("path", maintain_order=True).agg("clip_id")["clip_id"].to_list()
        wanted = [clips[crop % len(clips)] for crop in range(self.crops) for clips in names]
        found = self.stores[store].pooled(layer)
        place = {clip_id: i for i, clip_id in enumerate(self.stores[store].clip_ids)}
        return found[[place[clip] for clip in wanted]].reshape(self.crops, len(names), -1)

    def _pooled(self, store: str, layer: int, rows: pl.DataFrame) -> Float[np.ndarray, "clips width"]:
        return np.ascontiguousarray(self.stores[store].pooled(layer, rows["clip_id"].to_list()))

    @staticmethod
    def _labels(rows: pl.DataFrame) -> Shaped[np.ndarray, " clips"]:
        return rows[f"label_{LABEL}"].fill_null("").to_numpy()


FORMAT = 1
"""Raised when the same inputs would give other numbers."""


@dataclass(frozen=True)
class Job:
    """A model, the folder that its artifacts go to, how the study is done, and who watches."""

    model: Model
    folder: RunFolder
    settings: ReproductionSettings
    watch: ProgressReporter

    def about(self, layer: int, representation: str) -> Record:
        """Return what all records of one representation share."""
        return Record(
            metric="l0",
            value=0.0,
            split="test",
            protocol=NAME,
            encoder=self.model.checkpoint,
            layer=layer,
            representation=representation,
            pooling="mean" if representation == "dense" else "pool_then_encode",
        )


WRONG_RATE_HZ = 16_000

WHOLE_WINDOW_S = 600.0
"""Whole files go through a model in one piece, as in the study, where the model has no window of its own."""


class Store(NamedTuple):
    """A store to be made: its name, which takes, whether in crops, for training, at which rate, which layers."""

    name: str
    takes: tuple[str, ...]
    crop: bool
    noisy: bool
    rate_hz: int | None
    layers: tuple[int, ...]


def stores_of(name: str, layers: tuple[int, ...], settings: ReproductionSettings) -> list[Store]:
    """Return the stores that the study needs of a model with these layers.

    >>> from otoscope.config.mariotte2025 import Settings
    >>> [store.name for store in stores_of("MERT", tuple(range(13)), Settings())]
    ['train', 'check', 'whole', 'train-misrated', 'check-misrated']
    >>> [store.name for store in stores_of("MERT", tuple(range(13)), Settings(mert_rate="fix", factor_audio="crop"))]
    ['train', 'check']
    """
    wanted = [
        Store("train", ("train",), True, True, None, layers),
        Store("check", ("valid", "test"), True, False, None, layers),
    ]
    if settings.factor_audio == "whole":
        wanted.append(Store("whole", ("whole",), False, False, None, layers))
    wrong = tuple(layer for layer in MISRATED_LAYERS if layer in layers)
    if name == "MERT" and settings.mert_rate == "mixed" and wrong:
        wanted.append(Store("train-misrated", ("train",), True, True, WRONG_RATE_HZ, wrong))
        wanted.append(Store("check-misrated", ("valid", "test"), True, False, WRONG_RATE_HZ, wrong))
    return wanted


def extract_stores(job: Job, corpus: Corpus, takes: pl.DataFrame, encoder: Encoder) -> dict[str, ActivationStore]:
    """Encode what `takes` says is heard of each file; return the stores by name."""
    stores: dict[str, ActivationStore] = {}
    for wanted in stores_of(job.model.name, tuple(layer.index for layer in encoder.layers), job.settings):
        playing = heard(encoder, crop=wanted.crop, switches=job.settings, noisy=wanted.noisy, rate_hz=wanted.rate_hz)
        _extract(job, wanted, corpus, takes, playing)
        stores[wanted.name] = ActivationStore.open(job.folder.activations / wanted.name)
    return stores


def _extract(job: Job, wanted: Store, corpus: Corpus, takes: pl.DataFrame, encoder: Encoder) -> None:
    clips = takes.filter(pl.col("take").is_in(wanted.takes)).unique("clip_id", maintain_order=True)
    if encoder.window_s is not None:
        # a model with a window hears no more than that: the authors do not cut files into pieces
        clips = clips.with_columns(pl.min_horizontal("duration_s", pl.lit(encoder.window_s)).alias("duration_s"))
    corpus = replace(corpus, clips=clips.select(list(COLUMNS)).sort("clip_id"))
    home = job.folder.activations / wanted.name

    def write() -> None:
        with task(job.watch, f"{job.model.name}: encoding {wanted.name}", clips.height, "clips"):
            for progress in iter_extract(
                corpus,
                encoder,
                home,
                layers=wanted.layers,
                frames=False,
                sharding=Sharding(window_s=WHOLE_WINDOW_S),
                strict=True,
            ):
                job.watch.advance(progress.clips_new, note=f"{progress.times_real_time:.1f} x real time")

    def work() -> None:
        try:
            write()
        except StaleArtifact:
            shutil.rmtree(home)  # of other switches, or of another checkpoint
            write()

    sound = corpus.clips.select("clip_id", "start_s", "duration_s", "digest").rows()
    inputs = fingerprint(FORMAT, sound, encoder.name, encoder.revision, wanted.layers)
    manifest = home / "manifest.json"
    run_stage(job.folder, f"extract-{wanted.name}", inputs=inputs, outputs=[manifest], work=work, progress=job.watch)
