"""Control signals over time: notes and speech, vibrato, trill, trillo and lip trill; and the loudness of a wave."""

import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int64
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from otoscope.corpus.synth.singer import Voice
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


PEAK = 0.9

LOWEST_DB = -100.0


def set_loudness(wave: FloatArray, *, loudness_db: float, rate_hz: int) -> Float32[np.ndarray, " samples"]:
    """Scale a wave to a level in dB of full scale, or to a peak of 0.9 if that is softer; fade its ends."""
    edge = min(round(0.008 * rate_hz), len(wave) // 2)
    fade = 0.5 - 0.5 * np.cos(np.pi * (np.arange(edge) + 0.5) / edge)
    wave = wave - wave.mean()
    wave[:edge] *= fade
    wave[len(wave) - edge :] *= fade[::-1]
    scale = 10.0 ** (loudness_db / 20.0) / max(rms(wave), 1e-12)
    return (wave * min(scale, PEAK / max(float(np.abs(wave).max()), 1e-12))).astype(np.float32)


def rms(wave: NDArray[Any]) -> float:
    """Return the root of the mean square."""
    return math.sqrt(float(np.mean(np.square(wave, dtype=np.float64))))


def level_db(wave: NDArray[Any]) -> float:
    """Return the level in dB of full scale, not below -100."""
    return max(20.0 * math.log10(max(rms(wave), 1e-12)), LOWEST_DB)


def frame_levels_db(wave: NDArray[Any], times_s: FloatArray, *, rate_hz: int) -> FloatArray:
    """Return the level of the 25 ms around each time, in dB of full scale, not below -100."""
    energy = np.concatenate([[0.0], np.cumsum(np.square(wave, dtype=np.float64))])
    half = 0.0125
    first = np.clip(np.round((times_s - half) * rate_hz), 0, len(wave)).astype(np.int64)
    last = np.clip(np.round((times_s + half) * rate_hz), 0, len(wave)).astype(np.int64)
    mean = (energy[last] - energy[first]) / np.maximum(last - first, 1)
    return np.maximum(10.0 * np.log10(np.maximum(mean, 1e-12)), LOWEST_DB)


CEILING_HZ = 1000.0
"""Highest pitch: an octave above the top note of a soprano's scale on a high tonic."""


class Trajectories(NamedTuple):
    """Control signals at `CONTROL_RATE_HZ`.

    `f0_hz` is the pitch, also in unvoiced parts; `gain` the strength of the pulses, 0 where unvoiced; `air` the
    strength of the breath noise; `burst` that of voiceless consonants; `rd` the shape of the pulse; `lips` (0..1)
    the opening of the lips.
    """

    f0_hz: Float64[np.ndarray, " ticks"]
    gain: Float64[np.ndarray, " ticks"]
    air: Float64[np.ndarray, " ticks"]
    burst: Float64[np.ndarray, " ticks"]
    rd: Float64[np.ndarray, " ticks"]
    lips: Float64[np.ndarray, " ticks"]


def control_trajectories(voice: Voice, score: Melody, rng: np.random.Generator) -> Trajectories:
    """Add vibrato, trill, trillo and lip trill to a score."""
    ticks = len(score.semitones)
    time_s = np.arange(ticks) / CONTROL_RATE_HZ
    swing = vibrato(voice, time_s, rng)
    semitones = voice.melody_share * score.semitones + voice.vibrato_extent_semitones * swing
    semitones += trill(voice, time_s, rng) + voice.instability_semitones * slow_noise(ticks, 3.0, rng)
    f0_hz = np.clip(voice.tonic_hz * 2.0 ** (semitones / 12.0), 20.0, CEILING_HZ)

    closing = trillo(voice, time_s)
    lips = lip_trill(voice, ticks, rng)
    voiced = score.voiced & ~_voice_breaks(voice.unsteady, ticks, rng)
    sounding = gaussian_filter1d(voiced.astype(np.float64), 0.006 * CONTROL_RATE_HZ, mode="nearest")
    steady = score.level * (1.0 - voice.pulse_depth * closing) * lips
    gain = steady * sounding * (1.0 + 0.05 * voice.vibrato_extent_semitones * swing)
    burst = score.level * (
        1.0 - gaussian_filter1d(score.voiced.astype(np.float64), 0.006 * CONTROL_RATE_HZ, mode="nearest")
    )
    rd = voice.rd + 0.9 * voice.pulse_depth * closing
    return Trajectories(f0_hz, np.where(gain > 1e-3, gain, 0.0), steady + 0.1 * closing * score.level, burst, rd, lips)


VIBRATO_RISE_S = 0.25
"""Time in which a vibrato fades in."""


def vibrato(voice: Voice, time_s: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Return the vibrato, -1..1, which fades in after its onset; its rate varies by a few percent."""
    rate_hz = voice.vibrato_rate_hz * (1.0 + 0.04 * slow_noise(len(time_s), 1.5, rng))
    phase = 2.0 * np.pi * (np.cumsum(rate_hz) / CONTROL_RATE_HZ + rng.random())
    ramp = np.clip((time_s - voice.vibrato_onset_s) / VIBRATO_RISE_S, 0.0, 1.0)
    return np.sin(phase) * (0.5 - 0.5 * np.cos(np.pi * ramp))


def trill(voice: Voice, time_s: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Return the trill in semitones: a smoothed alternation of 0 and the interval."""
    if voice.trill_rate_hz == 0.0:
        return np.zeros_like(time_s)
    phase = voice.trill_rate_hz * time_s + 0.05 * slow_noise(len(time_s), 2.0, rng)
    upper = (phase % 1.0) >= 0.5
    return voice.trill_interval_semitones * gaussian_filter1d(
        upper.astype(np.float64), 0.014 * CONTROL_RATE_HZ, mode="nearest"
    )


def trillo(voice: Voice, time_s: FloatArray) -> FloatArray:
    """Return the opening of the glottis in a trillo, 0..1; its rate rises by a third around the mean."""
    if voice.pulse_rate_hz == 0.0:
        return np.zeros_like(time_s)
    duration_s = len(time_s) / CONTROL_RATE_HZ
    phase = voice.pulse_rate_hz * time_s * (0.85 + 0.15 * time_s / duration_s)
    return (0.5 - 0.5 * np.cos(2.0 * np.pi * phase)) ** 2


def lip_trill(voice: Voice, ticks: int, rng: np.random.Generator) -> FloatArray:
    """Return the opening of the lips in a lip trill, 0..1."""
    if voice.lip_rate_hz == 0.0:
        return np.ones(ticks)
    rate_hz = voice.lip_rate_hz * (1.0 + 0.06 * slow_noise(ticks, 6.0, rng))
    phase = np.cumsum(rate_hz) / CONTROL_RATE_HZ
    depth = np.clip(voice.lip_depth * (1.0 + 0.08 * slow_noise(ticks, 8.0, rng)), 0.0, 0.98)
    return 1.0 - depth * (0.5 - 0.5 * np.cos(2.0 * np.pi * phase))


def _voice_breaks(share: float, ticks: int, rng: np.random.Generator) -> np.ndarray[Any, np.dtype[np.bool_]]:
    motion = slow_noise(ticks, 3.0, rng)
    if share <= 0.0:
        return np.zeros(ticks, dtype=np.bool_)
    return motion < np.quantile(motion, share)
