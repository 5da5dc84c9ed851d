"""The stores of one model of the study: every clip encoded once in each way in which it is heard."""

import shutil
from dataclasses import replace
from typing import NamedTuple

import polars as pl

from otoscope.activations.extract import extract
from otoscope.activations.sharding import Sharding
from otoscope.activations.store import ActivationStore
from otoscope.artifacts import fingerprint
from otoscope.corpus.table import COLUMNS, Corpus
from otoscope.encoders.base import Encoder
from otoscope.errors import StaleArtifact
from otoscope.pipeline.reproduce_job import FORMAT, Job
from otoscope.pipeline.stage import run_stage
from otoscope.pipeline.watch import task
from otoscope.protocols.mariotte2025.grid import MISRATED_LAYERS
from otoscope.protocols.mariotte2025.hearing import heard
from otoscope.protocols.mariotte2025.switches import Settings

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


def stores_of(name: str, layers: tuple[int, ...], settings: Settings) -> list[Store]:
    """Return the stores that the study needs of a model with these layers.

    >>> from otoscope.protocols.mariotte2025.switches import Settings
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
            for progress in extract(
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
    run_stage(job.folder, f"extract-{wanted.name}", inputs=inputs, outputs=[manifest], work=work, watch=job.watch)
