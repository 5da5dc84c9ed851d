"""Moments on disk: sound, picture and activation, so that a report needs no corpus."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import soundfile as sf
from jaxtyping import Float

from otoscope.artifacts import atomic, environment, fingerprint, read_json, read_table, write_json, write_table
from otoscope.explain.activating_clips import Moment
from otoscope.explain.selection import LatentChoice
from otoscope.explain.spectrogram import spectrogram, to_png

MAX_CLIP_S = 6.0

SCHEMA: dict[str, pl.DataType] = {
    "factor": pl.String(),
    "score": pl.Float64(),
    "latent": pl.Int64(),
    "train_r": pl.Float64(),
    "test_r": pl.Float64(),
    "null_high": pl.Float64(),
    "test_clips": pl.Int64(),
    "test_groups": pl.Int64(),
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
"""One row a moment; times but `from_s` (the cut's place in its clip) are seconds from the cut's start."""


class Sound(NamedTuple):
    """A clip's samples, mono, and their rate."""

    wave: Float[np.ndarray, " samples"]
    rate_hz: int


class Moments(NamedTuple):
    """What `write_moments` wrote: a row a moment, and the card."""

    rows: pl.DataFrame
    card: dict[str, Any]


def write_moments(
    folder: Path,
    chosen: Sequence[tuple[LatentChoice, Sequence[Moment]]],
    *,
    sound_of: Callable[[str], Sound],
    card: Mapping[str, Any],
    splits: Mapping[str, str] | None = None,
    factor_values: Callable[[str, str], float] | None = None,
    max_clip_s: float = MAX_CLIP_S,
) -> Moments:
    """Write `moments.parquet`, FLAC and PNG files and `card.json` into a folder.

    Each clip is cut to at most `max_clip_s` around its peak. `card` says which layer and
    dictionary the latents are of (`layer, sae_id, sparsity, ...`); `splits` maps clips to their
    split; `factor_values(factor, clip_id)` gives the factor's value of a clip. The card is written
    last: a folder without it is unfinished.
    """
    rows = [
        _write_one(folder, choice, moment, sound_of(moment.clip_id), max_clip_s, splits or {}, factor_values)
        for choice, moments in chosen
        for moment in moments
    ]
    table = pl.DataFrame(rows, schema=SCHEMA)
    write_table(folder / "moments.parquet", table)
    identity = fingerprint([list(row.values()) for row in rows], dict(card))
    written = {**card, "moments": len(rows), "max_clip_s": max_clip_s, "fingerprint": identity}
    write_json(folder / "card.json", {**written, "versions": environment()})
    return Moments(table, written)


def read_moments(folder: Path) -> Moments | None:
    """Read what `write_moments` wrote; None where no moments were ever finished there."""
    if not (folder / "card.json").is_file():
        return None
    return Moments(read_table(folder / "moments.parquet"), read_json(folder / "card.json"))


def _write_one(
    folder: Path,
    choice: LatentChoice,
    moment: Moment,
    sound: Sound,
    max_clip_s: float,
    splits: Mapping[str, str],
    factor_values: Callable[[str, str], float] | None,
) -> dict[str, Any]:
    from_s, to_s = _cut(sound.wave.size / sound.rate_hz, moment.peak_s, max_clip_s)
    wave = sound.wave[round(from_s * sound.rate_hz) : round(to_s * sound.rate_hz)]
    shown = spectrogram(wave, rate_hz=sound.rate_hz)
    stem = f"latent{moment.latent:05d}-{moment.rank}"
    with atomic(folder / f"{stem}.flac") as temporary:
        sf.write(temporary, np.clip(wave, -1.0, 1.0), sound.rate_hz, format="FLAC", subtype="PCM_16")
    with atomic(folder / f"{stem}.png") as temporary:
        temporary.write_bytes(to_png(shown.levels))
    inside = (moment.end_s > from_s) & (moment.start_s < to_s)
    return {
        "factor": choice.factor,
        "score": choice.score,
        "latent": choice.latent,
        "train_r": choice.train_r,
        "test_r": choice.test_r,
        "null_high": choice.null_high,
        "test_clips": choice.test_clips,
        "test_groups": choice.test_groups,
        "firing": choice.firing,
        "also": list(choice.also),
        "seeds_found": choice.seeds_found,
        "seeds_asked": choice.seeds_asked,
        "rank": moment.rank,
        "clip_id": moment.clip_id,
        "group": moment.group,
        "split": splits.get(moment.clip_id, ""),
        "strength": moment.strength,
        "factor_value": factor_values(choice.factor, moment.clip_id) if factor_values else None,
        "from_s": from_s,
        "duration_s": wave.size / sound.rate_hz,
        "peak_s": None if moment.peak_s is None else moment.peak_s - from_s,
        "high_hz": shown.high_hz,
        "start_s": (moment.start_s[inside] - from_s).tolist(),
        "end_s": (moment.end_s[inside] - from_s).tolist(),
        "activation": moment.activation[inside].tolist(),
        "audio": f"{stem}.flac",
        "picture": f"{stem}.png",
    }


def _cut(duration_s: float, peak_s: float | None, max_clip_s: float) -> tuple[float, float]:
    """Place a cut of at most `max_clip_s` around the peak, inside the clip."""
    if duration_s <= max_clip_s:
        return 0.0, duration_s
    centre_s = duration_s / 2 if peak_s is None else peak_s
    from_s = min(max(centre_s - max_clip_s / 2, 0.0), duration_s - max_clip_s)
    return from_s, from_s + max_clip_s
