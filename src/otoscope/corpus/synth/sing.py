"""One clip of singing, with everything that is true of it."""

import math
import zlib
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Float64
from scipy.ndimage import gaussian_filter1d
from scipy.signal import lfilter

from otoscope.corpus.synth import melody
from otoscope.corpus.synth.controls import Controls, controls
from otoscope.corpus.synth.glottis import Source, glottal_source
from otoscope.corpus.synth.melody import TICK_HZ, Melody
from otoscope.corpus.synth.singer import Singer
from otoscope.corpus.synth.techniques import TECHNIQUES, plain
from otoscope.corpus.synth.voice import Voice
from otoscope.corpus.synth.vowels import VOWELS, bandwidths_hz, formants_hz, low_gain, resonate, tilt_gain
from otoscope.errors import ConfigError, suggest

FRAMES_HZ = 100.0
"""Rate of the true pitch and loudness tracks."""

SPEECH = "excerpts"
"""The context of spoken clips, as VocalSet calls it: they follow no notes."""

PEAK = 0.9
CONSONANT = 0.15
"""Level of a voiceless consonant against the tone."""

LOWEST_DB = -100.0
OVERSAMPLED_HZ = 64_000
BREATH_EDGE_HZ = 2_000.0
"""Above this the breath noise falls by 6 dB per octave."""

Track = np.ndarray[Any, np.dtype[np.float64]]


class Performance(NamedTuple):
    """A clip and its ground truth; frame i is centred on `(i + 1/2) / 100` s, `f0_hz` is 0 without voice."""

    wave: Float32[np.ndarray, " samples"]
    rate_hz: int
    factors: dict[str, float]
    f0_hz: Float64[np.ndarray, " frames"]
    loudness_db: Float64[np.ndarray, " frames"]
    frame_times_s: Float64[np.ndarray, " frames"]


def sing(
    who: Singer,
    technique: str,
    vowel: str,
    pattern: str,
    *,
    duration_s: float = 2.0,
    rate_hz: int = 16_000,
    seed: int = 0,
) -> Performance:
    """Sing one clip; the same arguments give the same samples.

    Spoken clips follow no notes: their pattern is not used, and every second syllable has the asked vowel.

    >>> from otoscope.corpus.synth.singer import singer
    >>> clip = sing(singer("male1"), "vibrato", "a", "long_tones", duration_s=1.0)
    >>> clip.wave.shape, clip.f0_hz.shape
    ((16000,), (100,))
    """
    if technique not in TECHNIQUES:
        raise ConfigError(f"no technique {technique!r}; {suggest(technique, TECHNIQUES)}")
    name = f"{who.name}/{technique}/{vowel}/{pattern}"
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    degree = who.skill * float(rng.uniform(0.55, 1.0))
    voice = TECHNIQUES[technique](plain(who, rng), who, degree, rng)
    score = SPEECH if technique == "spoken" else pattern
    return perform(who, voice, vowel, score, duration_s=duration_s, rate_hz=rate_hz, rng=rng)


