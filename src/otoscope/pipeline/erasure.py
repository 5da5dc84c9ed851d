"""Step `erasure` of the stage `explain`: each concept is erased from a layer, and swapped between two clips."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from otoscope.explain.erasure import (
    GroupClips,
    diagonal_dominance,
    gain_before,
    gain_sums,
    group_clips,
    leace,
    lost_gain,
    swap_pairs,
)
from otoscope.explain.firing import draw_clips
from otoscope.explain.interventions import (
    ReadoutExperiment,
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
from otoscope.explain.latent_choice import correlations
from otoscope.explain.readouts import FACTOR, GROUP, Concept, Targets, fit_readouts
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
    "clips": pl.Int64(),
    "groups": pl.Int64(),
}
"""Columns of `erasure_concepts.parquet`: every concept, and whether it is read out well enough to be erased.

`clips` and `groups` count what its readout is read on. Both numbers of the group are NaN if groups have too few clips
for a readout.
"""


class ErasureTables(NamedTuple):
    """Concepts, effects of erasing each, dominance of the own concept, and swaps between clips."""

    erasure_concepts: pl.DataFrame
    erasure: pl.DataFrame
    erasure_dominance: pl.DataFrame
    swaps: pl.DataFrame


@dataclass(frozen=True)
class _Reading:
    """Clips on which readouts are read: their output for a change of the layer, and the concept of each output."""

    experiment: ReadoutExperiment
    truth: Float[np.ndarray, "clips columns"]
    concept_of: Int[np.ndarray, " columns"]
    groups: Shaped[np.ndarray, " clips"]

    def sums(
        self, outputs: Sequence[Float[np.ndarray, "clips columns"]]
    ) -> Float[np.ndarray, "groups passes concepts"]:
        """Return the sums of the untouched pass and of those with a concept erased."""
        return gain_sums(np.stack(outputs), self.truth, self.concept_of, self.groups)


@dataclass(frozen=True)
class _Concepts:
    """All concepts; `readings` has those of labels and factors first, then the group, read on clips of its own."""

    concepts: tuple[Concept, ...]
    readout_r: Float[np.ndarray, " concepts"]
    entangled: Bool[np.ndarray, "concepts concepts"]
    readings: tuple[_Reading, ...]

    @property
    def reading_of(self) -> list[_Reading]:
        """The reading of each concept."""
        return [self.readings[-1 if concept.kind == GROUP else 0] for concept in self.concepts]


def erasure_tables(setting: ChangedLayer) -> ErasureTables:
    """Erase each concept that can be read out, by ablating its latents, by LEACE, and by random latents."""
    settings = setting.run.config.explain
    parts = group_clips(setting.clips.groups, list(setting.clips.labels.values()))
    columns = _concepts(setting, parts)
    before = [reading.experiment.outputs() for reading in columns.readings]
    gain = np.concatenate(
        [gain_before(reading.sums([own])) for reading, own in zip(columns.readings, before, strict=True)]
    )
    kinds = np.array([concept.kind for concept in columns.concepts])
    read = (columns.readout_r >= MIN_READOUT_R) & (gain >= MIN_GAIN)
    shown = np.flatnonzero(read | (kinds == GROUP))
    is_factor = kinds[shown] == FACTOR
    erased = [*shown[~is_factor].tolist(), *shown[is_factor].tolist()[: settings.concepts]]
    concepts = _concept_rows(columns, gain, read, erased)
    if not erased:
        return ErasureTables(concepts, *(pl.DataFrame(schema=schema) for schema in (ERASURE, DOMINANCE, SWAPS)))
    outputs = {name: [[own] for own in before] for name in TECHNIQUES}
    passes = sum(len(reading.groups) for reading in columns.readings)
    with task(setting.run.progress, "erasing concepts", 3 * len(erased) * passes, "passes"):
        for concept in erased:
            erasers = _erasers(setting, columns.concepts[concept], parts)
            for name, shift_of in erasers.items():
                for reading, own in zip(columns.readings, outputs[name], strict=True):
                    shifts = shift_of(len(reading.groups))
                    own.append(reading.experiment.outputs(lambda i, s=shifts: shifted_by(s[i])))
    sums = {
        name: [reading.sums(own) for reading, own in zip(columns.readings, each, strict=True)]
        for name, each in outputs.items()
    }
    return ErasureTables(
        concepts,
        pl.concat([_effect_rows(columns, erased, shown, name, each) for name, each in sums.items()]),
        _dominance(columns, erased, read, sums),
        _swaps(setting),
    )


def _concepts(setting: ChangedLayer, parts: GroupClips) -> _Concepts:
    """Return the run's concepts read on test clips, and the group read on clips that its readout has not seen."""
    targets, readouts = setting.targets, setting.readouts
    clips = setting.choose("test", setting.run.config.explain.erasure_clips, allowed=setting.split("test"))
    number = len(targets.concepts)
    reading = _Reading(setting.experiment(clips), targets.values[clips], np.arange(number), setting.clips.groups[clips])
    found = _Concepts(targets.concepts, readouts.valid_r, targets.entangled, (reading,))
    groups = setting.clips.groups
    names = np.unique(groups[parts.held_out])
    if len(names) < 2:
        return found
    values = (groups[:, None] == names).astype(np.float64)
    values = (values - values[parts.fitted].mean(axis=0)) / values[parts.fitted].std(axis=0)
    each = tuple(Concept(GROUP, str(name)) for name in names)
    of_group = fit_readouts(
        setting.store.pooled(setting.later, setting.store.clip_ids),
        Targets(each, values, np.eye(len(each), dtype=bool)),
        train=parts.fitted,
        valid=parts.chosen,
    )
    own = draw_clips(parts.held_out, groups.tolist(), setting.run.config.explain.erasure_clips)
    entangled = np.pad(targets.entangled, (0, 1))
    entangled[number, number] = True
    reading = _Reading(
        replace(setting.experiment(own), readouts=of_group),
        values[own],
        np.zeros(len(each), dtype=int),
        groups[own],
    )
    return _Concepts(
        (*targets.concepts, Concept(GROUP, "all")),
        np.append(readouts.valid_r, np.nan_to_num(of_group.valid_r).mean()),
        entangled,
        (*found.readings, reading),
    )


