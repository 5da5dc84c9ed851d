"""The protocol `held_out`: every dense layer and every dictionary by itself."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from otoscope.artifacts import fingerprint, read_json
from otoscope.config import Pooling
from otoscope.corpus.table import SPLITS
from otoscope.metrics.reconstruction import ReconstructionMeter
from otoscope.metrics.record import Record
from otoscope.pipeline.clips import Features
from otoscope.pipeline.codes import code_features, train_mean
from otoscope.pipeline.context import Context
from otoscope.pipeline.folder import RunFolder
from otoscope.pipeline.grid import Member, members
from otoscope.pipeline.judged import Judged
from otoscope.pipeline.material import Material
from otoscope.pipeline.parts import Made, Part, bring, rows_of
from otoscope.protocols import held_out
from otoscope.protocols.held_out import Settings
from otoscope.report.words import count
from otoscope.sae.checkpoint import load_sae

FORMAT = 3
"""Raised when the same inputs would give other numbers, so that old parts are not taken for new ones."""

SETTINGS = {"permutations", "resamples", "completeness_min_r2"}


def judge(run: Context, material: Material) -> Judged:
    """Plan the parts of this protocol."""
    config, folder, watch = run.config, run.folder, run.watch
    asked = config.evaluate.model_dump(mode="json", include=SETTINGS)
    settings, shared = Settings(**asked), fingerprint(FORMAT, material.identity, asked)

    mean_of = _Means(material)
    layers = material.store.layers
    parts = [
        *(_dense_part(material, layer, settings, shared) for layer in layers),
        *(_sae_part(material, folder, member, settings, shared, mean_of) for member in members(config, layers)),
    ]

    def make() -> None:
        title = f"evaluating {count(len(parts), 'representation')}"
        bring(folder.parts, parts, watch, title=title, unit="representations", engine=run.engine)

    inputs = fingerprint([(part.name, part.inputs) for part in parts])
    return Judged(inputs, make, lambda: rows_of(folder.parts, parts))


class _Means:
    """The mean of the training rows of each layer, worked out once in each process."""

    def __init__(self, material: Material) -> None:
        self._material = material
        self._known: dict[tuple[int, Pooling], Float[np.ndarray, " width"]] = {}

    def __call__(self, layer: int, pooling: Pooling) -> Float[np.ndarray, " width"]:
        if (layer, pooling) not in self._known:
            self._known[layer, pooling] = train_mean(self._material.store, layer, pooling, self._material.clips)
        return self._known[layer, pooling]


def _dense_part(material: Material, layer: int, settings: Settings, shared: str) -> Part:
    def make() -> Made:
        pooled = material.store.pooled(layer)
        about = material.about(layer, protocol=held_out.NAME, representation="dense", pooling="mean")
        return Made(list(held_out.judge(Features(pooled, pooled), material.clips, settings, about)))

    return Part(f"layer{layer:02d}-dense", fingerprint(shared, "dense", layer), make)


def _sae_part(
    material: Material,
    folder: RunFolder,
    member: Member,
    settings: Settings,
    shared: str,
    mean_of: Callable[[int, Pooling], Float[np.ndarray, " width"]],
) -> Part:
    home = folder.saes / member.sae_id

    def make() -> Made:
        store, clips = material.store, material.clips
        sae = load_sae(home).sae
        meters = {split: ReconstructionMeter(mean_of(member.layer, member.pooling)) for split in SPLITS}
        features = code_features(store, sae, member, store.clip_ids, meters=meters, clips=clips)
        shared_by_all = material.about(
            member.layer, protocol=held_out.NAME, representation="sae", pooling=member.pooling
        )
        about = replace(shared_by_all, **member.columns())
        records: list[Record] = []
        for split, meter in meters.items():
            records += held_out.rebuilt(meter.result(resamples=settings.resamples), split, about)
        return Made([*records, *held_out.judge(features, clips, settings, about)])

    return Part(member.sae_id, fingerprint(shared, read_json(home / "card.json")["sha256"]), make)
