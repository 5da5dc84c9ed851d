"""How loud a wave is, and how loud it is made."""

import math
from typing import Any

import numpy as np
from jaxtyping import Float32
from numpy.typing import NDArray

PEAK = 0.9

LOWEST_DB = -100.0

Track = np.ndarray[Any, np.dtype[np.float64]]


def master(wave: Track, *, loudness_db: float, rate_hz: int) -> Float32[np.ndarray, " samples"]:
    """Bring a wave to its level in dB of full scale, or to a peak of 0.9, whichever is softer; fade its ends."""
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


def frame_levels_db(wave: NDArray[Any], times_s: Track, *, rate_hz: int) -> Track:
    """Return the level of the 25 ms around each time, in dB of full scale, not below -100."""
    energy = np.concatenate([[0.0], np.cumsum(np.square(wave, dtype=np.float64))])
    half = 0.0125
    first = np.clip(np.round((times_s - half) * rate_hz), 0, len(wave)).astype(np.int64)
    last = np.clip(np.round((times_s + half) * rate_hz), 0, len(wave)).astype(np.int64)
    mean = (energy[last] - energy[first]) / np.maximum(last - first, 1)
    return np.maximum(10.0 * np.log10(np.maximum(mean, 1e-12)), LOWEST_DB)
