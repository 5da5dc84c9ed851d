"""Whole clips: what was asked for is in the sound."""

from dataclasses import replace

import numpy as np
import pytest

from otoscope.corpus.synth import (
    PATTERNS,
    TECHNIQUES,
    SynthClip,
    Voice,
    draw_singer,
    draw_singers,
    synthesise,
    synthesise_voice,
)
from otoscope.corpus.synth.melody import pattern_notes
from otoscope.corpus.synth.source import oversampling
from otoscope.corpus.synth.synthesis import note_name
from otoscope.errors import ConfigError

STEADY = Voice(
    tonic_hz=200.0, loudness_db=-20.0, rd=1.0, tilt_db_per_octave=0.0, jitter=0.0, shimmer_db=0.0, aspiration_db=-80.0
)


def clip(voice: Voice = STEADY, *, vowel: str = "a", duration_s: float = 1.5, seed: int = 0) -> SynthClip:
    rng = np.random.default_rng(seed)
    return synthesise_voice(
        draw_singer("female1"), voice, vowel, "long_tones", duration_s=duration_s, rate_hz=16_000, rng=rng
    )


def pitch_by_autocorrelation(wave: np.ndarray, at_s: float, *, rate_hz: int = 16_000, span_s: float = 0.06) -> float:
    """Pitch of one frame, by the peak of the normalised autocorrelation with a parabola through it."""
    half = int(span_s * rate_hz / 2)
    frame = wave[int(at_s * rate_hz) - half : int(at_s * rate_hz) + half].astype(float)
    lags = np.arange(int(rate_hz / 700), int(rate_hz / 70))
    scores = np.array(
        [frame[:-k] @ frame[k:] / np.sqrt((frame[:-k] @ frame[:-k]) * (frame[k:] @ frame[k:])) for k in lags]
    )
    # the first peak nearly as high as the highest: multiples of the period score as well as the period
    best = next(i for i in range(1, len(lags) - 1) if scores[i] > 0.97 * scores.max() and scores[i] >= scores[i + 1])
    before, here, after = scores[best - 1 : best + 2]
    return rate_hz / (lags[best] + 0.5 * (before - after) / (before - 2.0 * here + after))


@pytest.mark.parametrize("tonic_hz", [95.0, 180.0, 330.0])
@pytest.mark.parametrize("vowel", ["a", "i"])
def test_the_sound_has_the_true_pitch_within_one_percent(tonic_hz: float, vowel: str) -> None:
    sung = clip(replace(STEADY, tonic_hz=tonic_hz), vowel=vowel)
    for frame in (50, 75, 100):
        found_hz = pitch_by_autocorrelation(sung.wave, sung.frame_times_s[frame])
        assert found_hz == pytest.approx(sung.f0_hz[frame], rel=0.01)


@pytest.mark.parametrize("rate_hz", [4.5, 6.5])
def test_the_true_pitch_swings_at_the_vibrato_rate_and_extent(rate_hz: float) -> None:
    voice = replace(STEADY, vibrato_rate_hz=rate_hz, vibrato_extent_semitones=0.8)
    track = 12.0 * np.log2(clip(voice, duration_s=4.0).f0_hz[60:380])
    track = track - track.mean()
    spectrum = np.abs(np.fft.rfft(track * np.hanning(len(track)), n=4096))
    assert np.fft.rfftfreq(4096, 0.01)[spectrum.argmax()] == pytest.approx(rate_hz, abs=0.4)
    assert np.ptp(track) / 2.0 == pytest.approx(0.8, abs=0.25)


def test_the_sound_itself_swings_with_the_vibrato() -> None:
    sung = clip(replace(STEADY, vibrato_rate_hz=5.0, vibrato_extent_semitones=1.0))
    frames = range(60, 120, 3)
    found_hz = [pitch_by_autocorrelation(sung.wave, sung.frame_times_s[k], span_s=0.03) for k in frames]
    assert np.corrcoef(found_hz, sung.f0_hz[list(frames)])[0, 1] > 0.97


