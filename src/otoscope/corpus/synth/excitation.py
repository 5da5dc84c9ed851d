"""What enters the tract: pulses with their slope, and breath, at the rate of the clip."""

import math
from typing import NamedTuple

import numpy as np
from scipy.signal import lfilter

from otoscope.corpus.synth.controls import Controls
from otoscope.corpus.synth.glottis import Source, Track, glottal_source
from otoscope.corpus.synth.melody import TICK_HZ
from otoscope.corpus.synth.singer import Singer
from otoscope.corpus.synth.voice import Voice
from otoscope.corpus.synth.vowels import low_gain, tilt_gain

OVERSAMPLED_HZ = 64_000

BREATH_EDGE_HZ = 1_000.0
"""About this lies most of the breath noise: it rises by 6 dB per octave below, falls by 12 above."""


def oversampling(rate_hz: int) -> int:
    """Return how many times faster than `rate_hz` the pulses are drawn, so that their overtones do not fold."""
    return max(math.ceil(OVERSAMPLED_HZ / rate_hz), 2)


def vibrate(voice: Voice, tracks: Controls, *, rate_hz: float, rng: np.random.Generator) -> Source:
    """Pulse the glottis; on the air that comes in, the pulse runs backwards."""
    step = -1 if voice.ingressive else 1
    source = glottal_source(
        f0_hz=np.ascontiguousarray(np.where(tracks.gain > 0.0, tracks.f0_hz, 0.0)[::step]),
        gain=np.ascontiguousarray(tracks.gain[::step]),
        rd=np.ascontiguousarray(tracks.rd[::step]),
        tick_hz=TICK_HZ,
        rate_hz=rate_hz,
        jitter=voice.jitter,
        shimmer_db=voice.shimmer_db,
        subharmonics=voice.subharmonics,
        open_share=voice.open_share,
        rng=rng,
    )
    return Source(source.pulses[::step], source.openness[::step], source.instants_s)


def decimate(pulses: Track, voice: Voice, who: Singer, *, samples: int, times: int, rate_hz: int) -> Track:
    """Give the pulses their slope and the singer's formant, and bring them to `rate_hz`; shape [samples].

    All in one pass through the spectrum: the slope, a bell of `ring_db` near 3 kHz, a high-pass at 25 Hz, and
    the cut above the new Nyquist frequency.
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
    length = least + least % 2
    while True:
        rest = length
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return length
        length += 2


class Breath(NamedTuple):
    """Noise of the glottis, still to pass the tract, and of consonants, made at teeth and lips."""

    air: Track
    hiss: Track


def breath(
    tracks: Controls, source: Source, *, samples: int, times: int, rate_hz: int, rng: np.random.Generator
) -> Breath:
    """Return noise that follows the control tracks, that of the glottis louder while it is open; shape [samples]."""
    white = rng.standard_normal(samples)
    pole = math.exp(-2.0 * math.pi * BREATH_EDGE_HZ / rate_hz)
    soft = np.asarray(lfilter([1.0, -1.0], np.poly([pole] * 3), white), dtype=np.float64)
    at = np.arange(samples) * (TICK_HZ / rate_hz)
    clock = np.arange(len(tracks.air))
    air = soft * np.interp(at, clock, tracks.air) * (0.4 + 0.6 * source.openness[::times][:samples])
    hiss = white * np.interp(at, clock, tracks.burst) if tracks.burst.any() else np.zeros(samples)
    return Breath(air, hiss)
