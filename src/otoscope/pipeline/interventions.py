"""Step `interventions` of the stage `explain`: latents and rival directions change a layer, the last is read out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float, Shaped

from otoscope.explain.erasure import leace
from otoscope.explain.interventions import (
    DOSES,
    Operation,
    Shift,
    atom,
    code_edit,
    component_direction,
    constant_shift,
    latent_shift,
    matched_in_rate,
    mean_effects,
    output_scores,
    relation_direction,
    shifted_by,
    side_effect,
    strongest_latents,
    with_norm,
)
from otoscope.pipeline.changed_layer import MIN_READOUT_R, ChangedLayer
from otoscope.runs.progress import task

CANDIDATES = 8
"""Latents per concept and way of choosing whose effect is measured on validation clips."""
CANDIDATE_DOSE = 0.5
VALID_CLIPS = 4

INTERVENTIONS: dict[str, pl.DataType] = {
    "target": pl.String(),
    "technique": pl.String(),
    "operation": pl.String(),
    "dose": pl.Float64(),
    "latent": pl.Int64(),
    "readout": pl.String(),
    **{name: pl.Float64() for name in ("effect", "low", "high", "side", "readout_r")},
    "entangled": pl.Boolean(),
    "clips": pl.Int64(),
    "groups": pl.Int64(),
}
"""Columns of `interventions.parquet`: the change of each readout, in standard deviations of its concept.

`side` is the root mean square effect of the same arm on all concepts that are not entangled with the target.
"""

LATENTS = ("latent_by_activation", "latent_by_output")

DIFFERENCES: dict[str, pl.DataType] = {
    **{name: pl.String() for name in ("target", "technique", "rival", "operation")},
    **{name: pl.Float64() for name in ("dose", "difference", "low", "high")},
    "clips": pl.Int64(),
    "groups": pl.Int64(),
}
"""Columns of `intervention_differences.parquet`: effect of a latent minus that of a rival on the target's readout.

