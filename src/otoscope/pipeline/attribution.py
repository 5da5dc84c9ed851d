"""Step `attribution` of the stage `explain`: decisions as sums over latents, occluded cells, and masked sound."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from jaxtyping import Float

from otoscope.encoders.base import Frames
from otoscope.explain.artifacts import Sound
from otoscope.explain.attribution import (
    MAX_AREA,
    MaskedSound,
    cell_energies,
    even_grid,
    flipped_by_ablation,
    occlude,
    occlusion_curves,
    retained,
    rotated_regions,
)
from otoscope.explain.firing import diverse
from otoscope.explain.splice_scores import Probes
from otoscope.pipeline.changed_layer import ChangedLayer
from otoscope.resampling.groups import group_sums
from otoscope.resampling.intervals import bounded, jackknife_sums
from otoscope.runs.progress import task

REMOVED = (1, 2, 4, 8, 16)
"""Latents that are ablated together to flip a decision."""
CLIPS = 4
"""Clips of test groups per latent whose firing region is played alone."""
TIMES, BANDS, STEPS = 6, 5, 5
"""Cells of the occlusion grid, and steps of its curves."""

DECISIONS: dict[str, pl.DataType] = {
    "label": pl.String(),
    "removed": pl.Int64(),
    **{name: pl.Float64() for name in ("flipped", "others", "difference", "low", "high", "accuracy")},
    "clips": pl.Int64(),
    "groups": pl.Int64(),
}
"""Columns of `decisions.parquet`: decisions that the largest contributions flip, and others, as shares."""
OCCLUSION: dict[str, pl.DataType] = {
    "latent": pl.Int64(),
    **{name: pl.String() for name in ("clip_id", "group", "order")},
    **{name: pl.Float64() for name in ("share", "deletion", "insertion")},
}
"""Columns of `occlusion.parquet`: activation after a share of the cells is silenced, or alone restored."""
RELEVANCE: dict[str, pl.DataType] = {
    "latent": pl.Int64(),
    "clip_id": pl.String(),
    **{name: pl.Float64() for name in ("start_s", "end_s", "low_hz", "high_hz", "relevance", "energy")},
}
"""Columns of `relevance.parquet`: fall of the mean activation when a cell is silenced, and its share of the energy."""
MASKED: dict[str, pl.DataType] = {
    "latent": pl.Int64(),
    **{name: pl.String() for name in ("clip_id", "group", "audio")},
    **{name: pl.Float64() for name in ("area", "energy", "in_region", "retained", "random", "random_energy")},
}
"""Columns of `masked.parquet`: share of the activation that is left when only the firing region is played."""

SUMMARY: dict[str, pl.DataType] = {
    "quantity": pl.String(),
    **{name: pl.Float64() for name in ("value", "low", "high")},
    "clips": pl.Int64(),
    "groups": pl.Int64(),
}
"""Columns of `attribution.parquet`: means over clips with their interval over groups.

