"""Step `erasure` of the stage `explain`: each concept is erased from a layer, and swapped between two clips."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from otoscope.explain.erasure import (
    diagonal_dominance,
    gain_before,
    gain_sums,
    leace,
    lost_gain,
    swap_pairs,
)
from otoscope.explain.interventions import (
    Shift,
    code_edit,
    constant_shift,
    latent_shift,
    matched_in_rate,
    relation_direction,
    shifted_by,
    side_effect,
    with_norm,
)
from otoscope.explain.readouts import FACTOR, GROUP, Concept, Readouts, Targets, fit_readouts
from otoscope.explain.selection import correlations
from otoscope.explain.splice import score_shares
from otoscope.pipeline.changed_layer import MIN_READOUT_R, ChangedLayer
from otoscope.runs.progress import task

MIN_GAIN = 0.2
"""Slope of a readout's output on the true value, over the untouched test clips, from which on it is shown."""
LATENTS = 8
"""Latents that are ablated per concept."""
TECHNIQUES = ("latents", "random_latents", "leace")

ERASURE: dict[str, pl.DataType] = {
    **{name: pl.String() for name in ("erased", "kind", "technique", "readout")},
    **{name: pl.Float64() for name in ("lost", "low", "high", "gain", "readout_r")},
    **{name: pl.Boolean() for name in ("own", "entangled")},
    "clips": pl.Int64(),
    "groups": pl.Int64(),
}
"""Columns of `erasure.parquet`: the gain that a readout loses when a concept is erased, and the gain before."""
DOMINANCE: dict[str, pl.DataType] = {
    "scope": pl.String(),
    "technique": pl.String(),
    **{name: pl.Float64() for name in ("dominance", "low", "high")},
    "concepts": pl.Int64(),
    "groups": pl.Int64(),
}
"""Columns of `erasure_dominance.parquet`; the technique "latents - random_latents" is their paired difference."""
SWAPS: dict[str, pl.DataType] = {
    "concept": pl.String(),
    "technique": pl.String(),
    **{name: pl.Float64() for name in ("transferred", "low", "high", "side")},
    "pairs": pl.Int64(),
    "groups": pl.Int64(),
}
"""Columns of `swaps.parquet`: the share of the difference between two clips that a swap carries over.

It is NaN where the readout does not tell the two clips apart beyond noise.
"""


CONCEPTS: dict[str, pl.DataType] = {
    "concept": pl.String(),
    "kind": pl.String(),
    "readout_r": pl.Float64(),
    "gain": pl.Float64(),
    "read": pl.Boolean(),
    "erased": pl.Boolean(),
}
"""Columns of `erasure_concepts.parquet`: every concept, and whether it is read out well enough to be erased.

Both numbers are NaN for the singers if the test groups have too few other clips for a readout.
"""


class ErasureTables(NamedTuple):
    """Concepts, effects of erasing each, dominance of the own concept, and swaps between clips."""

    erasure_concepts: pl.DataFrame
    erasure: pl.DataFrame
    erasure_dominance: pl.DataFrame
    swaps: pl.DataFrame


@dataclass(frozen=True)
class _Columns:
    """Readouts and true values of all concepts for the clips tested; the singer has one column per test group."""

    readouts: Readouts
    truth: Float[np.ndarray, "clips columns"]
    concept_of: Int[np.ndarray, " columns"]
    concepts: tuple[Concept, ...]
    readout_r: Float[np.ndarray, " concepts"]
    entangled: Bool[np.ndarray, "concepts concepts"]


