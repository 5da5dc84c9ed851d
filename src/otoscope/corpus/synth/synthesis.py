"""Synthesis of one clip with its ground truth."""

import math
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64
from scipy.ndimage import gaussian_filter1d

from otoscope.corpus.synth import melody
from otoscope.corpus.synth.melody import (
    CONTROL_RATE_HZ,
    FloatArray,
    Melody,
    control_trajectories,
    frame_levels_db,
    level_db,
    rms,
    set_loudness,
)
from otoscope.corpus.synth.singer import TECHNIQUES, Singer, Voice, neutral_voice
from otoscope.corpus.synth.source import (
    VOWELS,
    bandwidths_hz,
    breath_noise,
    decimate,
    formants_hz,
    glottal_pulses,
    oversampling,
    resonate,
)
from otoscope.errors import ConfigError, suggest

FRAMES_HZ = 100.0
"""Frame rate of the true pitch and loudness."""

SPEECH = "excerpts"
"""Context of spoken clips in VocalSet; they follow no notes."""

CONSONANT = 0.15
"""Level of a voiceless consonant relative to the tone."""


NOTES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
ONSET_S = 0.05
"""Length of an annotated onset."""
VIBRATO_SEMITONES = 0.3
"""Extent from which a vibrato is annotated: a straight voice wavers by less."""


class SungInterval(NamedTuple):
    """Annotation of a clip: its tier is vowel, note, vibrato or onset."""

    tier: str
    start_s: float
    end_s: float
    label: str


class SynthClip(NamedTuple):
    """A clip and its ground truth; frame i is centred at `(i + 1/2) / 100` s, `f0_hz` is 0 where unvoiced."""

    wave: Float32[np.ndarray, " samples"]
    rate_hz: int
    factors: dict[str, float]
    f0_hz: Float64[np.ndarray, " frames"]
    loudness_db: Float64[np.ndarray, " frames"]
    frame_times_s: Float64[np.ndarray, " frames"]
    intervals: list[SungInterval]


def synthesise(
    who: Singer,
    technique: str,
    vowel: str,
    pattern: str,
    *,
    duration_s: float = 2.0,
    rate_hz: int = 16_000,
    seed: int = 0,
) -> SynthClip:
    """Synthesise one clip; the same arguments give the same samples.

    Spoken clips ignore the pattern, and every second syllable has the given vowel.

    >>> from otoscope.corpus.synth.singer import draw_singer
    >>> clip = synthesise(draw_singer("male1"), "vibrato", "a", "long_tones", duration_s=1.0)
    >>> clip.wave.shape, clip.f0_hz.shape
    ((16000,), (100,))
    """
    if technique not in TECHNIQUES:
        raise ConfigError(f"no technique {technique!r}; {suggest(technique, TECHNIQUES)}")
    name = f"{who.name}/{technique}/{vowel}/{pattern}"
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    degree = who.skill * float(rng.uniform(0.55, 1.0))
    voice = TECHNIQUES[technique](neutral_voice(who, rng), who, degree, rng)
    score = SPEECH if technique == "spoken" else pattern
    return synthesise_voice(who, voice, vowel, score, duration_s=duration_s, rate_hz=rate_hz, rng=rng)


def synthesise_voice(
    who: Singer,
    voice: Voice,
    vowel: str,
    pattern: str,
    *,
    duration_s: float,
    rate_hz: int,
    rng: np.random.Generator,
) -> SynthClip:
    """Synthesise a clip with given voice settings: glottal pulses and breath noise, filtered by the tract."""
    _check(vowel, duration_s=duration_s, rate_hz=rate_hz)
    if pattern == SPEECH:
        score = melody.spoken_melody(duration_s=duration_s, rng=rng)
    else:
        score = melody.sung_melody(pattern, duration_s=duration_s, rng=rng)
    tracks = control_trajectories(voice, score, rng)
    centres_hz, vowels = formant_trajectories(
        who, voice, vowel, score, tracks.f0_hz, up_to_hz=0.46 * rate_hz, mixed=pattern == SPEECH, rng=rng
    )
    widths_hz = bandwidths_hz(centres_hz, damping=voice.damping)

    samples = round(duration_s * rate_hz)
    times = oversampling(rate_hz)
    source = glottal_pulses(voice, tracks, rate_hz=float(times * rate_hz), rng=rng)
    pulses = decimate(source.pulses, voice, who, samples=samples, times=times, rate_hz=rate_hz)
    air, hiss = breath_noise(tracks, source, samples=samples, times=times, rate_hz=rate_hz, rng=rng)
    tone, air = resonate(
        np.stack([pulses, air]), centres_hz, widths_hz, rate_hz=float(rate_hz), tick_hz=CONTROL_RATE_HZ
    )
    air *= rms(tone) * 10.0 ** (voice.aspiration_db / 20.0) / max(rms(air), 1e-12)
    wave = set_loudness(tone + air + CONSONANT * rms(tone) * hiss, loudness_db=voice.loudness_db, rate_hz=rate_hz)

    frame_times_s = (np.arange(int(duration_s * FRAMES_HZ), dtype=np.float64) + 0.5) / FRAMES_HZ
    ticks = np.minimum((frame_times_s * CONTROL_RATE_HZ).astype(np.int64), len(tracks.f0_hz) - 1)
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
    intervals = sung_intervals(voice, score, vowels, sung=pattern != SPEECH)
    return SynthClip(wave, rate_hz, factors, f0_hz, levels_db, frame_times_s, intervals)


