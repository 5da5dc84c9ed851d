"""Clips in which a latent fires most, stored with sound and picture, so that a page needs no corpus."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import soundfile as sf
from jaxtyping import Float

from otoscope.artifacts import (
    atomic,
    environment,
    fingerprint,
    read_json_as,
    read_table,
    resolve_inside,
    write_json,
    write_table,
)
from otoscope.errors import DamagedArtifact
from otoscope.explain.latent_choice import LatentChoice
from otoscope.explain.spectrogram import spectrogram, to_png

MAX_CLIP_S = 6.0

SCHEMA: dict[str, pl.DataType] = {
    "factor": pl.String(),
    "label": pl.String(),
    "score": pl.Float64(),
    "latent": pl.Int64(),
    "train_r": pl.Float64(),
    "test_r": pl.Float64(),
    "null_high": pl.Float64(),
    "p_value": pl.Float64(),
    "overall_r": pl.Float64(),
    "within": pl.Boolean(),
    "test_r_high": pl.Float64(),
    "test_clips": pl.Int64(),
    "test_groups": pl.Int64(),
    "group_r": pl.List(pl.Float64()),
    "agreeing_groups": pl.Int64(),
    "compared_groups": pl.Int64(),
    "outcome": pl.String(),
    "firing": pl.Float64(),
    "also": pl.List(pl.String()),
    "seeds_found": pl.Int64(),
    "seeds_asked": pl.Int64(),
    "within_classes": pl.String(),
    "class_labels": pl.List(pl.String()),
    "class_r": pl.Float64(),
    "class_null_high": pl.Float64(),
    "of_class": pl.String(),
    "other_classes": pl.List(pl.String()),
    "other_test_r": pl.List(pl.Float64()),
    "other_train_r": pl.List(pl.Float64()),
    "next_class": pl.String(),
    "next_r": pl.Float64(),
    "rank": pl.Int64(),
    "clip_id": pl.String(),
    "group": pl.String(),
    "split": pl.String(),
    "strength": pl.Float64(),
    "factor_value": pl.Float64(),
    "from_s": pl.Float64(),
    "duration_s": pl.Float64(),
    "peak_s": pl.Float64(),
    "high_hz": pl.Float64(),
    "start_s": pl.List(pl.Float64()),
    "end_s": pl.List(pl.Float64()),
    "activation": pl.List(pl.Float64()),
    "audio": pl.String(),
    "picture": pl.String(),
}
"""One row per clip. Times are seconds from the start of the cut; `from_s` is the start of the cut in its clip."""


class Sound(NamedTuple):
    """Mono samples of a clip and their rate."""

    wave: Float[np.ndarray, " samples"]
    rate_hz: int


class TimedCodes(NamedTuple):
    """Codes of a clip's frames, and start and end of each frame in seconds from the start of the clip."""

    codes: Float[np.ndarray, "frames latents"]
    start_s: Float[np.ndarray, " frames"]
    end_s: Float[np.ndarray, " frames"]


@dataclass(frozen=True, kw_only=True)
class ActivatingClip:
    """A clip in which a latent fires strongly; `rank` 0 is the strongest.

    `activation` is the code over time with the frames' `start_s` and `end_s`. All three are empty, and `peak_s` is
    None, if only pooled codes exist.
    """

    latent: int
    rank: int
    clip_id: str
    group: str
    strength: float
    activation: Float[np.ndarray, " frames"]
    start_s: Float[np.ndarray, " frames"]
    end_s: Float[np.ndarray, " frames"]
    peak_s: float | None


class TopClips(NamedTuple):
    """Top-activating clips, one row per latent and clip, and their card."""

    rows: pl.DataFrame
    card: dict[str, Any]