def erasure_tables(setting: ChangedLayer) -> ErasureTables:
    """Erase each concept that can be read out, by ablating its latents, by LEACE, and by random latents."""
    settings = setting.run.config.explain
    clips = setting.choose("test", settings.erasure_clips, allowed=setting.split("test"))
    columns = _columns(setting, clips)
    groups = setting.clips.groups[clips]
    experiment = replace(setting.experiment(clips), readouts=columns.readouts)
    before = experiment.outputs()
    untouched = gain_sums(before[None], columns.truth, columns.concept_of, groups)
    read = np.flatnonzero((columns.readout_r >= MIN_READOUT_R) & (gain_before(untouched) >= MIN_GAIN))
    is_factor = np.array([columns.concepts[i].kind == FACTOR for i in read], dtype=bool)
    erased = [*read[~is_factor].tolist(), *read[is_factor].tolist()[: settings.concepts]]
    concepts = _concept_rows(columns, gain_before(untouched), read, erased)
    if not erased:
        return ErasureTables(concepts, *(pl.DataFrame(schema=schema) for schema in (ERASURE, DOMINANCE, SWAPS)))
    outputs: dict[str, list[Float[np.ndarray, "clips columns"]]] = {name: [] for name in TECHNIQUES}
    with task(setting.run.progress, "erasing concepts", 3 * len(erased) * len(clips), "passes"):
        for concept in erased:
            for name, shift_of in _erasers(setting, columns.concepts[concept], len(clips)).items():
                outputs[name].append(experiment.outputs(lambda i, s=shift_of: shifted_by(s(i))))
    sums = {
        name: gain_sums(np.stack([before, *each]), columns.truth, columns.concept_of, groups)
        for name, each in outputs.items()
    }
    return ErasureTables(
        concepts,
        pl.concat([_effect_rows(columns, erased, read, name, each, len(clips)) for name, each in sums.items()]),
        _dominance(columns, erased, read, sums),
        _swaps(setting),
    )


def _columns(setting: ChangedLayer, clips: Sequence[int]) -> _Columns:
    """Return the readouts of the run's concepts, and of the singers of the test groups, fitted on their other clips."""
    targets, readouts = setting.targets, setting.readouts
    truth, concepts, r = targets.values[clips], targets.concepts, readouts.valid_r
    concept_of, entangled = np.arange(len(concepts)), targets.entangled
    singers = _singer_readouts(setting, clips)
    if singers is not None:
        number, width = len(concepts), singers.weights.shape[1]
        names = [concept.name for concept in singers.concepts]
        indicators = (setting.clips.groups[clips][:, None] == np.array(names)[None]).astype(np.float64)
        indicators = (indicators - indicators.mean(axis=0)) / np.maximum(indicators.std(axis=0), 1e-9)
        truth = np.concatenate([truth, indicators], axis=1)
        concepts, concept_of = (*concepts, Concept(GROUP, "all")), np.append(concept_of, np.full(width, number))
        r = np.append(r, np.nan_to_num(singers.valid_r).mean())
        entangled = np.pad(entangled, (0, 1))
        entangled[number, number] = True
        readouts = Readouts(
            (*readouts.concepts, *singers.concepts),
            np.concatenate([readouts.weights, singers.weights], axis=1),
            np.concatenate([readouts.bias, singers.bias]),
            np.concatenate([readouts.valid_r, singers.valid_r]),
        )
    return _Columns(readouts, truth, concept_of, concepts, r, entangled)


def _concept_rows(
    columns: _Columns, gain: Float[np.ndarray, " concepts"], read: Int[np.ndarray, " read"], erased: Sequence[int]
) -> pl.DataFrame:
    rows: list[dict[str, Any]] = [
        {
            "concept": str(concept),
            "kind": concept.kind,
            "readout_r": float(columns.readout_r[i]),
            "gain": float(gain[i]),
            "read": i in read,
            "erased": i in erased,
        }
        for i, concept in enumerate(columns.concepts)
    ]
    if all(concept.kind != GROUP for concept in columns.concepts):
        unread = {"readout_r": math.nan, "gain": math.nan, "read": False, "erased": False}
        rows.append({"concept": str(Concept(GROUP, "all")), "kind": GROUP, **unread})
    return pl.DataFrame(rows, schema=CONCEPTS)


def _singer_readouts(setting: ChangedLayer, clips: Sequence[int]) -> Readouts | None:
    """Return readouts of the test groups, fitted on test clips that are not in `clips`; None with too few."""
    rest = setting.split("test")
    rest[list(clips)] = False
    groups = setting.clips.groups
    turn = np.zeros(len(groups), dtype=bool)
    for group in np.unique(groups[rest]):
        turn[np.flatnonzero(rest & (groups == group))[::3]] = True  # a third for the choice of the penalty
    train, valid = rest & ~turn, rest & turn
    names, sizes = np.unique(groups[train], return_counts=True)
    if len(names) < 2 or sizes.min() < 2 or len(np.unique(groups[valid])) < len(names):
        return None
    indicators = {str(name): (groups == name).astype(np.float64) for name in names}
    values = np.stack(list(indicators.values()), axis=1)
    mean, spread = values[train].mean(axis=0), values[train].std(axis=0)
    targets = Targets(
        tuple(Concept(GROUP, name) for name in indicators), (values - mean) / spread, np.eye(len(names), dtype=bool)
    )
    return fit_readouts(setting.store.pooled(setting.later, setting.store.clip_ids), targets, train=train, valid=valid)


