"""Note patterns and speech as control signals of pitch and level."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Int64
from scipy.ndimage import gaussian_filter1d

from otoscope.errors import ConfigError, suggest

CONTROL_RATE_HZ = 1000.0
"""Sample rate of all control signals."""

PATTERNS: dict[str, tuple[int, ...]] = {
    "arpeggios": (0, 4, 7, 12),
    "long_tones": (0,),
    "scales": (0, 2, 4, 5, 7, 9, 11, 12),
}
"""Rising halves of the patterns, in semitones above the first note; each is sung up and down."""

SHORTEST_NOTE_S = 0.22

FloatArray = np.ndarray[Any, np.dtype[np.float64]]
"""Array of float64 of any shape."""


class Melody(NamedTuple):
    """Score of one clip at the control rate.

    `semitones` is the pitch above the tonic; `level` (0..1) the loudness; `voiced` is true where the glottis may
    vibrate; `part` is the number of the note or syllable, `age_s` the time since its start.
    """

    semitones: Float64[np.ndarray, " ticks"]
    level: Float64[np.ndarray, " ticks"]
    voiced: np.ndarray[Any, np.dtype[np.bool_]]
    part: Int64[np.ndarray, " ticks"]
    age_s: Float64[np.ndarray, " ticks"]


def pattern_notes(pattern: str, *, duration_s: float) -> tuple[int, ...]:
    """Return the notes of a pattern that fit into `duration_s`, in semitones, up and down.

    Short clips turn before the octave, so that no note is shorter than `SHORTEST_NOTE_S`.

    >>> pattern_notes("arpeggios", duration_s=1.2)
    (0, 4, 7, 4, 0)
    """
    if pattern not in PATTERNS:
        raise ConfigError(f"no note pattern {pattern!r}; {suggest(pattern, PATTERNS)}")
    rising = PATTERNS[pattern]
    most_rising = max(int(duration_s / SHORTEST_NOTE_S + 1) // 2, 1)
    rising = rising[:most_rising]
    return rising + rising[-2::-1]


def sung_melody(pattern: str, *, duration_s: float, rng: np.random.Generator) -> Melody:
    """Return a pattern sung legato: notes of nearly equal length, glides of about 70 ms, small intonation errors."""
    notes = np.array(pattern_notes(pattern, duration_s=duration_s), dtype=np.float64)
    lengths = rng.uniform(0.9, 1.1, len(notes))
    part, age_s = _parts(lengths / lengths.sum() * duration_s)
    semitones = (notes + rng.normal(0.0, 0.12, len(notes)))[part]
    semitones = gaussian_filter1d(semitones, rng.uniform(0.018, 0.03) * CONTROL_RATE_HZ, mode="nearest")
    semitones += slow_noise(len(part), 1.5, rng) * 0.08
    # the first note starts flat and rises
    semitones -= rng.uniform(0.0, 0.5) * np.exp(-np.arange(len(part)) / (0.06 * CONTROL_RATE_HZ))
    level = 1.0 - 0.12 * np.exp(-age_s / 0.05) * (part > 0)
    level *= attack_release(len(part), attack_s=rng.uniform(0.04, 0.15), release_s=rng.uniform(0.06, 0.2))
    return Melody(semitones, level, np.ones(len(part), dtype=np.bool_), part, age_s)


def spoken_melody(*, duration_s: float, rng: np.random.Generator) -> Melody:
    """Return speech: syllables of 0.13 to 0.26 s with dips between them, falling pitch with accents, some gaps."""
    lengths = rng.uniform(0.13, 0.26, max(round(duration_s / 0.19), 1))
    part, age_s = _parts(lengths / lengths.sum() * duration_s)
    count, ticks = len(lengths), len(part)
    accents = np.where(rng.random(count) < 0.4, rng.uniform(1.5, 4.5, count), rng.normal(0.0, 0.5, count))
    fall = rng.uniform(3.0, 7.0) * (0.5 - np.arange(ticks) / ticks)
    semitones = gaussian_filter1d(accents[part], 0.045 * CONTROL_RATE_HZ, mode="nearest") + fall
    semitones += slow_noise(ticks, 2.0, rng) * 0.3
    stress = 0.65 + 0.35 * rng.random(count)
    dip = np.exp(-age_s / 0.03) * rng.uniform(0.4, 0.95, count)[part]
    level = gaussian_filter1d(stress[part] * (1.0 - dip), 0.008 * CONTROL_RATE_HZ, mode="nearest")
    # some syllables start with a voiceless consonant
    closed = (rng.random(count) < 0.35)[part] & (age_s < rng.uniform(0.03, 0.07, count)[part])
    level *= attack_release(ticks, attack_s=0.03, release_s=0.08)
    return Melody(semitones, level, ~closed, part, age_s)


def slow_noise(ticks: int, cutoff_hz: float, rng: np.random.Generator) -> FloatArray:
    """Return low-pass noise of unit spread below about `cutoff_hz`, shape [ticks]."""
    knots = rng.standard_normal(int(ticks / CONTROL_RATE_HZ * cutoff_hz * 2.0) + 4)
    at = np.linspace(1.0, len(knots) - 2.0, ticks)
    floor = at.astype(np.int64)
    weight = 0.5 - 0.5 * np.cos(np.pi * (at - floor))
    following = np.minimum(floor + 1, len(knots) - 1)
    return (1.0 - weight) * knots[floor] + weight * knots[following]


def attack_release(ticks: int, *, attack_s: float, release_s: float) -> FloatArray:
    """Return an envelope that rises and falls along half cosines, 0 at both ends, shape [ticks]."""
    time_s = (np.arange(ticks) + 0.5) / CONTROL_RATE_HZ
    rest_s = ticks / CONTROL_RATE_HZ - time_s
    rise = np.clip(time_s / attack_s, 0.0, 1.0)
    fall = np.clip(rest_s / release_s, 0.0, 1.0)
    return (0.5 - 0.5 * np.cos(np.pi * rise)) * (0.5 - 0.5 * np.cos(np.pi * fall))


def _parts(lengths_s: FloatArray) -> tuple[Int64[np.ndarray, " ticks"], FloatArray]:
    """Return the part of each tick, and the time since its start."""
    starts_s = np.concatenate([[0.0], np.cumsum(lengths_s)[:-1]])
    time_s = np.arange(round(float(lengths_s.sum()) * CONTROL_RATE_HZ)) / CONTROL_RATE_HZ
    part = np.searchsorted(starts_s, time_s, side="right") - 1
    return part, time_s - starts_s[part]