def perform(
    who: Singer,
    voice: Voice,
    vowel: str,
    pattern: str,
    *,
    duration_s: float,
    rate_hz: int,
    rng: np.random.Generator,
) -> Performance:
    """Sing with given settings of the voice: glottal pulses and breath through a tract, as loud as asked."""
    _check(vowel, duration_s=duration_s, rate_hz=rate_hz)
    if pattern == SPEECH:
        score = melody.spoken(duration_s=duration_s, rng=rng)
    else:
        score = melody.sung(pattern, duration_s=duration_s, rng=rng)
    tracks = controls(voice, score, rng)
    centres_hz = tract(
        who, voice, vowel, score, tracks.f0_hz, up_to_hz=0.46 * rate_hz, mixed=pattern == SPEECH, rng=rng
    )
    widths_hz = bandwidths_hz(centres_hz, damping=voice.damping)

    samples = round(duration_s * rate_hz)
    times = oversampling(rate_hz)
    source = vibrate(voice, tracks, rate_hz=float(times * rate_hz), rng=rng)
    pulses = decimate(source.pulses, voice, who, samples=samples, times=times, rate_hz=rate_hz)
    air, hiss = breath(tracks, source, samples=samples, times=times, rate_hz=rate_hz, rng=rng)
    tone, air = resonate(np.stack([pulses, air]), centres_hz, widths_hz, rate_hz=float(rate_hz), tick_hz=TICK_HZ)
    air *= rms(tone) * 10.0 ** (voice.aspiration_db / 20.0) / max(rms(air), 1e-12)
    wave = master(tone + air + CONSONANT * rms(tone) * hiss, loudness_db=voice.loudness_db, rate_hz=rate_hz)

    frame_times_s = (np.arange(int(duration_s * FRAMES_HZ), dtype=np.float64) + 0.5) / FRAMES_HZ
    ticks = np.minimum((frame_times_s * TICK_HZ).astype(np.int64), len(tracks.f0_hz) - 1)
    voiced = tracks.gain[ticks] > 0.03 * tracks.gain.max(initial=1e-9)
    f0_hz = np.where(voiced, tracks.f0_hz[ticks], 0.0)
    levels_db = frame_levels_db(wave, frame_times_s, rate_hz=rate_hz)
    factors = {
        **pitch_factors(f0_hz),
        **voice_factors(voice),
        **{f"f{k + 1}_hz": float(mean) for k, mean in enumerate(centres_hz[ticks[voiced], :4].mean(axis=0))},
        "tract_length_cm": who.tract_length_cm,
        "notes_per_s": float(score.part[-1] + 1) / duration_s,
        "loudness_db": level_db(wave),
    }
    return Performance(wave, rate_hz, factors, f0_hz, levels_db, frame_times_s)


def tract(
    who: Singer,
    voice: Voice,
    vowel: str,
    score: Melody,
    f0_hz: Track,
    *,
    up_to_hz: float,
    mixed: bool,
    rng: np.random.Generator,
) -> Float64[np.ndarray, "ticks formants"]:
    """Return the formants over time; F1 is kept above the pitch, as singers do (Sundberg 1975)."""
    names = list(VOWELS)
    length_cm = who.tract_length_cm / voice.formant_shift
    shapes = [formants_hz(v, tract_length_cm=length_cm, up_to_hz=up_to_hz) for v in names]
    count = min(len(shape) for shape in shapes)
    own = np.ones(count)
    own[:3] = np.array(who.accent) * np.array([voice.jaw, 1.0, 1.0]) * rng.normal(1.0, 0.025, 3)
    table = np.stack([shape[:count] for shape in shapes]) * own
    table[:, 1] = np.maximum(table[:, 1], table[:, 0] + 180.0)
    parts = int(score.part[-1]) + 1
    chosen = np.full(parts, names.index(vowel))
    if mixed:
        chosen[1::2] = rng.integers(0, len(names), parts)[1::2]
        centres = gaussian_filter1d(table[chosen[score.part]], 0.022 * TICK_HZ, axis=0, mode="nearest")
    else:
        centres = table[chosen[score.part]].copy()
    centres[:, 0] = np.maximum(centres[:, 0], 1.04 * f0_hz)
    centres[:, 1] = np.maximum(centres[:, 1], centres[:, 0] + 150.0)
    return centres


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
    soft = np.asarray(lfilter([1.0 - pole], [1.0, -pole], white), dtype=np.float64)
    at = np.arange(samples) * (TICK_HZ / rate_hz)
    clock = np.arange(len(tracks.air))
    air = soft * np.interp(at, clock, tracks.air) * (0.4 + 0.6 * source.openness[::times][:samples])
    hiss = white * np.interp(at, clock, tracks.burst) if tracks.burst.any() else np.zeros(samples)
    return Breath(air, hiss)


