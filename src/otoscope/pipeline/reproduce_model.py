"""One model of the study: what its layers hold, its probes, its dictionaries, its numbers."""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float
from threadpoolctl import threadpool_limits

from otoscope.activations.extract import extract
from otoscope.activations.plan import Sharding
from otoscope.activations.store import ActivationStore
from otoscope.artifacts import digest, fingerprint, read_table, write_table
from otoscope.corpus.table import COLUMNS, Corpus
from otoscope.encoders.base import Encoder
from otoscope.errors import StaleArtifact, UnknownLayer
from otoscope.evaluate.record import Record, completed, to_table
from otoscope.factors.table import FactorTable
from otoscope.pipeline.codes import encode_rows
from otoscope.pipeline.dictionaries import SAVE_EVERY_S, is_whole
from otoscope.pipeline.folder import RunFolder
from otoscope.pipeline.reproduce_room import grid_bytes, store_bytes
from otoscope.pipeline.reproduce_views import Reader
from otoscope.pipeline.stage import run_stage
from otoscope.pipeline.watch import Watch, task
from otoscope.protocols.mariotte2025 import NAME
from otoscope.protocols.mariotte2025.clips import LABEL, takes
from otoscope.protocols.mariotte2025.grid import MISRATED_LAYERS, PAIR, Model
from otoscope.protocols.mariotte2025.hearing import heard, load_model
from otoscope.protocols.mariotte2025.judge import Views, judge_factors, judge_probes, judge_reconstruction
from otoscope.protocols.mariotte2025.switches import Settings
from otoscope.report.words import count
from otoscope.sae.bank import Bank
from otoscope.sae.checkpoint import CARD, WEIGHTS, load_sae
from otoscope.sae.model import SparseAutoencoder
from otoscope.sae.presets import MARIOTTE2025, TrainConfig
from otoscope.sae.rows import ArrayRows
from otoscope.sae.seat import Member
from otoscope.sae.sparsifiers import TopK, k_from_sparsity
from otoscope.sae.workers import one_thread

WRONG_RATE_HZ = 16_000
MISLABELLED = "HuBERT", 0.99, 0.75
"""Model, sparsity of the dictionary, and sparsity under which its first layer's probe was run (PAPER 1.3, 12)."""

WHOLE_WINDOW_S = 600.0
"""Whole files go through a model in one piece, as in the study, where the model has no window of its own."""

MOST_AT_ONCE = 4
"""Representations judged at once; each may take half a gigabyte."""

FORMAT = 1
"""Raised when the same inputs would give other numbers."""


class Store(NamedTuple):
    """A store to be made: its name, which takes, whether in crops, for training, at which rate, which layers."""

    name: str
    takes: tuple[str, ...]
    crop: bool
    noisy: bool
    rate_hz: int | None
    layers: tuple[int, ...]


class Dictionary(NamedTuple):
    """A dictionary of the grid."""

    layer: int
    sparsity: float
    k: int

    @property
    def sae_id(self) -> str:
        """Name of its folder."""
        return f"layer{self.layer:02d}-k{self.k}"


def results_of(folder: RunFolder, model: str) -> Path:
    """Return where a model's rows lie in a reproduction's folder."""
    return RunFolder(folder.root / "models" / model).results