def sung_intervals(voice: Voice, score: Melody, vowels: Sequence[str], *, sung: bool) -> list[SungInterval]:
    """Return what is sung when: vowel and onset of every syllable or note, the names of notes, and the vibrato.

    A sung clip is one vowel. A spoken vowel begins after its voiceless consonant, a vibrato at half of its extent.
    """
    end_s = len(score.part) / CONTROL_RATE_HZ
    found = [SungInterval("vowel", 0.0, end_s, vowels[0])] if sung else []
    for part, vowel in enumerate(vowels):
        ticks = np.flatnonzero(score.part == part)
        start_s, stop_s = ticks[0] / CONTROL_RATE_HZ, (ticks[-1] + 1) / CONTROL_RATE_HZ
        found.append(SungInterval("onset", start_s, min(start_s + ONSET_S, end_s), "onset"))
        if sung:
            semitones = voice.melody_share * float(np.median(score.semitones[ticks]))
            found.append(SungInterval("note", start_s, stop_s, note_name(voice.tonic_hz * 2.0 ** (semitones / 12.0))))
        else:
            voiced_s = ticks[score.voiced[ticks].argmax()] / CONTROL_RATE_HZ
            found.append(SungInterval("vowel", voiced_s, stop_s, vowel))
    full_s = voice.vibrato_onset_s + melody.VIBRATO_RISE_S / 2
    if sung and voice.vibrato_extent_semitones >= VIBRATO_SEMITONES and full_s < end_s:
        found.append(SungInterval("vibrato", full_s, end_s, "vibrato"))
    return found


def note_name(f0_hz: float) -> str:
    """Return the nearest note of equal temperament.

    >>> note_name(440.0), note_name(262.0)
    ('A4', 'C4')
    """
    octave, step = divmod(round(12 * math.log2(f0_hz / 440.0)) + 57, 12)
    return f"{NOTES[step]}{octave}"


def formant_trajectories(
    who: Singer,
    voice: Voice,
    vowel: str,
    score: Melody,
    f0_hz: FloatArray,
    *,
    up_to_hz: float,
    mixed: bool,
    rng: np.random.Generator,
) -> tuple[Float64[np.ndarray, "ticks formants"], list[str]]:
    """Return the formants over time, and the vowel of each part of the score.

    F1 stays above the pitch, as singers tune it (Sundberg 1975).
    """
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
        centres = gaussian_filter1d(table[chosen[score.part]], 0.022 * CONTROL_RATE_HZ, axis=0, mode="nearest")
    else:
        centres = table[chosen[score.part]].copy()
    centres[:, 0] = np.maximum(centres[:, 0], 1.04 * f0_hz)
    centres[:, 1] = np.maximum(centres[:, 1], centres[:, 0] + 150.0)
    return centres, [names[i] for i in chosen]


def pitch_factors(f0_hz: FloatArray) -> dict[str, float]:
    """Return the factors of a pitch track: mean in Hz, spread in semitones, voiced share."""
    voiced = f0_hz[f0_hz > 0.0]
    semitones = 12.0 * np.log2(voiced)
    return {
        "f0_mean_hz": float(voiced.mean()) if len(voiced) else 0.0,
        "f0_std_semitones": float(semitones.std()) if len(voiced) else 0.0,
        "voiced_share": len(voiced) / max(len(f0_hz), 1),
    }


def voice_factors(voice: Voice) -> dict[str, float]:
    """Return the voice settings that are factors; a rate is 0 if its modulation has no depth."""
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
        raise ConfigError(f"rate_hz must be in 8000..96000, got {rate_hz}")
    if not 0.3 <= duration_s <= 600.0:
        raise ConfigError(f"duration_s must be in 0.3..600, got {duration_s}")