Quantities are `retained` and `random` (masked sound) and their difference `retained_lead`; `deletion_ORDER` and
`insertion_ORDER`, areas under the curves of each order of the cells; and the leads of relevance over the spectrogram,
`deletion_lead` (less is left) and `insertion_lead` (more is restored), paired per clip.
"""


class AttributionTables(NamedTuple):
    """Tables of the step, and the masked sounds by file name."""

    decisions: pl.DataFrame
    occlusion: pl.DataFrame
    relevance: pl.DataFrame
    masked: pl.DataFrame
    attribution: pl.DataFrame
    sounds: Mapping[str, Sound]


def attribution_tables(setting: ChangedLayer, latents: Sequence[int]) -> AttributionTables:
    """Attribute decisions of probes to latents, and the activation of latents to parts of the sound."""
    curves: list[dict[str, Any]] = []
    cells: list[dict[str, Any]] = []
    masked: list[dict[str, Any]] = []
    sounds: dict[str, Sound] = {}
    with task(setting.run.progress, "attributing activations", len(latents), "latents"):
        for latent in latents:
            clips = _strongest(setting, latent)
            for number, clip in enumerate(clips):
                sound = MaskedSound(setting.wave(clip), setting.encoder.rate_hz)
                if number == 0:
                    _occlude(setting, latent, clip, sound, curves, cells)
                row = _mask(setting, latent, clip, sound, sounds)
                masked += [row] if row is not None else []
            setting.run.progress.advance(1)
    occlusion, regions = pl.DataFrame(curves, schema=OCCLUSION), pl.DataFrame(masked, schema=MASKED)
    relevance = pl.DataFrame(cells, schema=RELEVANCE)
    return AttributionTables(
        decision_table(setting), occlusion, relevance, regions, summarise(occlusion, regions), sounds
    )


def summarise(occlusion: pl.DataFrame, masked: pl.DataFrame) -> pl.DataFrame:
    """Return the means of masked sound and of the areas under the curves, with their intervals over groups."""
    columns: list[tuple[str, pl.Series, pl.Series]] = []
    if masked.height:
        lead = (masked["retained"] - masked["random"]).alias("retained_lead")
        columns += [(each.name, each, masked["group"]) for each in (masked["retained"], masked["random"], lead)]
    if occlusion.height:
        areas = pl.DataFrame(
            [
                {"latent": latent, "group": group, "order": order, **{name: _area(part, name) for name in CURVES}}
                for (latent, group, order), part in occlusion.group_by("latent", "group", "order", maintain_order=True)
            ]
        )
        wide = areas.pivot(on="order", index=["latent", "group"], values=list(CURVES))
        signs = {"deletion": -1, "insertion": 1}
        for name, sign in signs.items():
            lead = (wide[f"{name}_relevance"] - wide[f"{name}_spectrogram"]) * sign
            orders = [wide[f"{name}_{order}"] for order in ("relevance", "spectrogram", "random")]
            columns += [(each.name, each, wide["group"]) for each in (*orders, lead.alias(f"{name}_lead"))]
    rows: list[dict[str, Any]] = []
    for name, values, groups in columns:
        sums = group_sums(np.stack([values.to_numpy(), np.ones(len(values))], axis=1), groups.to_numpy())
        value, low, high = jackknife_sums(sums, lambda drawn: drawn[:, 0] / drawn[:, 1])
        ends = {"value": float(value), "low": float(low), "high": float(high)}
        rows.append({"quantity": name, **ends, "clips": len(values), "groups": len(sums)})
    return pl.DataFrame(rows, schema=SUMMARY)


CURVES = ("deletion", "insertion")


def _area(curve: pl.DataFrame, column: str) -> float:
    ordered = curve.sort("share")
    return float(np.trapezoid(ordered[column].to_numpy(), ordered["share"].to_numpy()))


def decision_table(setting: ChangedLayer) -> pl.DataFrame:
    """Return how many decisions of a probe of each label the ablation of its strongest contributions flips."""
    sae, train, test = setting.sae, setting.split("train"), setting.split("test")
    offset, atoms = _dictionary(setting)
    codes = setting.clip_means.astype(np.float64)
    pooled = codes @ atoms + offset
    probes = Probes.fit(pooled[train], {name: classes[train] for name, classes in setting.clips.labels.items()})
    rows: list[dict[str, Any]] = []
    for label, probe in probes.fitted.items():
        weights, bias = _linear(probe)
        classes = setting.clips.labels[label]
        shown = np.flatnonzero(test & (classes != ""))
        right = float((probe.predict(pooled[shown]) == classes[shown]).mean()) if len(shown) else float("nan")
        for removed in [number for number in REMOVED if number < sae.latents]:
            flipped, others = flipped_by_ablation(codes[shown], atoms, offset, weights, bias, removed=removed)
            known = np.isfinite(others)
            if not known.any():
                continue
            columns = np.stack([flipped[known], others[known], np.ones(int(known.sum()))], axis=1)
            sums = group_sums(columns, setting.clips.groups[shown][known])
            value, low, high = jackknife_sums(
                sums, lambda drawn: (drawn[:, 0] - drawn[:, 1]) / drawn[:, 2], scale=bounded(-1.0, 1.0)
            )
            shares = {"flipped": float(flipped[known].mean()), "others": float(others[known].mean()), "accuracy": right}
            ends = {"difference": float(value), "low": float(low), "high": float(high)}
            sizes = {"clips": int(known.sum()), "groups": len(sums)}
            rows.append({"label": label, "removed": removed, **shares, **ends, **sizes})
    return pl.DataFrame(rows, schema=DECISIONS)


def _dictionary(setting: ChangedLayer) -> tuple[Float[np.ndarray, " width"], Float[np.ndarray, "latents width"]]:
    """Return the offset and the atoms of the decoder in the encoder's units."""
    sae = setting.sae
    decoded = sae.decode(torch.cat([torch.zeros(1, sae.latents), torch.eye(sae.latents)]).to(sae.device))
    values = decoded.cpu().numpy().astype(np.float64)
    return values[0], values[1:] - values[0]