def _values(setting: ChangedLayer, concept: Concept) -> Float[np.ndarray, "clips columns"]:
    """Return the value of a concept for each clip; of the singers, one column per group of the training clips."""
    if concept.kind != GROUP:
        return setting.targets.values[:, [setting.targets.concepts.index(concept)]]
    groups = setting.clips.groups
    return (groups[:, None] == np.unique(groups[setting.split("train")])[None]).astype(np.float64)


def concept_latents(setting: ChangedLayer, concept: Concept) -> list[int]:
    """Return the latents whose mean code per training clip correlates most with a concept, in either direction."""
    train, values = setting.split("train"), _values(setting, concept)
    known = train & np.isfinite(values).all(axis=1)
    r = np.nan_to_num(np.abs(correlations(setting.clip_means[known].astype(np.float64), values[known]))).max(axis=1)
    order = np.argsort(-r, kind="stable")[:LATENTS]
    return order[r[order] > 0].tolist()


def _erasers(setting: ChangedLayer, concept: Concept, count: int) -> dict[str, Callable[[int], Shift]]:
    """Return the shift of each technique for the clip at a position."""
    latents = concept_latents(setting, concept)
    own = latent_shift(setting.sae, code_edit(latents, "ablate", n_latents=setting.sae.latents))
    random = [with_norm(shift, own) for shift in _random_ablations(setting, latents, count)]
    erase = leace(setting.frames.rows, _values(setting, concept)[setting.frames.clips])
    return {"latents": lambda _: own, "random_latents": lambda i: random[i], "leace": lambda _: erase.shift}


def _random_ablations(setting: ChangedLayer, latents: Sequence[int], count: int) -> list[Shift]:
    """Return one ablation per clip of as many other latents with about the same firing rates."""
    rates = setting.index.statistics["rate"].to_numpy()
    drawn = [matched_in_rate(rates, latent, count, exclude=latents, seed=latent).tolist() for latent in latents]
    return [
        latent_shift(setting.sae, code_edit(sorted(set(each)), "ablate", n_latents=setting.sae.latents))
        for each in zip(*drawn, strict=True)
    ]


def _effect_rows(
    columns: _Columns,
    erased: Sequence[int],
    read: Int[np.ndarray, " read"],
    technique: str,
    sums: Float[np.ndarray, "groups passes_and_squares concepts"],
    clips: int,
) -> pl.DataFrame:
    (lost, low, high), before = lost_gain(sums), gain_before(sums)
    rows: list[dict[str, Any]] = [
        {
            "erased": str(columns.concepts[concept]),
            "kind": columns.concepts[concept].kind,
            "technique": technique,
            "readout": str(columns.concepts[j]),
            "lost": float(lost[i, j]),
            "low": float(low[i, j]),
            "high": float(high[i, j]),
            "gain": float(before[j]),
            "readout_r": float(columns.readout_r[j]),
            "own": concept == j,
            "entangled": bool(columns.entangled[concept, j]),
            "clips": clips,
            "groups": len(sums),
        }
        for i, concept in enumerate(erased)
        for j in read.tolist()
    ]
    return pl.DataFrame(rows, schema=ERASURE)


