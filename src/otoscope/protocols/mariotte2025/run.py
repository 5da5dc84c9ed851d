"""The protocol `mariotte2025` for a run of one's own: the study's numbers of layers and of dictionaries pooled first.

What the study reports of whole files is read from the run's clips; its crops, its noise and its other ways of
hearing belong to `otoscope reproduce`.
"""

from dataclasses import replace

import numpy as np
from jaxtyping import Float

from otoscope.artifacts import fingerprint, read_json
from otoscope.config.mariotte2025 import Mariotte2025Settings
from otoscope.formatting import count
from otoscope.protocols import mariotte2025
from otoscope.protocols.mariotte2025.measure import Known, Views, judge_factors, judge_probes, judge_reconstruction
from otoscope.runs.cache import CachedResult, ComputedResult, ensure, read_records
from otoscope.runs.code_version import MEASUREMENT_CODE, code_version
from otoscope.runs.codes import encode_rows
from otoscope.runs.context import Context
from otoscope.runs.inputs import Clips, EvaluationInputs, ProtocolRun
from otoscope.runs.training import GridMember, training_grid
from otoscope.sae.model import load_sae

CODE = (*MEASUREMENT_CODE, "otoscope.protocols.mariotte2025")
"""Code that the numbers depend on."""

POOLING = "pool_then_encode"


def judge(run: Context, material: EvaluationInputs) -> ProtocolRun:
    """Plan the parts of this protocol: every layer, and every dictionary that was trained on pooled clips."""
    folder, settings = run.folder, run.config.evaluate.mariotte2025
    shared = fingerprint(code_version(*CODE), material.fingerprint, settings.model_dump(mode="json"))
    layers = material.store.layers
    known = known_of(material.clips)
    pooled = [member for member in training_grid(run.config, layers) if member.pooling == POOLING]
    parts = [_dense_part(material, known, layer, settings, shared) for layer in layers]
    parts += [_sae_part(run, material, known, member, settings, shared) for member in pooled]

    def make() -> None:
        title = f"{mariotte2025.NAME}: judging {count(len(parts), 'representation')}"
        ensure(folder.parts, parts, run.progress, title=title, unit="representations", executor=run.executor)

    inputs = fingerprint([(part.name, part.inputs) for part in parts])
    return ProtocolRun(inputs, make, lambda: read_records(folder.parts, parts))


def known_of(clips: Clips) -> Known:
    """Share out what is known of clips as the study does: factors are those of the test clips."""
    side = {name: clips.split == name for name in ("train", "valid", "test")}
    labels = {name: {label: values[mask] for label, values in clips.labels.items()} for name, mask in side.items()}
    groups = clips.groups[side["test"]]
    return Known(
        train_labels=labels["train"],
        valid_labels=labels["valid"],
        test_labels=labels["test"],
        test_groups=groups,
        whole_groups=groups,
        factors=clips.factors[side["test"]],
        factor_names=clips.factor_names,
    )


def views_of(rows: Float[np.ndarray, "clips width"], clips: Clips) -> Views:
    """Share out one row a clip: a training clip is its own only crop, a test clip its own whole file."""
    train, valid, test = (np.ascontiguousarray(rows[clips.split == name]) for name in ("train", "valid", "test"))
    return Views(train[None], valid, test, test)


def _dense_part(
    material: EvaluationInputs, known: Known, layer: int, settings: Mariotte2025Settings, shared: str
) -> CachedResult:
    def make() -> ComputedResult:
        views = views_of(material.store.pooled(layer), material.clips)
        about = material.record_template(layer, protocol=mariotte2025.NAME, representation="dense", pooling="mean")
        width = views.test.shape[1]
        made = list(judge_probes(views, known, settings, about))
        return ComputedResult([*made, *judge_factors(views, known, settings, about, width=width, dense=True)])

    return CachedResult(f"{mariotte2025.NAME}/layer{layer:02d}-dense", fingerprint(shared, "dense", layer), make)


def _sae_part(
    run: Context,
    material: EvaluationInputs,
    known: Known,
    member: GridMember,
    settings: Mariotte2025Settings,
    shared: str,
) -> CachedResult:
    home = run.folder.saes / member.sae_id

    def make() -> ComputedResult:
        rows = material.store.pooled(member.layer)
        batch = encode_rows(load_sae(home).sae, rows, np.arange(len(rows)))
        about = material.record_template(
            member.layer, protocol=mariotte2025.NAME, representation="sae", pooling=member.pooling
        )
        about = replace(about, **member.columns())
        test, train = (material.clips.split == name for name in ("test", "train"))
        mean = rows[train].mean(axis=0, dtype=np.float64)
        made = list(judge_reconstruction(rows[test], batch.rebuilt[test], batch.codes[test], mean, about))
        views = views_of(batch.codes, material.clips)
        made += judge_probes(views, known, settings, about)
        return ComputedResult([*made, *judge_factors(views, known, settings, about, width=rows.shape[1], dense=False)])

    sha = read_json(home / "card.json")["sha256"]
    return CachedResult(f"{mariotte2025.NAME}/{member.sae_id}", fingerprint(shared, sha), make)