def test_intervals_of_notes_have_the_true_pitch_and_those_of_the_vibrato_swing() -> None:
    voice = replace(STEADY, vibrato_extent_semitones=0.6, vibrato_rate_hz=6.0, vibrato_onset_s=0.9)
    sung = clip(voice, duration_s=3.0)
    (vibrato,) = (one for one in sung.intervals if one.tier == "vibrato")
    before, after = (12.0 * np.log2(sung.f0_hz[int(100 * a) : int(100 * b)]) for a, b in ((0.3, 0.9), (1.3, 2.7)))
    assert 0.9 < vibrato.start_s < 1.3
    assert vibrato.end_s == 3.0
    assert after.std() > 3 * before.std()
    scale = synthesise(draw_singer("male2"), "straight", "e", "scales", duration_s=3.0)
    assert {one.tier for one in scale.intervals} == {"vowel", "onset", "note"}
    for note in [one for one in scale.intervals if one.tier == "note"]:
        f0_hz = float(scale.f0_hz[int(50 * (note.start_s + note.end_s))])
        assert note.label in {note_name(f0_hz * 2 ** (cents / 1200)) for cents in (-30, 0, 30)}
    assert [one.label for one in scale.intervals if one.tier == "vowel"] == ["e"]


def test_little_energy_lies_between_the_harmonics() -> None:
    # aliases lie there: -33 dB when the pulses are drawn at the rate of the clip, -46 dB at twice, -60 dB at 4 times
    sung = clip(replace(STEADY, tonic_hz=331.0, rd=0.6, instability_semitones=0.0), duration_s=2.0)
    frame = sung.wave[12_000:20_000] * np.blackman(8000)
    power = np.abs(np.fft.rfft(frame)) ** 2
    pitch_hz = sung.f0_hz[75:125].mean()
    ratio = np.fft.rfftfreq(8000, 1 / 16_000) / pitch_hz
    between = np.abs(ratio - np.round(ratio)) > 0.3
    assert 10.0 * np.log10(power[between].sum() / power.sum()) < -55.0
    assert oversampling(16_000) == 4


def test_aspiration_is_the_level_of_noise_against_tone() -> None:
    tone = clip(replace(STEADY, loudness_db=-30.0)).wave.astype(float)
    mixed = clip(replace(STEADY, loudness_db=-30.0, aspiration_db=-10.0)).wave.astype(float)
    share = (mixed @ tone) / (tone @ tone)
    noise = mixed - share * tone
    assert 10.0 * np.log10((noise @ noise) / (share**2 * (tone @ tone))) == pytest.approx(-10.0, abs=0.5)


def test_lips_and_trillo_beat_at_their_rates() -> None:
    for voice, rate_hz in (
        (replace(STEADY, lip_rate_hz=24.0, lip_depth=0.9), 24.0),
        (replace(STEADY, pulse_rate_hz=6.0, pulse_depth=0.9), 6.0),
    ):
        wave = clip(voice, duration_s=3.0).wave.astype(float)
        envelope = np.square(wave).reshape(-1, 80).mean(axis=1)
        spectrum = np.abs(np.fft.rfft((envelope - envelope.mean()) * np.hanning(len(envelope))))
        found_hz = np.fft.rfftfreq(len(envelope), 0.005)[spectrum.argmax()]
        assert found_hz == pytest.approx(rate_hz, rel=0.2)


@pytest.mark.parametrize("technique", sorted(TECHNIQUES))
def test_every_technique_gives_a_clean_clip_with_finite_factors(technique: str) -> None:
    sung = synthesise(draw_singer("male2"), technique, "e", "scales", duration_s=1.0)
    assert sung.wave.dtype == np.float32
    assert sung.wave.shape == (16_000,)
    assert 0.01 < np.abs(sung.wave).max() <= 0.9 + 1e-6
    assert abs(sung.wave.mean()) < 2e-3 * np.abs(sung.wave).max()
    assert np.abs(sung.wave[[0, -1]]).max() < 1e-3
    assert sung.f0_hz.shape == sung.loudness_db.shape == sung.frame_times_s.shape == (100,)
    assert all(isinstance(value, float) and np.isfinite(value) for value in sung.factors.values())
    assert all(isinstance(name, str) for name in sung.factors)


def test_all_clips_have_the_same_factors() -> None:
    names = {tuple(synthesise(draw_singer("male1"), t, "a", "scales", duration_s=0.5).factors) for t in TECHNIQUES}
    assert len(names) == 1