def _concept_rows(
    columns: _Concepts, gain: Float[np.ndarray, " concepts"], read: Bool[np.ndarray, " concepts"], erased: Sequence[int]
) -> pl.DataFrame:
    rows: list[dict[str, Any]] = [
        {
            "concept": str(concept),
            "kind": concept.kind,
            "readout_r": float(columns.readout_r[i]),
            "gain": float(gain[i]),
            "read": bool(read[i]),
            "erased": i in erased,
            "clips": len(reading.groups),
            "groups": len(np.unique(reading.groups)),
        }
        for i, (concept, reading) in enumerate(zip(columns.concepts, columns.reading_of, strict=True))
    ]
    if all(concept.kind != GROUP for concept in columns.concepts):
        unread = {"readout_r": math.nan, "gain": math.nan, "read": False, "erased": False, "clips": 0, "groups": 0}
        rows.append({"concept": str(Concept(GROUP, "all")), "kind": GROUP, **unread})
    return pl.DataFrame(rows, schema=CONCEPTS)


def _values(
    setting: ChangedLayer, concept: Concept, parts: GroupClips
) -> tuple[Float[np.ndarray, "clips columns"], Bool[np.ndarray, " clips"]]:
    """Return the value of a concept for each clip, and the clips from which its latents and directions are taken.

    The group has one column per group, and the clips that its readout is fitted on.
    """
    if concept.kind != GROUP:
        return setting.targets.values[:, [setting.targets.concepts.index(concept)]], setting.split("train")
    groups = setting.clips.groups
    return (groups[:, None] == np.unique(groups[parts.fitted])).astype(np.float64), parts.fitted


def concept_latents(
    means: Float[np.ndarray, "clips latents"],
    values: Float[np.ndarray, "clips columns"],
    clips: Bool[np.ndarray, " clips"],
) -> list[int]:
    """Return the latents whose mean code per clip correlates most with a concept, in either direction."""
    known = clips & np.isfinite(values).all(axis=1)
    r = np.nan_to_num(np.abs(correlations(means[known].astype(np.float64), values[known]))).max(axis=1)
    order = np.argsort(-r, kind="stable")[:LATENTS]
    return order[r[order] > 0].tolist()


