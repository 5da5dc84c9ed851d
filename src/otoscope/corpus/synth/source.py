"""Source and filter of the voice: glottal pulses and breath noise, and the resonators of the vocal tract.

The source has Liljencrants-Fant pulses with jitter, shimmer and subharmonics; the tract has the formants of vowels for
its length.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64
from numba import njit
from scipy.fft import next_fast_len
from scipy.optimize import root_scalar
from scipy.signal import lfilter

from otoscope.corpus.synth.melody import CONTROL_RATE_HZ, FloatArray, Trajectories
from otoscope.corpus.synth.singer import Singer, Voice

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


RD_RANGE = (0.35, 2.7)
"""Range of Rd that Fant's regressions cover: pressed to breathy."""

LF_ENTRIES = 96


class LFShape(NamedTuple):
    """One period of the LF model on the unit interval: instants and growth rates.

    `peak` is the instant of the largest flow, `closure` that of its most negative derivative; `growth` and `decay` are
    the exponents of the open and the return phase, `return_s` is the time constant of the return phase.
    """

    peak: float
    closure: float
    growth: float
    decay: float
    return_s: float


def lf_shape(rd: float) -> LFShape:
    """Solve the LF model for one Rd (Fant 1995, "The LF-model revisited", STL-QPSR 36(2-3), equations 2-5).

    `growth` makes the net flow of the period zero, `decay` makes the return phase end at zero.
    """
    return_s = (-1.0 + 4.8 * rd) / 100.0
    skew = (22.4 + 11.8 * rd) / 100.0
    peak = 2.0 * (0.11 * rd / (0.5 + 1.2 * skew) - return_s) / skew
    closure = peak * (1.0 + skew)
    rest = 1.0 - closure
    decay = _root(lambda e: e * return_s - 1.0 + math.exp(-e * rest), 1e-3 / rest, 2.0 / return_s)
    angular = math.pi / peak
    # area of the return phase, then of the open phase scaled to -1 at closure
    back = math.exp(-decay * rest)
    return_area = -((1.0 - back) / decay - rest * back) / (decay * return_s)

    def net_flow(growth: float) -> float:
        sine, cosine = math.sin(angular * closure), math.cos(angular * closure)
        rise = math.exp(-growth * closure)
        area = (growth * sine - angular * cosine + angular * rise) / (growth**2 + angular**2)
        return -area / sine + return_area

    growth = _root(net_flow, -50.0, 500.0)
    return LFShape(peak, closure, growth, decay, return_s)


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    return float(root_scalar(function, bracket=(low, high), method="brentq").root)


@lru_cache(maxsize=1)
def lf_table() -> FloatArray:
    """Return the LF shapes of `LF_ENTRIES` evenly spaced Rd, shape [LF_ENTRIES, 5]."""
    return np.array([lf_shape(rd) for rd in np.linspace(*RD_RANGE, LF_ENTRIES)])


class GlottalSource(NamedTuple):
    """Glottal pulses [oversampled samples], openness 0..1 and the pulse instants in seconds."""

    pulses: FloatArray
    openness: FloatArray
    instants_s: FloatArray


def glottal_source(
    *,
    f0_hz: Float64[np.ndarray, " ticks"],
    gain: Float64[np.ndarray, " ticks"],
    rd: Float64[np.ndarray, " ticks"],
    tick_hz: float,
    rate_hz: float,
    jitter: float,
    shimmer_db: float,
    subharmonics: float,
    open_share: float,
    rng: np.random.Generator,
) -> GlottalSource:
    """Synthesise glottal pulses from control signals: the derivative of the flow, peak -1 at gain 1.

    `jitter` is the mean absolute difference of neighbouring periods over their mean, `shimmer_db` the mean
    absolute difference of neighbouring peaks in dB. For independent Gaussian deviations of spread `s` that
    mean is `2 s / sqrt(pi)`. `subharmonics` (0..1) weakens and delays every second pulse. `open_share` compresses
    the pulse into a part of its period, as in fry. There are no pulses where `f0_hz` is 0.
    """
    spread = math.sqrt(math.pi) / 2.0
    ceiling = int(len(f0_hz) / tick_hz * max(float(f0_hz.max(initial=0.0)), 1.0) * 1.6) + 16
    deviations = rng.standard_normal((ceiling, 2)).clip(-2.5, 2.5)
    deviations *= np.array([jitter * spread, shimmer_db * spread * math.log(10.0) / 20.0])
    samples = round(len(f0_hz) / tick_hz * rate_hz)
    pulses, openness, instants = np.zeros(samples), np.zeros(samples), np.zeros(ceiling)
    count = _pulse(
        pulses, openness, instants, f0_hz, gain, rd, deviations, lf_table(), tick_hz, rate_hz, subharmonics, open_share
    )
    return GlottalSource(pulses, openness, instants[:count].copy())