def master(wave: Track, *, loudness_db: float, rate_hz: int) -> Float32[np.ndarray, " samples"]:
    """Bring a wave to its level in dB of full scale, or to a peak of 0.9, whichever is softer; fade its ends."""
    edge = min(round(0.008 * rate_hz), len(wave) // 2)
    fade = 0.5 - 0.5 * np.cos(np.pi * (np.arange(edge) + 0.5) / edge)
    wave = wave - wave.mean()
    wave[:edge] *= fade
    wave[len(wave) - edge :] *= fade[::-1]
    scale = 10.0 ** (loudness_db / 20.0) / max(rms(wave), 1e-12)
    return (wave * min(scale, PEAK / max(float(np.abs(wave).max()), 1e-12))).astype(np.float32)


def rms(wave: np.ndarray[Any, Any]) -> float:
    """Return the root of the mean square."""
    return math.sqrt(float(np.mean(np.square(wave, dtype=np.float64))))


def level_db(wave: np.ndarray[Any, Any]) -> float:
    """Return the level in dB of full scale, not below -100."""
    return max(20.0 * math.log10(max(rms(wave), 1e-12)), LOWEST_DB)


def frame_levels_db(wave: np.ndarray[Any, Any], times_s: Track, *, rate_hz: int) -> Track:
    """Return the level of the 25 ms around each time, in dB of full scale, not below -100."""
    energy = np.concatenate([[0.0], np.cumsum(np.square(wave, dtype=np.float64))])
    half = 0.0125
    first = np.clip(np.round((times_s - half) * rate_hz), 0, len(wave)).astype(np.int64)
    last = np.clip(np.round((times_s + half) * rate_hz), 0, len(wave)).astype(np.int64)
    mean = (energy[last] - energy[first]) / np.maximum(last - first, 1)
    return np.maximum(10.0 * np.log10(np.maximum(mean, 1e-12)), LOWEST_DB)


def pitch_factors(f0_hz: Track) -> dict[str, float]:
    """Summarise a pitch track: mean in Hz, spread in semitones, share of frames with voice."""
    voiced = f0_hz[f0_hz > 0.0]
    semitones = 12.0 * np.log2(voiced)
    return {
        "f0_mean_hz": float(voiced.mean()) if len(voiced) else 0.0,
        "f0_std_semitones": float(semitones.std()) if len(voiced) else 0.0,
        "voiced_share": len(voiced) / max(len(f0_hz), 1),
    }


def voice_factors(voice: Voice) -> dict[str, float]:
    """Return the settings that are factors; a rate is 0 where its motion has no depth."""
    return {
        "vibrato_rate_hz": voice.vibrato_rate_hz if voice.vibrato_extent_semitones > 0.0 else 0.0,
        "vibrato_extent_semitones": voice.vibrato_extent_semitones,
        "trill_rate_hz": voice.trill_rate_hz,
        "trill_interval_semitones": voice.trill_interval_semitones,
        "pulse_rate_hz": voice.pulse_rate_hz,
        "pulse_depth": voice.pulse_depth,
        "lip_rate_hz": voice.lip_rate_hz,
        "lip_depth": voice.lip_depth,
        "rd": voice.rd,
        "tilt_db_per_octave": voice.tilt_db_per_octave,
        "jitter": voice.jitter,
        "shimmer_db": voice.shimmer_db,
        "subharmonics": voice.subharmonics,
        "aspiration_db": voice.aspiration_db,
        "ring_db": voice.ring_db,
    }


def _check(vowel: str, *, duration_s: float, rate_hz: int) -> None:
    if vowel not in VOWELS:
        raise ConfigError(f"no vowel {vowel!r}; {suggest(vowel, VOWELS)}")
    if not 8_000 <= rate_hz <= 96_000:
        raise ConfigError(f"rate_hz must lie in 8000..96000, got {rate_hz}")
    if not 0.3 <= duration_s <= 600.0:
        raise ConfigError(f"duration_s must lie in 0.3..600, got {duration_s}")
