"""Top-activating clips on disk: sound, spectrogram and activation, so that a report needs no corpus."""

from collections.abc import Callable, Mapping, Sequence
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
from otoscope.explain.activating_clips import ActivatingClip
from otoscope.explain.selection import LatentChoice
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
    "outcome": pl.String(),
    "firing": pl.Float64(),
    "also": pl.List(pl.String()),
    "seeds_found": pl.Int64(),
    "seeds_asked": pl.Int64(),
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


class TopClips(NamedTuple):
    """Top-activating clips, one row per latent and clip, and their card."""

    rows: pl.DataFrame
    card: dict[str, Any]


def write_top_clips(
    folder: Path,
    chosen: Sequence[tuple[LatentChoice, Sequence[ActivatingClip]]],
    *,
    sound_of: Callable[[str], Sound],
    card: Mapping[str, Any],
    splits: Mapping[str, str] | None = None,
    factor_values: Callable[[str, str], float] | None = None,
    max_clip_s: float = MAX_CLIP_S,
) -> TopClips:
    """Write `top_clips.parquet`, FLAC and PNG files and `card.json` into a folder.

    Each clip is cut to at most `max_clip_s` around its peak. `card` names the layer and dictionary of the latents
    (`layer, sae_id, sparsity, ...`). `splits` maps clips to their split. `factor_values(factor, clip_id)` returns the
    factor's value of a clip. The card is written last: a folder without a card is unfinished.
    """
    rows = [
        _write_one(folder, choice, clip, sound_of(clip.clip_id), max_clip_s, splits or {}, factor_values)
        for choice, clips in chosen
        for clip in clips
    ]
    table = pl.DataFrame(rows, schema=SCHEMA)
    write_table(folder / "top_clips.parquet", table)
    identity = fingerprint([list(row.values()) for row in rows], dict(card))
    written = {**card, "clips": len(rows), "max_clip_s": max_clip_s, "fingerprint": identity}
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
    max_clip_s: float,
    splits: Mapping[str, str],
    factor_values: Callable[[str, str], float] | None,
) -> dict[str, Any]:
    from_s, to_s = _cut(sound.wave.size / sound.rate_hz, clip.peak_s, max_clip_s)
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
        "outcome": choice.outcome.value,
        "firing": choice.firing,
        "also": list(choice.also),
        "seeds_found": choice.seeds_found,
        "seeds_asked": choice.seeds_asked,
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


def _cut(duration_s: float, peak_s: float | None, max_clip_s: float) -> tuple[float, float]:
    """Return start and end of a cut of at most `max_clip_s` around the peak, inside the clip."""
    if duration_s <= max_clip_s:
        return 0.0, duration_s
    centre_s = duration_s / 2 if peak_s is None else peak_s
    from_s = min(max(centre_s - max_clip_s / 2, 0.0), duration_s - max_clip_s)
    return from_s, from_s + max_clip_s