def _erasers(setting: ChangedLayer, concept: Concept, parts: GroupClips) -> dict[str, Callable[[int], Sequence[Shift]]]:
    """Return the shifts of each technique for a number of clips."""
    values, clips = _values(setting, concept, parts)
    latents = concept_latents(setting.clip_means, values, clips)
    own = latent_shift(setting.sae, code_edit(latents, "ablate", n_latents=setting.sae.latents))
    frames = setting.frames if concept.kind != GROUP else setting.frames_of(clips)
    erase = leace(frames.rows, values[frames.clips])
    return {
        "latents": lambda count: [own] * count,
        "random_latents": lambda count: [with_norm(s, own) for s in _random_ablations(setting, latents, count)],
        "leace": lambda count: [erase.shift] * count,
    }


def _random_ablations(setting: ChangedLayer, latents: Sequence[int], count: int) -> list[Shift]:
    """Return one ablation per clip of as many other latents with about the same firing rates."""
    rates = setting.index.statistics["rate"].to_numpy()
    drawn = [matched_in_rate(rates, latent, count, exclude=latents, seed=latent).tolist() for latent in latents]
    return [
        latent_shift(setting.sae, code_edit(sorted(set(each)), "ablate", n_latents=setting.sae.latents))
        for each in zip(*drawn, strict=True)
    ]


def _effect_rows(
    columns: _Concepts,
    erased: Sequence[int],
    shown: Int[np.ndarray, " shown"],
    technique: str,
    sums: Sequence[Float[np.ndarray, "groups passes_and_squares concepts"]],
) -> pl.DataFrame:
    lost, low, high = (np.concatenate(each, axis=-1) for each in zip(*map(lost_gain, sums), strict=True))
    before = np.concatenate([gain_before(own) for own in sums])
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
            "clips": len(columns.reading_of[j].groups),
            "groups": len(np.unique(columns.reading_of[j].groups)),
        }
        for i, concept in enumerate(erased)
        for j in shown.tolist()
    ]
    return pl.DataFrame(rows, schema=ERASURE)


def _joined(
    columns: _Concepts, sums: Sequence[Float[np.ndarray, "groups passes_and_squares concepts"]]
) -> Float[np.ndarray, "groups passes_and_squares concepts"]:
    """Return the sums of all concepts over the test groups, whose held-out clips alone count for the group."""
    names = [np.unique(reading.groups) for reading in columns.readings]
    parts = [own[np.isin(of, names[0])] for own, of in zip(sums, names, strict=True)]
    missing = [np.zeros((len(names[0]), *own.shape[1:])) for own in parts]
    for part, empty, of in zip(parts, missing, names, strict=True):
        empty[np.isin(names[0], of)] = part
    return np.concatenate(missing, axis=-1)


def _dominance(
    columns: _Concepts,
    erased: Sequence[int],
    read: Bool[np.ndarray, " concepts"],
    sums: Mapping[str, Sequence[Float[np.ndarray, "groups passes_and_squares concepts"]]],
) -> pl.DataFrame:
    """Return the dominance over all labels and groups, and among the classes of each label with three or more."""
    kinds = np.array([concept.kind for concept in columns.concepts])
    readable = read & (kinds != FACTOR)
    joined = {name: _joined(columns, each) for name, each in sums.items()}
    scopes = {"all": [i for i in erased if readable[i]]}
    for kind in dict.fromkeys(kinds[erased].tolist()):
        scopes[kind] = [i for i in scopes["all"] if kinds[i] == kind and kind != GROUP]
    rows: list[dict[str, Any]] = []
    for scope, members in scopes.items():
        if len(members) < 2:
            continue
        within = readable if scope == "all" else readable & (kinds == scope)
        others = within[None, :] & ~columns.entangled[members]
        passes = [0, *(1 + erased.index(i) for i in members), -1]
        own = {name: each[:, passes] for name, each in joined.items()}
        found = {name: diagonal_dominance(each, np.array(members), others) for name, each in own.items()}
        found["latents - random_latents"] = diagonal_dominance(
            own["latents"], np.array(members), others, control=own["random_latents"]
        )
        groups = len(joined["latents"])
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
    train, values = setting.split("train"), setting.targets.values[:, [own]]
    sae, latents = setting.sae, concept_latents(setting.clip_means, values, train)
    rates = setting.index.statistics["rate"].to_numpy()
    drawn = [matched_in_rate(rates, latent, len(pairs), exclude=latents, seed=latent).tolist() for latent in latents]
    steps = [setting.clip_means[second] - setting.clip_means[first] for first, second in pairs]
    means = constant_shift(relation_direction(setting.pooled[train], values[train, 0]))

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