def top_activating_clips(
    latent: int,
    strength: Float[np.ndarray, " clips"],
    clip_ids: Sequence[str],
    groups: Sequence[str],
    *,
    codes_of: Callable[[str], TimedCodes] | None,
    top: int = 3,
) -> list[ActivatingClip]:
    """Return the clips in which a latent is strongest: first the best clip of each group, then the others.

    `strength` is the latent's pooled code per clip; clips with zero or less are excluded. `codes_of` returns a clip's
    codes over time; pass None if only pooled codes exist.
    """
    indices = _one_per_group_first(strength, clip_ids, groups)[:top]
    return [_activating_clip(latent, rank, i, strength, clip_ids, groups, codes_of) for rank, i in enumerate(indices)]


def _one_per_group_first(
    strength: Float[np.ndarray, " clips"], clip_ids: Sequence[str], groups: Sequence[str]
) -> list[int]:
    firing = [i for i in range(len(clip_ids)) if strength[i] > 0]
    firing.sort(key=lambda i: (-strength[i], clip_ids[i]))
    seen: set[str] = set()
    first: list[int] = []
    later: list[int] = []
    for i in firing:
        (later if groups[i] in seen else first).append(i)
        seen.add(groups[i])
    return first + later


def _activating_clip(
    latent: int,
    rank: int,
    index: int,
    strength: Float[np.ndarray, " clips"],
    clip_ids: Sequence[str],
    groups: Sequence[str],
    codes_of: Callable[[str], TimedCodes] | None,
) -> ActivatingClip:
    empty = np.zeros(0)
    activation, start_s, end_s = empty, empty, empty
    peak_s: float | None = None
    if codes_of is not None:
        timed = codes_of(clip_ids[index])
        activation = timed.codes[:, latent].astype(np.float64)
        start_s, end_s = timed.start_s.astype(np.float64), timed.end_s.astype(np.float64)
        if activation.size:
            peak = int(activation.argmax())
            peak_s = float(start_s[peak] + end_s[peak]) / 2
    return ActivatingClip(
        latent=latent,
        rank=rank,
        clip_id=clip_ids[index],
        group=groups[index],
        strength=float(strength[index]),
        activation=activation,
        start_s=start_s,
        end_s=end_s,
        peak_s=peak_s,
    )


def write_top_clips(
    folder: Path,
    chosen: Sequence[tuple[LatentChoice, Sequence[ActivatingClip]]],
    *,
    sound_of: Callable[[str], Sound],
    card: Mapping[str, Any],
    splits: Mapping[str, str] | None = None,
    factor_values: Callable[[str, str], float] | None = None,
) -> TopClips:
    """Write `top_clips.parquet`, FLAC and PNG files and `card.json` into a folder.

    Each clip is cut to at most `MAX_CLIP_S` around its peak. `card` names the layer and dictionary of the latents
    (`layer, sae_id, sparsity, ...`). `splits` maps clips to their split. `factor_values(factor, clip_id)` returns the
    factor's value of a clip. The card is written last: a folder without a card is unfinished.
    """
    rows = [
        _write_one(folder, choice, clip, sound_of(clip.clip_id), splits or {}, factor_values)
        for choice, clips in chosen
        for clip in clips
    ]
    table = pl.DataFrame(rows, schema=SCHEMA)
    write_table(folder / "top_clips.parquet", table)
    identity = fingerprint([list(row.values()) for row in rows], dict(card))
    written = {**card, "clips": len(rows), "max_clip_s": MAX_CLIP_S, "fingerprint": identity}
    write_json(folder / "card.json", {**written, "versions": environment()})
    return TopClips(table, written)


def read_top_clips(folder: Path) -> TopClips | None:
    """Load top-activating clips; None if the folder is missing or unfinished.

    Raises `DamagedArtifact` if a row names a file outside the folder.
    """
    if not (folder / "card.json").is_file():
        return None
    path = folder / "top_clips.parquet"
    rows = read_table(path)
    # tables of earlier versions have no correlations of further classes
    added = [name for name in ("other_test_r", "other_train_r") if name not in rows.columns]
    rows = rows.with_columns(pl.lit([], dtype=SCHEMA[name]).alias(name) for name in added)
    if dict(rows.schema) != SCHEMA:
        raise DamagedArtifact(f"{path} is damaged: it has other columns; delete it and run again")
    for name in (*rows["audio"], *rows["picture"]):
        resolve_inside(folder, name)
    return TopClips(rows, read_json_as(folder / "card.json", dict[str, Any]))


