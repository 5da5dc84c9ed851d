"""The vocal tract: formants of vowels for a tract length, and the resonators that apply them."""

import math

import numpy as np
from jaxtyping import Float64
from numba import njit

from otoscope.corpus.synth.melody import FloatArray

MEN_TRACT_CM = 17.0
"""Tract length of the formant table."""

SOUND_CM_PER_S = 35_000.0

VOWELS: dict[str, tuple[float, float, float, float]] = {
    "a": (768.0, 1333.0, 2522.0, 3687.0),
    "e": (476.0, 2089.0, 2691.0, 3649.0),
    "i": (342.0, 2322.0, 3000.0, 3657.0),
    "o": (497.0, 910.0, 2459.0, 3384.0),
    "u": (378.0, 997.0, 2343.0, 3357.0),
}
"""First four formants in Hz, means of 45 men (Hillenbrand et al. 1995, J. Acoust. Soc. Am. 97, Table V)."""


def formants_hz(vowel: str, *, tract_length_cm: float, up_to_hz: float) -> Float64[np.ndarray, " formants"]:
    """Return a vowel's formants below `up_to_hz` in a tract of this length.

    The table is scaled by `17 cm / tract_length_cm`; above F4 the resonances of a uniform tube follow,
    `c / 2 L` apart, so that the mean slope of the spectrum does not depend on the sampling rate.

    >>> formants_hz("a", tract_length_cm=17.0, up_to_hz=3000.0)
    array([ 768., 1333., 2522.])
    """
    spacing_hz = SOUND_CM_PER_S / (2.0 * tract_length_cm)
    known = np.array(VOWELS[vowel]) * MEN_TRACT_CM / tract_length_cm
    count = max(int((up_to_hz - known[-1]) / spacing_hz), 0)
    everything = np.concatenate([known, known[-1] + spacing_hz * np.arange(1, count + 1)])
    return everything[everything < up_to_hz]


def bandwidths_hz(centres_hz: FloatArray, *, damping: float = 1.0) -> FloatArray:
    """Return a bandwidth for each formant: `damping * (50 + 0.025 F + (F / 2500)^2 * 20)`, any shape."""
    return damping * (50.0 + 0.025 * centres_hz + 20.0 * (centres_hz / 2500.0) ** 2)


def resonate(
    signals: Float64[np.ndarray, "signals samples"],
    centres_hz: Float64[np.ndarray, "ticks formants"],
    widths_hz: Float64[np.ndarray, "ticks formants"],
    *,
    rate_hz: float,
    tick_hz: float,
) -> Float64[np.ndarray, "signals samples"]:
    """Pass signals through a cascade of moving resonators, each with gain 1 at 0 Hz (Klatt 1980).

    A resonator is `y[n] = (1 - b - c) x[n] + b y[n-1] + c y[n-2]` with `c = -exp(-2 pi B / rate)` and
    `b = 2 exp(-pi B / rate) cos(2 pi F / rate)`.
    """
    out = np.ascontiguousarray(signals).copy()
    pole_c = -np.exp(-2.0 * np.pi * widths_hz / rate_hz)
    pole_b = 2.0 * np.exp(-np.pi * widths_hz / rate_hz) * np.cos(2.0 * np.pi * centres_hz / rate_hz)
    _cascade(out, np.ascontiguousarray(pole_b), np.ascontiguousarray(pole_c), tick_hz / rate_hz)
    return out


@njit(cache=True, nogil=True)
def _cascade(signals: FloatArray, pole_b: FloatArray, pole_c: FloatArray, ticks_per_sample: float) -> None:
    ticks, formants = pole_b.shape
    older = np.zeros((2, formants))
    for s in range(signals.shape[0]):
        older[:] = 0.0
        for n in range(signals.shape[1]):
            tick = min(int(n * ticks_per_sample), ticks - 1)
            value = signals[s, n]
            for k in range(formants):
                b, c = pole_b[tick, k], pole_c[tick, k]
                value = (1.0 - b - c) * value + (b * older[0, k] + c * older[1, k])
                older[1, k] = older[0, k]
                older[0, k] = value
            signals[s, n] = value


def tilt_gain(freqs_hz: FloatArray, tilt_db_per_octave: float, *, from_hz: float = 200.0) -> FloatArray:
    """Return the gain of a straight slope in dB per octave above `from_hz`, same shape as `freqs_hz`."""
    octaves = np.log2(np.maximum(freqs_hz, from_hz) / from_hz)
    return 10.0 ** (tilt_db_per_octave * octaves / 20.0)


def low_gain(freqs_hz: FloatArray, edge_hz: float) -> FloatArray:
    """Return a raised-cosine roll-off that is 1 below 0.88 of `edge_hz` and 0 above it, same shape."""
    start = 0.88 * edge_hz
    slope = np.clip((freqs_hz - start) / (edge_hz - start), 0.0, 1.0)
    return 0.5 + 0.5 * np.cos(math.pi * slope)