def _linear(probe: Any) -> tuple[Float[np.ndarray, "width classes"], Float[np.ndarray, " classes"]]:
    """Return weights and biases of a standardised logistic regression, one column per class."""
    scaler, model = probe[0], probe[1]
    coefficients, intercepts = np.asarray(model.coef_), np.asarray(model.intercept_)
    if len(coefficients) == 1:  # two classes: the second against the first
        coefficients = np.concatenate([np.zeros_like(coefficients), coefficients])
        intercepts = np.array([0.0, float(intercepts[0])])
    weights = coefficients / scaler.scale_
    return weights.T, intercepts - weights @ scaler.mean_


def _strongest(setting: ChangedLayer, latent: int) -> list[int]:
    """Return the clips of test groups in which a latent is strongest, one per group before a second of any."""
    strength = setting.clip_means[:, latent]
    test = [
        int(i) for i in np.argsort(-strength, kind="stable") if setting.clips.split[i] == "test" and strength[i] > 0
    ]
    return diverse(test, setting.clips.groups.tolist())[:CLIPS]


def _activation(
    setting: ChangedLayer, latent: int, wave: Float[np.ndarray, " samples"]
) -> Float[np.ndarray, " frames"]:
    layer = setting.member.layer
    frames = setting.encoder.encode([wave], [layer]).layers[layer][0]
    return setting.sae.encode(frames.to(setting.sae.device))[:, latent].cpu().numpy().astype(np.float64)


def _occlude(
    setting: ChangedLayer,
    latent: int,
    clip: int,
    sound: MaskedSound,
    curves: list[dict[str, Any]],
    cells: list[dict[str, Any]],
) -> None:
    """Add the curves and the cells of one clip."""

    def score(wave: Float[np.ndarray, " samples"]) -> float:
        return float(_activation(setting, latent, wave).mean())

    if not score(sound.wave.astype(np.float32)) > 0:
        return
    grid = even_grid(len(sound.wave) / sound.rate_hz, sound.rate_hz, times=TIMES, bands=BANDS)
    relevance, energy = occlude(score, sound, grid), cell_energies(sound, grid)
    orders = {"relevance": relevance, "spectrogram": energy, "random": np.random.default_rng(0).random(grid.shape)}
    clip_id, group = setting.store.clip_ids[clip], str(setting.clips.groups[clip])
    for name, order in orders.items():
        found = occlusion_curves(score, sound, grid, order, steps=STEPS)
        curves += [
            {"latent": latent, "clip_id": clip_id, "group": group, "order": name, "share": step / STEPS,
             "deletion": float(found.deletion[step]), "insertion": float(found.insertion[step])}
            for step in range(STEPS + 1)
        ]  # fmt: skip
    for band, time in np.ndindex(*grid.shape):
        (start_s, end_s), (low_hz, high_hz) = grid.times_s[time : time + 2], grid.frequencies_hz[band : band + 2]
        place = {"start_s": start_s, "end_s": end_s, "low_hz": low_hz, "high_hz": high_hz}
        values = {"relevance": relevance[band, time], "energy": energy[band, time]}
        cells.append({"latent": latent, "clip_id": clip_id, **{k: float(v) for k, v in (place | values).items()}})


def _mask(
    setting: ChangedLayer, latent: int, clip: int, sound: MaskedSound, sounds: dict[str, Sound]
) -> dict[str, Any] | None:
    """Return what is left of the activation in one clip; None if the region has no contrast."""
    wave = sound.wave.astype(np.float32)
    activation = _activation(setting, latent, wave)
    frames: Frames = setting.encoder.frames(len(wave))
    firing = activation > 0.5 * activation.max(initial=0.0)
    region = sound.firing_region(frames, firing)
    if not 0 < region.mean() <= MAX_AREA:
        return None
    others = rotated_regions(sound, region, seed=latent)
    own, *random = retained(lambda heard: _activation(setting, latent, heard), sound, [region, *others])
    audio = ""
    if not any(name.startswith(f"masked{latent:05d}-") for name in sounds):
        audio = f"masked{latent:05d}-0.flac"
        sounds[audio] = Sound(sound.keep(region), sound.rate_hz)
    return {
        "latent": latent,
        "clip_id": setting.store.clip_ids[clip],
        "group": str(setting.clips.groups[clip]),
        "audio": audio,
        "area": float(region.mean()),
        "energy": sound.energy(region),
        "in_region": float(activation[firing].sum() / activation.sum()),
        "retained": float(own),
        "random": float(np.mean(random)),
        "random_energy": float(np.mean([sound.energy(mask) for mask in others])),
    }
