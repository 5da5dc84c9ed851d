"""Control signals of larynx and tract over time (vibrato, trill, trillo, lip trill), and loudness of a wave."""

import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Float64
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from otoscope.corpus.synth.melody import CONTROL_RATE_HZ, FloatArray, Melody, slow_noise
from otoscope.corpus.synth.singer import Voice

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


def vibrato(voice: Voice, time_s: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Return the vibrato, -1..1, which fades in after its onset; its rate varies by a few percent."""
    rate_hz = voice.vibrato_rate_hz * (1.0 + 0.04 * slow_noise(len(time_s), 1.5, rng))
    phase = 2.0 * np.pi * (np.cumsum(rate_hz) / CONTROL_RATE_HZ + rng.random())
    ramp = np.clip((time_s - voice.vibrato_onset_s) / 0.25, 0.0, 1.0)
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