Both change the same clips at the same norm, and the interval is that of the difference, paired over groups.
"""


class InterventionTables(NamedTuple):
    """Effects of all interventions, and paired differences between latents and their rivals."""

    interventions: pl.DataFrame
    intervention_differences: pl.DataFrame


def intervention_tables(setting: ChangedLayer) -> InterventionTables:
    """Return the effects of all interventions on the best-read concepts; empty if no concept can be read out."""
    settings = setting.run.config.explain
    rows: list[dict[str, Any]] = []
    differences: list[dict[str, Any]] = []
    for own in setting.read_concepts(settings.concepts):
        z = setting.targets.values[:, own]
        absent = setting.choose("test", settings.intervention_clips, allowed=np.asarray(z < 0))
        present = setting.choose("test", settings.intervention_clips, allowed=np.asarray(z > 0))
        latents = _choose_latents(setting, own) if absent and present else {}
        if not latents:
            continue
        add, remove = _arms(setting, own, latents, count=max(len(absent), len(present)))
        for clips, arms in ((absent, add), (present, remove)):
            experiment = setting.experiment(clips)
            name = str(setting.targets.concepts[own])
            with task(setting.run.progress, f"intervening on {name}", (len(arms) + 1) * len(clips), "passes"):
                before = experiment.outputs()
                outputs = [experiment.outputs(lambda i, a=arm: shifted_by(a.shifts[i % len(a.shifts)])) for arm in arms]
            for arm, after in zip(arms, outputs, strict=True):
                rows += _rows(setting, own, arm, before, after, clips)
            differences += paired_differences(
                name, arms, [after[:, own] for after in outputs], setting.clips.groups[clips]
            )
    return InterventionTables(pl.DataFrame(rows, schema=INTERVENTIONS), pl.DataFrame(differences, schema=DIFFERENCES))


@dataclass(frozen=True)
class Arm:
    """One intervention; with several shifts, each clip has its own."""

    technique: str
    operation: str
    dose: float
    shifts: list[Shift]
    latent: int | None


def _choose_latents(setting: ChangedLayer, own: int) -> dict[str, int]:
    """Return the latent that follows a concept best, and the one that moves its readout most on validation clips."""
    fitted = ~setting.split("test")
    z = setting.targets.values[:, own]
    by_activation = strongest_latents(setting.clip_means[fitted], z[fitted], top=CANDIDATES)
    rates = setting.index.statistics["rate"].to_numpy()
    weights = setting.readouts.weights[:, own]
    atoms = {int(i): atom(setting.sae, int(i)) for i in np.flatnonzero(rates > 0)}
    direct = sorted(atoms, key=lambda i: -float(atoms[i] @ weights) / float(np.linalg.norm(atoms[i])))[:CANDIDATES]
    valid = setting.choose("valid", VALID_CLIPS, allowed=np.asarray(z < 0))
    if not len(by_activation) or not valid:
        return {}
    candidates = {i: atoms[i] for i in dict.fromkeys([*by_activation.tolist(), *direct])}
    experiment = setting.experiment(valid)
    name = str(setting.targets.concepts[own])
    with task(setting.run.progress, f"choosing latents of {name}", (len(candidates) + 1) * len(valid), "passes"):
        scores = output_scores(experiment, experiment.outputs(), candidates, norm=CANDIDATE_DOSE * setting.norm)
    by_output = max(candidates, key=lambda i: scores[i][own])
    return {"latent_by_activation": int(by_activation[0]), "latent_by_output": by_output}


def _arms(setting: ChangedLayer, own: int, latents: dict[str, int], *, count: int) -> tuple[list[Arm], list[Arm]]:
    """Return the arms that raise a concept and those that lower it."""
    sae, rows, train = setting.sae, setting.frames.rows, setting.split("train")
    z, statistics = setting.targets.values[:, own], setting.index.statistics
    chosen = list(dict.fromkeys(latents.values()))
    random = matched_in_rate(statistics["rate"].to_numpy(), chosen[0], count, exclude=chosen).tolist()
    groups = {**{name: [latent] for name, latent in latents.items()}, "random_latent": random}
    means = relation_direction(setting.pooled[train], z[train])
    component = component_direction(rows, setting.pooled[train], z[train])
    directions = {name: [atom(sae, i) for i in members] for name, members in groups.items()} | {
        "difference_of_means": [means],
        "principal_component": [component],
        "audio_minus_silence": [rows.mean(axis=0).astype(np.float64) - setting.silence()],
    }
    add = [
        Arm(name, "add", dose, [with_norm(constant_shift(d), dose * setting.norm) for d in each], latents.get(name))
        for name, each in directions.items()
        for dose in DOSES
    ]
    remove: list[Arm] = []
    operations: tuple[tuple[Operation, list[Arm]], ...] = (("clamp", add), ("scale", remove), ("ablate", remove))
    for operation, arms in operations:

        def changed(latent: int, operation: Operation = operation) -> Shift:
            amount = {"clamp": float(statistics["q90"][latent]), "scale": 2.0}.get(operation)
            return latent_shift(sae, code_edit([latent], operation, amount, n_latents=sae.latents))

        reference = changed(latents["latent_by_activation"])
        sign = -1.0 if operation == "ablate" else 1.0
        shifts = {name: [changed(i) for i in members] for name, members in groups.items()}
        shifts["difference_of_means"] = [constant_shift(sign * means)]
        shifts["principal_component"] = [constant_shift(sign * component)]
        if operation == "ablate":
            shifts["leace"] = [leace(rows, z[setting.frames.clips, None]).shift]
        arms += [
            Arm(name, operation, 1.0, [with_norm(shift, reference) for shift in each], latents.get(name))
            for name, each in shifts.items()
        ]
    return add, remove


def paired_differences(
    target: str,
    arms: Sequence[Arm],
    outputs: Sequence[Float[np.ndarray, " clips"]],
    groups: Shaped[np.ndarray, " clips"],
) -> list[dict[str, Any]]:
    """Return how much more a latent changes the readout of its concept than each rival of the same size."""
    own = {(arm.technique, arm.operation, arm.dose): after[:, None] for arm, after in zip(arms, outputs, strict=True)}
    rows: list[dict[str, Any]] = []
    for (technique, operation, dose), after in own.items():
        rivals = [name for name, *size in own if name not in LATENTS and size == [operation, dose]]
        for rival in rivals if technique in LATENTS else ():
            (difference,) = mean_effects(own[rival, operation, dose], after, groups)
            about = {"target": target, "technique": technique, "rival": rival, "operation": operation, "dose": dose}
            interval = {"difference": difference.effect, "low": difference.low, "high": difference.high}
            rows.append({**about, **interval, "clips": len(groups), "groups": len(np.unique(groups))})
    return rows


def _rows(
    setting: ChangedLayer,
    own: int,
    arm: Arm,
    before: Float[np.ndarray, "clips concepts"],
    after: Float[np.ndarray, "clips concepts"],
    clips: list[int],
) -> list[dict[str, Any]]:
    groups = setting.clips.groups[clips]
    effects = mean_effects(before, after, groups)
    targets = setting.targets
    read = setting.readouts.valid_r >= MIN_READOUT_R
    entangled = targets.entangled | ~read
    side = side_effect(np.array([effect.effect for effect in effects]), own, entangled)
    return [
        {
            "target": str(targets.concepts[own]),
            "technique": arm.technique,
            "operation": arm.operation,
            "dose": arm.dose,
            "latent": arm.latent,
            "readout": str(concept),
            **effect._asdict(),
            "side": side,
            "readout_r": float(setting.readouts.valid_r[i]),
            "entangled": bool(targets.entangled[own, i]),
            "clips": len(clips),
            "groups": len(np.unique(groups)),
        }
        for i, (concept, effect) in enumerate(zip(targets.concepts, effects, strict=True))
        if read[i]
    ]