def _dominance(
    columns: _Columns,
    erased: Sequence[int],
    read: Int[np.ndarray, " read"],
    sums: Mapping[str, Float[np.ndarray, "groups passes_and_squares concepts"]],
) -> pl.DataFrame:
    """Return the dominance over all labels and singers, and among the classes of each label with three or more."""
    kinds = np.array([concept.kind for concept in columns.concepts])
    readable = np.isin(np.arange(len(kinds)), read) & (kinds != FACTOR)
    scopes = {"all": [i for i in erased if kinds[i] != FACTOR]}
    for kind in dict.fromkeys(kinds[erased].tolist()):
        scopes[kind] = [i for i in erased if kinds[i] == kind and kind not in (FACTOR, GROUP)]
    rows: list[dict[str, Any]] = []
    for scope, members in scopes.items():
        if len(members) < 2:
            continue
        within = readable if scope == "all" else readable & (kinds == scope)
        others = within[None, :] & ~columns.entangled[members]
        passes = [0, *(1 + erased.index(i) for i in members), -1]
        shown = {name: each[:, passes] for name, each in sums.items()}
        found = {name: diagonal_dominance(each, np.array(members), others) for name, each in shown.items()}
        found["latents - random_latents"] = diagonal_dominance(
            shown["latents"], np.array(members), others, control=shown["random_latents"]
        )
        groups = len(sums["latents"])
        rows += [
            {"scope": scope, "technique": name, **each._asdict(), "concepts": len(members), "groups": groups}
            for name, each in found.items()
        ]
    return pl.DataFrame(rows, schema=DOMINANCE)


def _swaps(setting: ChangedLayer) -> pl.DataFrame:
    """Return the effect of carrying the latents of a concept, and their rivals, from one clip to another."""
    rows: list[dict[str, Any]] = []
    limit = setting.run.config.explain.intervention_clips
    labels = setting.clips.labels
    test = np.flatnonzero(setting.split("test"))
    for own in setting.read_concepts(setting.run.config.explain.concepts):
        concept = setting.targets.concepts[own]
        others = np.stack([v for name, v in labels.items() if name != concept.kind] or [setting.clips.groups], axis=1)
        pairs = swap_pairs(setting.targets.values[:, own], others, setting.clips.groups, test, limit=limit)
        if not pairs:
            continue
        firsts, seconds = [first for first, _ in pairs], [second for _, second in pairs]
        experiment, partners = setting.experiment(firsts), setting.experiment(seconds)
        groups = setting.clips.groups[firsts]
        with task(setting.run.progress, f"swapping {concept}", 6 * len(pairs), "passes"):
            before, partner = experiment.outputs(), partners.outputs()
            for name, shift_of in _swap_shifts(setting, own, pairs).items():
                after = experiment.outputs(lambda i, s=shift_of: shifted_by(s(i)))
                share = score_shares(after[:, own], partner[:, own], before[:, own], groups)
                unread = setting.readouts.valid_r < MIN_READOUT_R
                side = side_effect((after - before).mean(axis=0), own, setting.targets.entangled | unread)
                values = {"transferred": share.recovered, "low": share.low, "high": share.high}
                sizes = {"side": side, "pairs": len(pairs), "groups": len(np.unique(groups))}
                rows.append({"concept": str(concept), "technique": name, **values, **sizes})
    return pl.DataFrame(rows, schema=SWAPS)


def _swap_shifts(
    setting: ChangedLayer, own: int, pairs: Sequence[tuple[int, int]]
) -> dict[str, Callable[[int], Shift]]:
    """Return the shift of each technique for the pair at a position."""
    sae, latents = setting.sae, concept_latents(setting, setting.targets.concepts[own])
    rates = setting.index.statistics["rate"].to_numpy()
    drawn = [matched_in_rate(rates, latent, len(pairs), exclude=latents, seed=latent).tolist() for latent in latents]
    steps = [setting.clip_means[second] - setting.clip_means[first] for first, second in pairs]
    means = constant_shift(
        relation_direction(setting.pooled[setting.split("train")], setting.targets.values[setting.split("train"), own])
    )

    def moved(columns: Sequence[int], step: Float[np.ndarray, " latents"]) -> Shift:
        wanted = torch.from_numpy(step[list(columns)]).to(sae.device)

        def edit(codes: Float[Tensor, "frames latents"]) -> Float[Tensor, "frames latents"]:
            changed = codes.clone()
            changed[:, list(columns)] = (codes[:, list(columns)] + wanted).clamp_min(0)
            return changed

        return latent_shift(sae, edit)

    ours = [moved(latents, step) for step in steps]
    random = [moved(sorted(set(each)), step) for each, step in zip(zip(*drawn, strict=True), steps, strict=True)]
    layer = [
        constant_shift(setting.pooled[second].astype(np.float64) - setting.pooled[first]) for first, second in pairs
    ]
    return {
        "latents": lambda i: ours[i],
        "random_latents": lambda i: with_norm(random[i], ours[i]),
        "difference_of_means": lambda i: with_norm(means, ours[i]),
        "whole_layer": lambda i: layer[i],
    }