@dataclass(frozen=True)
class ModelRun:
    """The stages of one model, in `models/NAME/` of the reproduction's folder."""

    model: Model
    parent: RunFolder
    corpus: Corpus
    factors: FactorTable
    settings: Settings
    device: str
    watch: Watch

    @cached_property
    def folder(self) -> RunFolder:
        """This model's folder."""
        return RunFolder(self.parent.root / "models" / self.model.name)

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
        with self.folder.locked():
            stores = self.extract()
            reader = Reader(self.takes, stores, self.factors, crops=self.settings.crops)
            opened = replace(self.model, layers=self.probe(reader))
            grid = [
                Dictionary(layer, sparsity, k_from_sparsity(self.settings.latents, sparsity))
                for layer in opened.layers
                for sparsity in self.settings.sparsities
            ]
            self.train(reader, grid)
            self.evaluate(reader, opened, grid)
        return opened

    def extract(self) -> dict[str, ActivationStore]:
        """Encode every clip once in each way in which it is heard."""
        stores: dict[str, ActivationStore] = {}
        inner = self.load()
        for wanted in self._stores(inner):
            playing = heard(inner, crop=wanted.crop, switches=self.settings, noisy=wanted.noisy, rate_hz=wanted.rate_hz)
            self._extract(wanted, playing)
            stores[wanted.name] = ActivationStore.open(self.folder.activations / wanted.name)
        return stores

    def _stores(self, encoder: Encoder) -> list[Store]:
        layers = tuple(layer.index for layer in encoder.layers)
        wanted = [
            Store("train", ("train",), True, True, None, layers),
            Store("check", ("valid", "test"), True, False, None, layers),
        ]
        if self.settings.factor_audio == "whole":
            wanted.append(Store("whole", ("whole",), False, False, None, layers))
        wrong = tuple(layer for layer in MISRATED_LAYERS if layer in layers)
        if self.model.name == "MERT" and self.settings.mert_rate == "mixed" and wrong:
            wanted.append(Store("train-misrated", ("train",), True, True, WRONG_RATE_HZ, wrong))
            wanted.append(Store("check-misrated", ("valid", "test"), True, False, WRONG_RATE_HZ, wrong))
        return wanted

    def _extract(self, wanted: Store, encoder: Encoder) -> None:
        clips = self.takes.filter(pl.col("take").is_in(wanted.takes)).unique("clip_id", maintain_order=True)
        if encoder.window_s is not None:
            # a model with a window hears no more than that: the authors do not cut files into pieces
            clips = clips.with_columns(pl.min_horizontal("duration_s", pl.lit(encoder.window_s)).alias("duration_s"))
        corpus = replace(self.corpus, clips=clips.select(list(COLUMNS)).sort("clip_id"))
        home = self.folder.activations / wanted.name
        title = f"{self.model.name}: encoding {wanted.name}"

        def write() -> None:
            with task(self.watch, title, clips.height, "clips"):
                for progress in extract(
                    corpus,
                    encoder,
                    home,
                    layers=wanted.layers,
                    frames=False,
                    sharding=Sharding(window_s=WHOLE_WINDOW_S),
                    strict=True,
                ):
                    self.watch.advance(progress.clips_new, note=f"{progress.times_real_time:.1f} x real time")

        def work() -> None:
            try:
                write()
            except StaleArtifact:
                shutil.rmtree(home)  # of other switches, or of another checkpoint
                write()

        sound = corpus.clips.select("clip_id", "start_s", "duration_s", "digest").rows()
        inputs = fingerprint(FORMAT, sound, encoder.name, encoder.revision, wanted.layers)
        manifest = home / "manifest.json"
        run_stage(self.folder, f"extract-{wanted.name}", inputs=inputs, outputs=[manifest], work=work, watch=self.watch)

    def probe(self, reader: Reader) -> tuple[int, ...]:
        """Probe every layer, and return the layers to open: the published pair, or one chosen by these probes."""
        table = self.folder.root / "probes.parquet"
        probing = self.settings.model_dump(mode="json", include={"probe_epochs", "seed"})
        inputs = fingerprint(FORMAT, reader.identity, probing)

        def work() -> None:
            made: list[pl.DataFrame] = []
            with task(self.watch, f"{self.model.name}: probing layers", len(reader.layers), "layers"), one_thread():
                for layer in reader.layers:
                    about = self._about(layer, "dense")
                    views = reader.probed(layer)
                    made.append(to_table(judge_probes(views, reader.known, self.settings, about)))
                    self.watch.advance(1)
            write_table(table, pl.concat(made))

        run_stage(self.folder, "probe", inputs=inputs, outputs=[table], work=work, watch=self.watch)
        if self.settings.layers == "published":
            return self.model.layers
        found = read_table(table).filter(pl.col("split") == self.settings.layers)
        return self.model.chosen(dict(found.select("layer", "value").iter_rows()))

    def train(self, reader: Reader, grid: list[Dictionary]) -> None:
        """Train the dictionaries of the grid, each continued where it was."""
        config = self._recipe(reader)
        inputs = {d: fingerprint(FORMAT, reader.identity, config.model_dump(mode="json"), self._valid, d) for d in grid}
        homes = {d: self.folder.saes / d.sae_id for d in grid}

        def work() -> None:
            missing = [d for d in grid if not is_whole(homes[d], inputs[d])]
            title = f"{self.model.name}: training {count(len(missing), 'dictionary', 'dictionaries')}"
            with task(self.watch, title, len(missing), "dictionaries"):
                for layer in sorted({d.layer for d in missing}):
                    wanted = [d for d in missing if d.layer == layer]
                    self._train(self._bank(reader, layer, wanted, config, inputs))

        outputs = [home / name for home in homes.values() for name in (CARD, WEIGHTS)]
        everything = fingerprint(list(inputs.values()))
        run_stage(self.folder, "train", inputs=everything, outputs=outputs, work=work, watch=self.watch)

    def _recipe(self, reader: Reader) -> TrainConfig:
        """Return the study's recipe for stored crops: as many steps, a validation after each pass over the files."""
        files = len(reader.known.train_labels[LABEL])
        epochs = self.settings.sae_epochs / reader.crops
        return MARIOTTE2025.model_copy(update={"epochs": epochs, "validate_rows": files})

    def _bank(
        self,
        reader: Reader,
        layer: int,
        wanted: list[Dictionary],
        config: TrainConfig,
        inputs: dict[Dictionary, str],
    ) -> Bank:
        views = reader.views(layer)
        valid = views.valid
        if self.settings.checkpoint == "last_batch":
            valid = valid[-(len(valid) % config.batch or config.batch) :]
        members = [
            Member(
                name=d.sae_id,
                latents=self.settings.latents,
                k=d.k,
                seed=self.settings.seed,
                preset=config,
                folder=self.folder.saes / d.sae_id,
                card={"sae_id": d.sae_id, "encoder": self.model.checkpoint, "layer": layer, "inputs": inputs[d]},
            )
            for d in wanted
        ]
        return Bank(ArrayRows(views.train), ArrayRows(np.ascontiguousarray(valid)), members)

    def _train(self, bank: Bank) -> None:
        shown = dict.fromkeys((member.name for member in bank.members), 0.0)
        for name, step, trained in bank.train(save_every_s=SAVE_EVERY_S, discard_stale=True):
            now = 1.0 if step is None or trained is not None else step.step / step.steps
            self.watch.advance(now - shown[name], note=name)
            shown[name] = now

    @property
    def _valid(self) -> str:
        return self.settings.checkpoint

    def evaluate(self, reader: Reader, opened: Model, grid: list[Dictionary]) -> None:
        """Judge both layers and every dictionary; write `results.parquet`, the layers' probes first."""
        probes = self.folder.root / "probes.parquet"
        cards = [digest(self.folder.saes / d.sae_id / CARD) for d in grid]
        inputs = fingerprint(
            FORMAT,
            digest(probes),
            cards,
            reader.identity,
            self.factors.fingerprint,
            self.settings.model_dump(mode="json"),
        )

        def work() -> None:
            jobs = [partial(self._judge_dense, reader, layer) for layer in opened.layers]
            jobs += [partial(self._judge_codes, reader, d, first=d.layer == opened.layers[0]) for d in grid]
            made = [completed(read_table(probes))]
            with task(self.watch, f"{self.model.name}: judging", len(jobs), "representations"):
                for table in side_by_side(jobs):
                    made.append(table)
                    self.watch.advance(1)
            write_table(self.folder.results, pl.concat(made))

        run_stage(self.folder, "evaluate", inputs=inputs, outputs=[self.folder.results], work=work, watch=self.watch)

    def _judge_dense(self, reader: Reader, layer: int) -> pl.DataFrame:
        about = self._about(layer, "dense")
        views = reader.views(layer)
        return to_table(judge_factors(views, reader.known, self.settings, about, width=views.test.shape[1], dense=True))

    def _judge_codes(self, reader: Reader, d: Dictionary, *, first: bool) -> pl.DataFrame:
        sae = load_sae(self.folder.saes / d.sae_id).sae
        dense = reader.views(d.layer)
        about = replace(
            self._about(d.layer, "sae"),
            sae_id=d.sae_id,
            preset=NAME,
            latents=self.settings.latents,
            k=d.k,
            sparsity=d.sparsity,
            seed=self.settings.seed,
        )
        test = encode_rows(sae, dense.test, np.arange(len(dense.test)))
        mean = dense.train.reshape(-1, dense.train.shape[2]).mean(axis=0, dtype=np.float64)
        made = list(judge_reconstruction(test.rows, test.rebuilt, test.codes, mean, about))
        codes = encoded(sae, dense)
        made += judge_factors(codes, reader.known, self.settings, about, width=dense.test.shape[1], dense=False)
        model, sparsity, label = MISLABELLED
        if self.settings.hubert_99 == "mislabelled" and (self.model.name, d.sparsity, first) == (model, sparsity, True):
            k = k_from_sparsity(self.settings.latents, label)
            sae.sparsifier = TopK(k)
            codes = encoded(sae, dense)
            about = replace(about, sparsity=label, k=k, sae_id=f"{d.sae_id}-read-at-k{k}")
        return to_table([*made, *judge_probes(codes, reader.known, self.settings, about)])

    def _about(self, layer: int, representation: str) -> Record:
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


def encoded(sae: SparseAutoencoder, dense: Views) -> Views:
    """Return the codes of every view."""

    def codes(rows: Float[np.ndarray, "*rows width"]) -> Float[np.ndarray, "*rows latents"]:
        flat = rows.reshape(-1, rows.shape[-1])
        return encode_rows(sae, flat, np.arange(len(flat))).codes.reshape(*rows.shape[:-1], -1)

    return Views(*(codes(part) for part in dense))


def side_by_side(jobs: Sequence[Callable[[], pl.DataFrame]]) -> Iterator[pl.DataFrame]:
    """Do jobs side by side, each on one thread, and yield what they give in their order."""
    workers = min(len(os.sched_getaffinity(0)), MOST_AT_ONCE)
    with threadpool_limits(1, user_api="blas"), one_thread(), ThreadPoolExecutor(workers) as pool:
        waiting = [pool.submit(job) for job in jobs]
        try:
            for future in waiting:
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)
