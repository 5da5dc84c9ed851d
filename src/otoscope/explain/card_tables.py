"""Tables of explained latents: cards with blind scores, response curves, shares of variance and temporal profiles."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int

from otoscope.encoders.base import Frames
from otoscope.explain.activation_index import ActivationIndex
from otoscope.explain.card_scores import CardScore, embedding_auroc, intruder_score, score_cards
from otoscope.explain.cards import LatentDescription, describe_latents
from otoscope.explain.firing import diverse
from otoscope.explain.frame_descriptors import (
    DESCRIPTORS,
    RELIABLE_R,
    DescribedFrames,
    FrameTable,
    frame_table,
    true_agreement,
    unreliable_descriptors,
)
from otoscope.explain.response_curves import (
    ResponseCurve,
    band_bins,
    best_band_r2,
    explained_shares,
    response_curves,
    tested_as_family,
)
from otoscope.explain.temporal_profile import TemporalProfile, sound_onsets, temporal_profile

MAX_SHARED = 4
"""Descriptors whose shares of variance are computed in pairs: those with the largest share alone."""


class CardTables(NamedTuple):
    """`cards`: one row per latent; `responses`: per latent, descriptor and bin; `shares`: per descriptor and pair.

    `measurements` has one row per descriptor whose true values are known.
    """

    cards: pl.DataFrame
    responses: pl.DataFrame
    shares: pl.DataFrame
    measurements: pl.DataFrame


class DescribedClips(NamedTuple):
    """Frames of some clips in order, the row of each in the index, and the clips whose groups are held out."""

    frames: FrameTable
    rows: Int[np.ndarray, " rows"]
    held_out: Bool[np.ndarray, " rows"]
    unseen: Bool[np.ndarray, " rows"]
    """True for frames of groups on which the SAE was not trained."""
    agreement: Mapping[str, float]
    """Correlation of descriptors with their true values (`true_agreement`)."""


def choose_clips(splits: Sequence[str], groups: Sequence[str], *, clips: int) -> list[int]:
    """Return at most this many clips, drawn at random: half of test groups, half of others, evenly over groups.

    >>> choose_clips(["train", "train", "train", "test", "test"], ["a", "b", "c", "d", "d"], clips=5)
    [0, 1, 2, 3, 4]
    """
    order = np.random.default_rng(0).permutation(len(splits)).tolist()  # corpora are often sorted by their labels
    test = diverse([i for i in order if splits[i] == "test"], groups)
    rest = diverse([i for i in order if splits[i] != "test"], groups)
    of_test = min(len(test), max(clips // 2, clips - len(rest)))
    return sorted([*test[:of_test], *rest[: clips - of_test]])


def gather_frames(
    index: ActivationIndex,
    clips: Sequence[int],
    described: Sequence[DescribedFrames],
    *,
    splits: Sequence[str],
    groups: Sequence[str],
    labels: Mapping[str, Sequence[str]],
    true: Mapping[str, Float[np.ndarray, " all_clips"]] | None = None,
) -> DescribedClips:
    """Return the described frames of clips of an index as one table; `true` are true values of factors of all clips."""
    counts = [len(one.values) for one in described]
    clip = np.repeat(np.asarray(clips), counts)
    first = np.concatenate([index.first_rows[i] + np.arange(n) for i, n in zip(clips, counts, strict=True)])
    split = np.asarray(splits)[clip]
    of_clips = {name: [classes[i] for i in clips] for name, classes in labels.items()}
    frames = frame_table(described, groups=[groups[i] for i in clips], labels=of_clips)
    known_true = {name: np.asarray(values, dtype=np.float64)[list(clips)] for name, values in (true or {}).items()}
    means = {
        name: np.array([values[known].mean() if (known := np.isfinite(values)).any() else math.nan for values in parts])
        for name, all_values in frames.descriptors.items()
        if DESCRIPTORS[name].true in known_true
        for parts in [np.split(all_values, np.cumsum(counts)[:-1])]
    }
    agreement = true_agreement(means, known_true, np.asarray(groups)[list(clips)])
    frames = replace(frames, clips=clip, unreliable=unreliable_descriptors(agreement))
    return DescribedClips(frames, first, split == "test", split != "train", agreement)


def card_tables(
    index: ActivationIndex,
    latents: Sequence[int],
    clips: DescribedClips,
    *,
    frames_of: Callable[[str], Frames],
    on_latent: Callable[[], object],
) -> CardTables:
    """Return cards, responses and shares of latents.

    Cards are written from frames of train and validation groups and scored on test groups. Response curves and shares
    are those of validation and test groups, on which the SAE was not trained. The latents are one family in every test.
    None rests on a descriptor that does not follow its known true values.
    """
    activations = {latent: _dense(index, latent)[clips.rows] for latent in latents}
    fit, test = clips.frames.take(~clips.held_out), clips.frames.take(clips.held_out)
    written = describe_latents({latent: a[~clips.held_out] for latent, a in activations.items()}, fit)
    scored = score_cards(list(written.values()), [a[clips.held_out] for a in activations.values()], test)
    cards: list[dict[str, Any]] = []
    responses: list[dict[str, Any]] = []
    shares: list[dict[str, Any]] = []
    unseen = clips.frames.take(clips.unseen)
    bands = {voiced: band_bins(unseen.spectra[known]) for voiced, known in _known(unseen).items()}
    silent = silent_frames(clips.frames)
    curves = _curves({latent: a[clips.unseen] for latent, a in activations.items()}, unseen)
    for (latent, a), score in zip(activations.items(), scored, strict=True):
        profile = _profile(index, latent, clips, frames_of)
        scores = _scores(written[latent], score, a, clips, fit, test)
        family = {"family": len(latents)}
        said = {"sentence": written[latent].sentence, "classes": json.dumps(written[latent].named_classes)}
        silence = {"silent": _mean_of(silent[a > 0]), "silence": _mean_of(silent)}
        cards.append({"latent": latent, **said, **family, **scores, **silence, **asdict(profile)})
        own = {name: curve for (of, name), curve in curves.items() if of == latent}
        responses += _responses(latent, own, a[clips.unseen], unseen, bands)
        shares += _shares(latent, a[clips.unseen], unseen, own)
        on_latent()
    return CardTables(
        pl.DataFrame(cards, schema=CARDS),
        pl.DataFrame(responses, schema=RESPONSES),
        pl.DataFrame(shares, schema=SHARES),
        pl.DataFrame(
            [(name, DESCRIPTORS[name].true, r, r >= RELIABLE_R) for name, r in clips.agreement.items()],
            schema=MEASUREMENTS,
            orient="row",
        ),
    )


CARDS: dict[str, pl.DataType] = {
    "latent": pl.Int64(),
    "sentence": pl.String(),
    "classes": pl.String(),
    "family": pl.Int64(),
    "rate": pl.Float64(),
    **{name: pl.Float64() for name in ("auroc", "low", "high", "permuted_high", "others", "level")},
    **{name: pl.Float64() for name in ("lead", "lead_low", "lead_high")},
    "beats_controls": pl.Boolean(),
    "groups": pl.Int64(),
    "rows": pl.Int64(),
    **{f"{kind}_{name}": pl.Float64() for kind in ("intruder", "embedding") for name in ("logmel", "descriptors")},
    "silent": pl.Float64(),
    "silence": pl.Float64(),
    "lag_s": pl.Float64(),
    "onsets": pl.Int64(),
    "lag_onsets": pl.Int64(),
    **{name: pl.Float64() for name in ("duration_s", "persistence_s", "modulation_hz", "syllable_share")},
}
"""Columns of `cards.parquet`; `family` is the number of latents whose cards were tested together.