def test_techniques_differ_as_they_should() -> None:
    def median(technique: str, factor: str) -> float:
        return float(
            np.median(
                [
                    synthesise(who, technique, "a", "long_tones", duration_s=0.5).factors[factor]
                    for who in draw_singers(8)
                ]
            )
        )

    assert median("breathy", "aspiration_db") > median("straight", "aspiration_db") + 5.0
    assert median("belt", "f1_hz") > 1.03 * median("straight", "f1_hz")
    assert median("belt", "loudness_db") > median("breathy", "loudness_db") + 5.0
    assert median("vibrato", "vibrato_extent_semitones") > 3.0 * median("straight", "vibrato_extent_semitones")
    assert 25.0 < median("vocal_fry", "f0_mean_hz") < 75.0
    assert median("spoken", "f0_mean_hz") < median("straight", "f0_mean_hz")
    assert median("inhaled", "voiced_share") < 0.95
    assert median("trill", "trill_interval_semitones") > 0.6
    assert 18.0 <= median("lip_trill", "lip_rate_hz") <= 30.0


def test_the_same_seed_sings_the_same_samples_and_another_seed_others() -> None:
    first, again, other = (
        synthesise(draw_singer("female3"), "trill", "o", "arpeggios", duration_s=0.6, seed=s) for s in (4, 4, 5)
    )
    np.testing.assert_array_equal(first.wave, again.wave)
    assert first.factors == again.factors
    assert not np.array_equal(first.wave, other.wave)


@pytest.mark.parametrize("rate_hz", [16_000, 24_000, 44_100])
def test_the_rate_changes_the_sampling_and_not_the_voice(rate_hz: int) -> None:
    reference = synthesise(draw_singer("male1"), "straight", "a", "long_tones", duration_s=0.7)
    sung = synthesise(draw_singer("male1"), "straight", "a", "long_tones", duration_s=0.7, rate_hz=rate_hz)
    assert len(sung.wave) == round(0.7 * rate_hz)
    assert sung.factors["f0_mean_hz"] == pytest.approx(reference.factors["f0_mean_hz"])
    assert sung.factors["f1_hz"] == pytest.approx(reference.factors["f1_hz"])


def test_loudness_is_that_of_the_wave() -> None:
    sung = clip(replace(STEADY, loudness_db=-26.0))
    assert sung.factors["loudness_db"] == pytest.approx(-26.0, abs=0.01)
    frame = sung.wave[int(0.7325 * 16_000) : int(0.7575 * 16_000)].astype(float)
    assert sung.loudness_db[74] == pytest.approx(10.0 * np.log10(np.mean(frame**2)), abs=0.1)


@pytest.mark.parametrize("pattern", sorted(PATTERNS))
def test_patterns_go_up_and_come_back(pattern: str) -> None:
    notes = pattern_notes(pattern, duration_s=10.0)
    assert notes == notes[::-1]
    assert max(notes) == max(PATTERNS[pattern])


def test_singers_differ_and_women_have_shorter_tracts_and_higher_voices() -> None:
    voices = draw_singers(20)
    assert len({v.tract_length_cm for v in voices}) == 20
    women, men = voices[::2], voices[1::2]
    assert max(w.tract_length_cm for w in women) < np.mean([m.tract_length_cm for m in men])
    assert min(w.tonic_high_hz for w in women) > np.mean([m.tonic_low_hz for m in men])


@pytest.mark.parametrize(
    ("arguments", "settings", "told"),
    [
        (("vibratto", "a", "scales"), {}, "did you mean vibrato"),
        (("belt", "y", "scales"), {}, "no vowel 'y'"),
        (("belt", "a", "scale"), {}, "did you mean scales"),
        (("belt", "a", "scales"), {"duration_s": 0.1}, r"duration_s must be in 0\.3\.\.600, got 0\.1"),
        (("belt", "a", "scales"), {"rate_hz": 4000}, "rate_hz must be in"),
    ],
)
def test_unknown_names_and_sizes_are_refused(
    arguments: tuple[str, str, str], settings: dict[str, float], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        synthesise(draw_singer("male1"), *arguments, **settings)


@pytest.mark.parametrize("name", ["soprano1", "female0", "male", "Male1"])
def test_a_singer_needs_a_name_that_says_which_voice(name: str) -> None:
    with pytest.raises(ConfigError, match="use female1, female2"):
        draw_singer(name)
