"""The protocol `mariotte2025` in an ordinary run: the study's numbers for dense layers and SAEs on pooled clips.

Whole files of the study correspond to clips of the run. Crops, noise and context variants are part of
`otoscope reproduce` only.
"""

from dataclasses import replace

import numpy as np
from jaxtyping import Float

from otoscope.artifacts import fingerprint
from otoscope.config.mariotte2025 import Mariotte2025Settings
from otoscope.formatting import count
from otoscope.protocols import mariotte2025
from otoscope.protocols.mariotte2025.measure import (
    ClipTargets,
    SplitFeatures,
    measure_factors,
    measure_probes,
    measure_reconstruction,
)
from otoscope.runs.cache import CachedResult, ComputedResult, ensure, read_records
from otoscope.runs.code_version import MEASUREMENT_CODE, code_version
from otoscope.runs.codes import encode_rows
from otoscope.runs.context import Context
from otoscope.runs.inputs import Clips, EvaluationInputs, ProtocolRun
from otoscope.runs.training import GridMember, read_trained_card, training_grid
from otoscope.sae.model import load_sae

CODE = (*MEASUREMENT_CODE, "otoscope.protocols.mariotte2025")
"""Modules that the numbers depend on."""

POOLING = "pool_then_encode"


def plan(run: Context, material: EvaluationInputs) -> ProtocolRun:
    """Plan one part per layer and one per SAE that was trained on pooled clips."""
    folder, settings = run.folder, run.config.evaluate.mariotte2025
    as_measured = material.factors.values(material.store.clip_ids)
    raw = np.nan_to_num(as_measured, nan=-1e300).tobytes().hex()
    shared = fingerprint(code_version(*CODE), material.fingerprint, raw, settings.model_dump(mode="json"))
    layers = material.store.layers
    known = targets_by_split(replace(material.clips, factors=as_measured))
    pooled = [member for member in training_grid(run.config, layers) if member.pooling == POOLING]
    parts = [_dense_part(material, known, layer, settings, shared) for layer in layers]
    parts += [_sae_part(run, material, known, member, settings, shared) for member in pooled]

    def compute() -> None:
        title = f"{mariotte2025.NAME}: judging {count(len(parts), 'representation')}"
        ensure(folder.parts, parts, run.progress, title=title, unit="representations", executor=run.executor)

    inputs = fingerprint([(part.name, part.inputs) for part in parts])
    return ProtocolRun(inputs, compute, lambda: read_records(folder.parts, parts))


def targets_by_split(clips: Clips) -> ClipTargets:
    """Split labels and groups as the study does; factors are those of the test clips, as openSMILE writes them."""
    side = {name: clips.split == name for name in ("train", "valid", "test")}
    labels = {name: {label: values[mask] for label, values in clips.labels.items()} for name, mask in side.items()}
    groups = clips.groups[side["test"]]
    return ClipTargets(
        train_labels=labels["train"],
        valid_labels=labels["valid"],
        test_labels=labels["test"],
        test_groups=groups,
        whole_groups=groups,
        factors=clips.factors[side["test"]],
        factor_names=clips.factor_names,
    )


def features_by_split(rows: Float[np.ndarray, "clips width"], clips: Clips) -> SplitFeatures:
    """Split one row per clip: a training clip is its only crop, a test clip its whole file."""
    train, valid, test = (np.ascontiguousarray(rows[clips.split == name]) for name in ("train", "valid", "test"))
    return SplitFeatures(train[None], valid, test, test)


def _dense_part(
    material: EvaluationInputs, known: ClipTargets, layer: int, settings: Mariotte2025Settings, shared: str
) -> CachedResult:
    def compute() -> ComputedResult:
        views = features_by_split(material.store.pooled(layer), material.clips)
        about = material.record_template(layer, protocol=mariotte2025.NAME, representation="dense", pooling="mean")
        width = views.test.shape[1]
        records = list(measure_probes(views, known, settings, about))
        return ComputedResult([*records, *measure_factors(views, known, settings, about, width=width, dense=True)])

    return CachedResult(f"{mariotte2025.NAME}/layer{layer:02d}-dense", fingerprint(shared, "dense", layer), compute)


def _sae_part(
    run: Context,
    material: EvaluationInputs,
    known: ClipTargets,
    member: GridMember,
    settings: Mariotte2025Settings,
    shared: str,
) -> CachedResult:
    sae_folder = run.folder.saes / member.sae_id

    def compute() -> ComputedResult:
        rows = material.store.pooled(member.layer)
        batch = encode_rows(load_sae(sae_folder).sae, rows, np.arange(len(rows)))
        about = material.record_template(
            member.layer, protocol=mariotte2025.NAME, representation="sae", pooling=member.pooling
        )
        about = replace(about, **member.columns())
        test, train = (material.clips.split == name for name in ("test", "train"))
        mean = rows[train].mean(axis=0, dtype=np.float64)
        records = list(measure_reconstruction(rows[test], batch.rebuilt[test], batch.codes[test], mean, about))
        views = features_by_split(batch.codes, material.clips)
        records += measure_probes(views, known, settings, about)
        return ComputedResult(
            [*records, *measure_factors(views, known, settings, about, width=rows.shape[1], dense=False)]
        )

    sha = read_trained_card(sae_folder)["sha256"]
    return CachedResult(f"{mariotte2025.NAME}/{member.sae_id}", fingerprint(shared, sha), compute)
