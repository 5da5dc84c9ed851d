"""Reproduction of one model: extract, probe, train and evaluate, in `models/NAME/` of the reproduction."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Float

from otoscope.artifacts import digest, fingerprint, read_table, write_table
from otoscope.config.mariotte2025 import ReproductionSettings
from otoscope.corpus.table import Corpus
from otoscope.encoders.base import Encoder
from otoscope.errors import UnknownLayer
from otoscope.factors.table import FactorTable
from otoscope.formatting import count
from otoscope.hardware import one_thread
from otoscope.metrics.record import Record, to_table
from otoscope.protocols.mariotte2025 import NAME
from otoscope.protocols.mariotte2025.measure import (
    SplitFeatures,
    measure_factors,
    measure_probes,
    measure_reconstruction,
)
from otoscope.protocols.mariotte2025.published import PAIR, StudyModel
from otoscope.protocols.mariotte2025.run import CODE
from otoscope.reproduce.mariotte2025.corpus import LABEL, cut_takes, load_study_encoder
from otoscope.reproduce.mariotte2025.estimate import grid_bytes, store_bytes
from otoscope.reproduce.mariotte2025.stores import StudyData, extract_store, store_specs
from otoscope.runs.cache import CachedResult, ComputedResult, ensure, read_records, run_stage
from otoscope.runs.code_version import code_version
from otoscope.runs.codes import encode_rows
from otoscope.runs.folder import RunFolder
from otoscope.runs.progress import ProgressReporter, task
from otoscope.runs.training import TRAINING_CODE, GridMember, is_trained, train_bank
from otoscope.sae.bank import Bank, BankMember
from otoscope.sae.checkpoint import CARD, WEIGHTS
from otoscope.sae.config import MARIOTTE2025, TrainConfig
from otoscope.sae.data import ArrayRows
from otoscope.sae.model import SparseAutoencoder, load_sae
from otoscope.sae.sparsifiers.base import k_from_sparsity
from otoscope.sae.sparsifiers.topk import TopK

MISLABELLED = "HuBERT", 0.99, 0.75
"""Model, sparsity of the SAE, and sparsity under which the probe of its first layer was run (PAPER 1.3, 12)."""


@dataclass(frozen=True)
class ModelRun:
    """Reproduction of one model."""

    model: StudyModel
    folder: RunFolder
    corpus: Corpus
    factors: FactorTable
    settings: ReproductionSettings
    device: str
    progress: ProgressReporter

    @cached_property
    def takes(self) -> pl.DataFrame:
        """Takes of each file."""
        return cut_takes(self.corpus, self.settings)

    def load(self) -> Encoder:
        """Load the checkpoint with the switches of the settings."""
        return load_study_encoder(self.model.checkpoint, self.settings, device=self.device)

    def check(self) -> float:
        """Return the bytes that this model needs; raise if the checkpoint or a layer is missing."""
        for sparsity in self.settings.sparsities:
            k_from_sparsity(self.settings.latents, sparsity)
        encoder = self.load()
        layers = [layer.index for layer in encoder.layers]
        missing = sorted(set(self.model.layers) - set(layers))
        if self.settings.layers == "published" and missing:
            raise UnknownLayer(
                f"{encoder.name} has layers {layers[0]} to {layers[-1]}, not {missing}; name a pair with "
                f"--model {self.model.name}=CHECKPOINT@LAYER,LAYER, or --set layers=test"
            )
        width, clips = encoder.layers[-1].width, self.takes["clip_id"].n_unique()
        return store_bytes(clips, len(layers), width) + grid_bytes(self.settings, width, PAIR)

    def run(self) -> StudyModel:
        """Run all stages; return the model with the layers that were used."""
        self.progress.message(f"{self.model.name}: {self.model.checkpoint}")
        with self.folder.locked():
            data = self._extract(self.load())
            layers = self._probe_layers(data)
            grid = training_grid(layers, self.settings)
            self._train(data, grid)
            self._evaluate(data, layers, grid)
        return replace(self.model, layers=layers)

    def _extract(self, encoder: Encoder) -> StudyData:
        specs = store_specs(self.model.name, tuple(layer.index for layer in encoder.layers), self.settings)
        stores = {
            spec.name: extract_store(
                spec,
                self.folder,
                self.corpus,
                self.takes,
                encoder,
                settings=self.settings,
                progress=self.progress,
                title=f"{self.model.name}: encoding {spec.name}",
            )
            for spec in specs
        }
        return StudyData(self.takes, stores, self.factors, crops=self.settings.crops)

    def _probe_layers(self, data: StudyData) -> tuple[int, ...]:
        """Probe every layer; return the published pair, or the pair that these probes choose."""
        table = self._probes
        settings = self.settings.model_dump(mode="json", include={"probe_epochs", "seed"})

        def work() -> None:
            tables: list[pl.DataFrame] = []
            title = f"{self.model.name}: probing layers"
            with task(self.progress, title, len(data.layers), "layers"), one_thread():
                for layer in data.layers:
                    template = self._record_template(layer, "dense")
                    tables.append(
                        to_table(measure_probes(data.probe_views(layer), data.known, self.settings, template))
                    )
                    self.progress.advance(1)
            write_table(table, pl.concat(tables))

        inputs = fingerprint(data.fingerprint, settings)
        run_stage(self.folder, "probe", inputs=inputs, outputs=[table], work=work, progress=self.progress, code=CODE)
        if self.settings.layers == "published":
            return self.model.layers
        accuracy = read_table(table).filter(pl.col("split") == self.settings.layers)
        return self.model.choose_layers(dict(accuracy.select("layer", "value").iter_rows()))

    def _train(self, data: StudyData, grid: Sequence[GridMember]) -> None:
        """Train the missing SAEs of the grid; write `saes/ID/` for each."""
        config = train_config(data, self.settings)
        shared = data.fingerprint, config.model_dump(mode="json"), self.settings.checkpoint
        inputs = {m: fingerprint(*shared, m.sae_id, m.sparsity, code_version(*TRAINING_CODE)) for m in grid}
        folders = {member: self.folder.saes / member.sae_id for member in grid}

        def work() -> None:
            missing = [member for member in grid if not is_trained(folders[member], inputs[member])]
            title = f"{self.model.name}: training {count(len(missing), 'dictionary', 'dictionaries')}"
            with task(self.progress, title, len(missing), "dictionaries"):
                for layer in sorted({member.layer for member in missing}):
                    members = [
                        BankMember(
                            name=m.sae_id,
                            latents=m.latents,
                            k=m.k,
                            seed=m.seed,
                            preset=config,
                            folder=folders[m],
                            card={
                                **{"sae_id": m.sae_id, "encoder": self.model.checkpoint, "layer": layer},
                                "inputs": inputs[m],
                            },
                        )
                        for m in missing
                        if m.layer == layer
                    ]
                    train_bank(self._bank(data.views(layer), config, members), self.progress)

        outputs = [folder / name for folder in folders.values() for name in (CARD, WEIGHTS)]
        total = fingerprint(list(inputs.values()))
        run_stage(self.folder, "train", inputs=total, outputs=outputs, work=work, progress=self.progress)

    def _bank(self, views: SplitFeatures, config: TrainConfig, members: Sequence[BankMember]) -> Bank:
        valid = views.valid
        if self.settings.checkpoint == "last_batch":
            valid = valid[-(len(valid) % config.batch or config.batch) :]
        return Bank(ArrayRows(views.train), ArrayRows(np.ascontiguousarray(valid)), members)

    def _evaluate(self, data: StudyData, layers: Sequence[int], grid: Sequence[GridMember]) -> None:
        """Evaluate the chosen layers and every SAE; write `results.parquet`, the probes of all layers first."""
        settings = self.settings.model_dump(mode="json")
        shared = fingerprint(code_version(*CODE), data.fingerprint, data.factors.fingerprint, settings)
        cached = [
            CachedResult(
                f"layer{layer:02d}-dense", fingerprint(shared, layer), partial(self._evaluate_layer, data, layer)
            )
            for layer in layers
        ]
        for member in grid:
            inputs = fingerprint(shared, digest(self.folder.saes / member.sae_id / CARD), member.layer == layers[0])
            compute = partial(self._evaluate_sae, data, member, first=member.layer == layers[0])
            cached.append(CachedResult(member.sae_id, inputs, compute))

        def work() -> None:
            title = f"{self.model.name}: evaluating"
            with one_thread():
                ensure(self.folder.parts, cached, self.progress, title=title, unit="representations")
            write_table(
                self.folder.results, pl.concat([read_table(self._probes), read_records(self.folder.parts, cached)])
            )

        total = fingerprint(digest(self._probes), [result.inputs for result in cached])
        outputs = [self.folder.results]
        run_stage(self.folder, "evaluate", inputs=total, outputs=outputs, work=work, progress=self.progress)

    def _evaluate_layer(self, data: StudyData, layer: int) -> ComputedResult:
        template, views = self._record_template(layer, "dense"), data.views(layer)
        width = views.test.shape[1]
        return ComputedResult(
            list(measure_factors(views, data.known, self.settings, template, width=width, dense=True))
        )

    def _evaluate_sae(self, data: StudyData, member: GridMember, *, first: bool) -> ComputedResult:
        settings, known = self.settings, data.known
        sae = load_sae(self.folder.saes / member.sae_id).sae
        dense = data.views(member.layer)
        template = replace(self._record_template(member.layer, "sae"), **member.columns())
        test = encode_rows(sae, dense.test, np.arange(len(dense.test)))
        mean = dense.train.reshape(-1, dense.train.shape[2]).mean(axis=0, dtype=np.float64)
        records = list(measure_reconstruction(test.rows, test.rebuilt, test.codes, mean, template))
        codes = _encode(sae, dense)
        records += measure_factors(codes, known, settings, template, width=dense.test.shape[1], dense=False)
        model, sparsity, label = MISLABELLED
        if settings.hubert_99 == "mislabelled" and (self.model.name, member.sparsity, first) == (model, sparsity, True):
            k = k_from_sparsity(settings.latents, label)
            sae.sparsifier = TopK(k)
            codes = _encode(sae, dense)
            template = replace(template, sparsity=label, k=k, sae_id=f"{member.sae_id}-read-at-k{k}")
        return ComputedResult([*records, *measure_probes(codes, known, settings, template)])

    @property
    def _probes(self) -> Path:
        return self.folder.root / "probes.parquet"

    def _record_template(self, layer: int, representation: str) -> Record:
        """Return a record with the fields that all records of one representation share."""
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


def training_grid(layers: Sequence[int], settings: ReproductionSettings) -> list[GridMember]:
    """Return an SAE for each layer and sparsity.

    >>> [member.sae_id[:27] for member in training_grid([3, 12], ReproductionSettings(sparsities=(0.99,)))]
    ['layer03-pooled-mariotte2025', 'layer12-pooled-mariotte2025']
    """
    return [
        GridMember(layer, "pool_then_encode", NAME, settings.latents, sparsity, settings.seed)
        for layer in layers
        for sparsity in settings.sparsities
    ]


def train_config(data: StudyData, settings: ReproductionSettings) -> TrainConfig:
    """Return the study's preset for stored crops: as many steps, and a validation per pass over the files."""
    files = len(data.known.train_labels[LABEL])
    return MARIOTTE2025.model_copy(update={"epochs": settings.sae_epochs / data.crops, "validate_rows": files})


def _encode(sae: SparseAutoencoder, dense: SplitFeatures) -> SplitFeatures:
    """Return the codes of every view."""

    def codes(rows: Float[np.ndarray, "*rows width"]) -> Float[np.ndarray, "*rows latents"]:
        flat = rows.reshape(-1, rows.shape[-1])
        return encode_rows(sae, flat, np.arange(len(flat))).codes.reshape(*rows.shape[:-1], -1)

    return SplitFeatures(*(codes(view) for view in dense))