def write_sound(path: Path, sound: Sound) -> None:
    """Write a sound as FLAC with 16 bits, clipped to -1..1."""
    audio = BytesIO()  # libsndfile does not say that a disk is full
    sf.write(audio, np.clip(sound.wave, -1.0, 1.0), sound.rate_hz, format="FLAC", subtype="PCM_16")
    with atomic(path) as temporary:
        temporary.write_bytes(audio.getvalue())


def _write_one(
    folder: Path,
    choice: LatentChoice,
    clip: ActivatingClip,
    sound: Sound,
    splits: Mapping[str, str],
    factor_values: Callable[[str, str], float] | None,
) -> dict[str, Any]:
    from_s, to_s = _cut(sound.wave.size / sound.rate_hz, clip.peak_s)
    wave = sound.wave[round(from_s * sound.rate_hz) : round(to_s * sound.rate_hz)]
    shown = spectrogram(wave, rate_hz=sound.rate_hz)
    stem = f"latent{clip.latent:05d}-{clip.rank}"
    write_sound(folder / f"{stem}.flac", Sound(wave, sound.rate_hz))
    with atomic(folder / f"{stem}.png") as temporary:
        temporary.write_bytes(to_png(shown.levels))
    inside = (clip.end_s > from_s) & (clip.start_s < to_s)
    return {
        "factor": choice.factor,
        "label": choice.label,
        "score": choice.score,
        "latent": choice.latent,
        "train_r": choice.train_r,
        "test_r": choice.test_r,
        "null_high": choice.null_high,
        "p_value": choice.p_value,
        "overall_r": choice.overall_r,
        "within": choice.within,
        "test_r_high": choice.test_r_high,
        "test_clips": choice.test_clips,
        "test_groups": choice.test_groups,
        "group_r": list(choice.group_r),
        "agreeing_groups": choice.agreeing_groups,
        "compared_groups": choice.compared_groups,
        "outcome": choice.outcome.value,
        "firing": choice.firing,
        "also": list(choice.also),
        "seeds_found": choice.seeds_found,
        "seeds_asked": choice.seeds_asked,
        "within_classes": choice.within_classes.value,
        "class_labels": list(choice.class_labels),
        "class_r": choice.class_r,
        "class_null_high": choice.class_null_high,
        "of_class": choice.of_class,
        "other_classes": list(choice.other_classes),
        "other_test_r": list(choice.other_test_r),
        "other_train_r": list(choice.other_train_r),
        "next_class": choice.next_class,
        "next_r": choice.next_r,
        "rank": clip.rank,
        "clip_id": clip.clip_id,
        "group": clip.group,
        "split": splits.get(clip.clip_id, ""),
        "strength": clip.strength,
        "factor_value": factor_values(choice.factor, clip.clip_id) if factor_values and not choice.label else None,
        "from_s": from_s,
        "duration_s": wave.size / sound.rate_hz,
        "peak_s": None if clip.peak_s is None else clip.peak_s - from_s,
        "high_hz": shown.high_hz,
        "start_s": (clip.start_s[inside] - from_s).tolist(),
        "end_s": (clip.end_s[inside] - from_s).tolist(),
        "activation": clip.activation[inside].tolist(),
        "audio": f"{stem}.flac",
        "picture": f"{stem}.png",
    }


def _cut(duration_s: float, peak_s: float | None) -> tuple[float, float]:
    """Return start and end of a cut of at most `MAX_CLIP_S` around the peak, inside the clip."""
    if duration_s <= MAX_CLIP_S:
        return 0.0, duration_s
    centre_s = duration_s / 2 if peak_s is None else peak_s
    from_s = min(max(centre_s - MAX_CLIP_S / 2, 0.0), duration_s - MAX_CLIP_S)
    return from_s, from_s + MAX_CLIP_S