@njit(cache=True, nogil=True)
def _pulse(
    pulses: FloatArray,
    openness: FloatArray,
    instants: FloatArray,
    f0_hz: FloatArray,
    gain: FloatArray,
    rd: FloatArray,
    deviations: FloatArray,
    table: FloatArray,
    tick_hz: float,
    rate_hz: float,
    subharmonics: float,
    open_share: float,
) -> int:
    low, high = RD_RANGE
    samples, count, time_s = len(pulses), 0, 0.0
    end_s = samples / rate_hz
    while time_s < end_s and count < len(deviations):
        tick = min(int(time_s * tick_hz), len(f0_hz) - 1)
        if f0_hz[tick] <= 0.0:
            time_s += 1.0 / tick_hz
            continue
        odd = count % 2
        # every second pulse is late and weak: energy at half the pitch
        period_s = (1.0 + deviations[count, 0] + 0.1 * subharmonics * (1 - 2 * odd)) / f0_hz[tick]
        peak = gain[tick] * math.exp(deviations[count, 1]) * (1.0 - 0.7 * subharmonics * odd)
        place = (min(max(rd[tick], low), high) - low) / (high - low) * (len(table) - 1)
        row = min(int(place), len(table) - 2)
        weight = place - row
        tp = table[row, 0] + weight * (table[row + 1, 0] - table[row, 0])
        te = table[row, 1] + weight * (table[row + 1, 1] - table[row, 1])
        growth = table[row, 2] + weight * (table[row + 1, 2] - table[row, 2])
        decay = table[row, 3] + weight * (table[row + 1, 3] - table[row, 3])
        angular = math.pi / tp
        scale = -1.0 / math.sin(angular * te)
        back = math.exp(-decay * (1.0 - te))
        length_s = period_s * open_share
        step = 1.0 / (length_s * rate_hz)
        first = math.ceil(time_s * rate_hz)
        last = min(math.ceil((time_s + length_s) * rate_hz), samples)
        phase = first * step - time_s / length_s
        for i in range(first, last):
            if phase <= te:
                pulses[i] += peak * scale * math.exp(growth * (phase - te)) * math.sin(angular * phase)
                openness[i] = 0.5 - 0.5 * math.cos(2.0 * math.pi * phase / te)
            else:
                pulses[i] -= peak * (math.exp(-decay * (phase - te)) - back) / (1.0 - back)
            phase += step
        instants[count] = time_s
        count += 1
        time_s += period_s
    return count


OVERSAMPLED_HZ = 64_000

BREATH_EDGE_HZ = 1_000.0
"""Centre of the breath noise: it rises by 6 dB per octave below and falls by 12 above."""


def oversampling(rate_hz: int) -> int:
    """Return the oversampling factor of the pulses at which their overtones do not alias."""
    return max(math.ceil(OVERSAMPLED_HZ / rate_hz), 2)


def glottal_pulses(voice: Voice, tracks: Trajectories, *, rate_hz: float, rng: np.random.Generator) -> GlottalSource:
    """Synthesise the pulses of a voice; ingressive voice has time-reversed pulses."""
    step = -1 if voice.ingressive else 1
    source = glottal_source(
        f0_hz=np.ascontiguousarray(np.where(tracks.gain > 0.0, tracks.f0_hz, 0.0)[::step]),
        gain=np.ascontiguousarray(tracks.gain[::step]),
        rd=np.ascontiguousarray(tracks.rd[::step]),
        tick_hz=CONTROL_RATE_HZ,
        rate_hz=rate_hz,
        jitter=voice.jitter,
        shimmer_db=voice.shimmer_db,
        subharmonics=voice.subharmonics,
        open_share=voice.open_share,
        rng=rng,
    )
    return GlottalSource(source.pulses[::step], source.openness[::step], source.instants_s)


def decimate(pulses: FloatArray, voice: Voice, who: Singer, *, samples: int, times: int, rate_hz: int) -> FloatArray:
    """Apply the spectral tilt and the singer's formant, and decimate to `rate_hz`; shape [samples].

    One multiplication in the spectrum: the tilt, a peak of `ring_db` near 3 kHz, a high-pass at 25 Hz, and the cut
    above the new Nyquist frequency.
    """
    length = smooth_length(samples + rate_hz // 20)
    spectrum = np.fft.rfft(pulses, n=length * times)[: length // 2 + 1]
    freqs_hz = np.arange(length // 2 + 1, dtype=np.float64) * (rate_hz / length)
    bell_hz = 2900.0 * math.sqrt(17.0 / who.tract_length_cm)
    bell = voice.ring_db * np.exp(-0.5 * (np.log2(np.maximum(freqs_hz, 1.0) / bell_hz) / 0.22) ** 2)
    gain = tilt_gain(freqs_hz, voice.tilt_db_per_octave) * 10.0 ** (bell / 20.0)
    gain *= low_gain(freqs_hz, rate_hz / 2.0) * freqs_hz**2 / (freqs_hz**2 + 25.0**2)
    return np.fft.irfft(spectrum * gain, n=length)[:samples] / times


def smooth_length(least: int) -> int:
    """Return the next even length without a prime factor above 5, for which the FFT is fast.

    >>> smooth_length(32_800)
    33750
    """
    half: Any = next_fast_len((least + 1) // 2, real=True)  # SciPy states no type
    return 2 * int(half)


class BreathNoise(NamedTuple):
    """Noise of the glottis, which is filtered by the tract, and of consonants, which is not."""

    air: FloatArray
    hiss: FloatArray


def breath_noise(
    tracks: Trajectories, source: GlottalSource, *, samples: int, times: int, rate_hz: int, rng: np.random.Generator
) -> BreathNoise:
    """Return noise at the levels of the control signals; glottal noise follows the openness; shape [samples]."""
    white = rng.standard_normal(samples)
    pole = math.exp(-2.0 * math.pi * BREATH_EDGE_HZ / rate_hz)
    soft = np.asarray(lfilter([1.0, -1.0], np.poly([pole] * 3), white), dtype=np.float64)
    at = np.arange(samples) * (CONTROL_RATE_HZ / rate_hz)
    clock = np.arange(len(tracks.air))
    air = soft * np.interp(at, clock, tracks.air) * (0.4 + 0.6 * source.openness[::times][:samples])
    hiss = white * np.interp(at, clock, tracks.burst) if tracks.burst.any() else np.zeros(samples)
    return BreathNoise(air, hiss)