`classes` are those of the sentence, a JSON list of `label=class`. `silent` is the share of silent frames
(`silent_frames`) among those in which the latent fires, `silence` that among all described frames.
"""

RESPONSES: dict[str, pl.DataType] = {
    "latent": pl.Int64(),
    "descriptor": pl.String(),
    "bin": pl.Int64(),
    **{name: pl.Float64() for name in ("from", "to", "median", "mean", "low", "high")},
    "rows": pl.Int64(),
    "groups": pl.Int64(),
    **{name: pl.Float64() for name in ("centre", "width", "selectivity", "r2", "null_high", "p_value", "band_r2")},
    "responds": pl.Boolean(),
}
"""Columns of `responses.parquet`; `band_r2` is the share that the best single mel band explains on the same frames."""

SHARES: dict[str, pl.DataType] = {
    "latent": pl.Int64(),
    "descriptor": pl.String(),
    "other": pl.String(),
    "share": pl.Float64(),
}
"""Columns of `shares.parquet`; `other` is null for a descriptor alone."""

MEASUREMENTS: dict[str, pl.DataType] = {
    "descriptor": pl.String(),
    "true": pl.String(),
    "r": pl.Float64(),
    "names_latents": pl.Boolean(),
}
"""Columns of `measurements.parquet`: descriptors with known true values, and `r`, their correlation within groups."""


SILENCE_DB = 40.0
"""Level below the loudest frame of a clip from which on a frame is silent."""


def silent_frames(frames: FrameTable) -> Bool[np.ndarray, " rows"]:
    """Return which frames are silent: `SILENCE_DB` or more below the loudest of their clip."""
    level = frames.descriptors["level_db"]
    _, clip = np.unique(frames.clips, return_inverse=True)
    loudest = np.full(int(clip.max(initial=-1)) + 1, -np.inf)
    np.maximum.at(loudest, clip, level)
    return level <= loudest[clip] - SILENCE_DB


def _mean_of(chosen: Bool[np.ndarray, " rows"]) -> float:
    return float(chosen.mean()) if len(chosen) else math.nan


def _dense(index: ActivationIndex, latent: int) -> Float[np.ndarray, " rows"]:
    firing = index.firing(latent)
    dense = np.zeros(index.rows, dtype=np.float32)
    dense[firing.rows] = firing.activations
    return dense


def _scores(
    card: LatentDescription,
    score: CardScore,
    activations: Float[np.ndarray, " rows"],
    clips: DescribedClips,
    fit: FrameTable,
    test: FrameTable,
) -> dict[str, Any]:
    known, unseen = activations[~clips.held_out], activations[clips.held_out]
    embeddings = {"logmel": (fit.spectra, test.spectra), "descriptors": (fit.embedding, test.embedding)}
    return {
        "rate": card.rate,
        **score._asdict(),
        "beats_controls": score.beats_controls,
        **{f"intruder_{name}": intruder_score(unseen, b, test.clips) for name, (_, b) in embeddings.items()},
        **{
            f"embedding_{name}": embedding_auroc((known, a), (unseen, b), test.groups)
            for name, (a, b) in embeddings.items()
        },
    }


def _known(frames: FrameTable) -> dict[bool, Bool[np.ndarray, " rows"]]:
    """Return the frames on which descriptors are known: of voiced frames (True), or all."""
    return {True: frames.voiced, False: np.ones(len(frames.groups), dtype=bool)}


def _curves(
    activations: Mapping[int, Float[np.ndarray, " rows"]], frames: FrameTable
) -> dict[tuple[int, str], ResponseCurve]:
    """Return the response of each latent to each descriptor, tested as one family."""
    found = response_curves(activations, frames.reliable, groups=frames.groups, clips=frames.clips)
    return dict(zip(found, tested_as_family(list(found.values())), strict=True))


def _responses(
    latent: int,
    curves: Mapping[str, ResponseCurve],
    activations: Float[np.ndarray, " rows"],
    frames: FrameTable,
    bands: Mapping[bool, Int[np.ndarray, "bands rows"]],
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    band_r2 = {
        voiced: best_band_r2(activations[known], bands[voiced], groups=frames.groups[known])
        for voiced, known in _known(frames).items()
    }
    kept = ("rows", "groups", "centre", "width", "selectivity", "r2", "null_high", "p_value")
    for name, curve in curves.items():
        common = {
            **{key: getattr(curve, key) for key in kept},
            "band_r2": band_r2[DESCRIPTORS[name].voiced],
            "responds": curve.responds,
        }
        for number in range(len(curve.mean)):
            place = {"from": curve.edges[number], "to": curve.edges[number + 1], "median": curve.medians[number]}
            means = {"mean": curve.mean[number], "low": curve.low[number], "high": curve.high[number]}
            rows.append({"latent": latent, "descriptor": name, "bin": number, **place, **means, **common})
    return rows


def _shares(
    latent: int, activations: Float[np.ndarray, " rows"], frames: FrameTable, curves: Mapping[str, ResponseCurve]
) -> list[dict[str, Any]]:
    r2 = {name: curve.r2 for name, curve in curves.items() if math.isfinite(curve.r2)}
    best = sorted(r2, key=lambda name: -r2[name])[:MAX_SHARED]
    if not best:
        return []
    shares = explained_shares(activations, {name: frames.descriptors[name] for name in best}, groups=frames.groups)
    return [
        {"latent": latent, "descriptor": names[0], "other": names[1] if len(names) > 1 else None, "share": share}
        for names, share in shares.items()
    ]


def _profile(
    index: ActivationIndex, latent: int, clips: DescribedClips, frames_of: Callable[[str], Frames]
) -> TemporalProfile:
    """Return the temporal profile over the described clips; patches of the same time count once, with their maximum."""
    dense = _dense(index, latent)
    activations: list[Float[np.ndarray, " frames"]] = []
    onsets: list[Float[np.ndarray, " onsets"]] = []
    step_s, first_s = 0.0, 0.0
    for clip in np.unique(clips.frames.clips).tolist():
        times = frames_of(index.clip_ids[clip])
        starts, first = np.unique(times.start_s, return_index=True)
        own = dense[index.first_rows[clip] : index.first_rows[clip + 1]]
        levels = clips.frames.descriptors["level_db"][clips.frames.clips == clip]
        activations.append(np.maximum.reduceat(own, first) if len(first) else own)
        if len(starts) > 2:
            # the first frame may be cut at the start of the clip
            step_s, first_s = (
                float(np.median(np.diff(starts[1:]))),
                float(times.end_s[first][0] + times.end_s[first][1]) / 2,
            )
            first_s -= step_s
        onsets.append(sound_onsets(levels[first], frame_s=step_s, first_s=first_s) if step_s else np.empty(0))
    return temporal_profile(
        activations, frame_s=step_s or 1.0, onsets_s=[one.tolist() for one in onsets], first_s=first_s
    )
