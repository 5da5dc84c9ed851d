"""Descriptors of frames against sounds whose properties are known."""

import numpy as np
import pytest

from otoscope.corpus.synth.singer import draw_singer
from otoscope.corpus.synth.synthesis import synthesise
from otoscope.encoders.base import Frames, frame_spans
from otoscope.explain.frame_descriptors import (
    BANDS,
    DESCRIPTORS,
    describe_clips,
    describe_frames,
    true_agreement,
    unreliable_descriptors,
    unreliable_functionals,
)

RATE_HZ = 16_000
COLUMN = {name: i for i, name in enumerate(DESCRIPTORS)}


def test_levels_follow_a_tone_that_doubles() -> None:
    time_s = np.arange(RATE_HZ) / RATE_HZ
    wave = 0.1 * np.sin(2 * np.pi * 200 * time_s) * np.where(time_s < 0.5, 1.0, 2.0)
    frames = frame_spans(50, rate_hz=50.0, offset_s=0.01)
    levels = describe_frames(wave.astype(np.float32), frames).values[:, COLUMN["level_db"]]
    assert levels[:25] == pytest.approx(np.full(25, -23.0), abs=0.1)
    assert levels[25:] == pytest.approx(np.full(25, -17.0), abs=0.1)


def sung_formants(noise_hz: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return singers of 40 clips whose mean formants differ by 1000 Hz, true formants and measured ones with noise."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(4), 10)
    true = 1000.0 * groups + 100.0 * rng.normal(size=40)
    return groups, true, true + noise_hz * rng.normal(size=40)


def test_measured_formants_agree_with_true_ones_only_within_groups() -> None:
    groups, true, measured = sung_formants(noise_hz=20.0)
    (r,) = true_agreement({"f1_hz": measured}, {"f1_hz": true}, groups).values()
    assert 0.9 < r < 1
    groups, true, measured = sung_formants(noise_hz=400.0)
    assert np.corrcoef(true, measured)[0, 1] > 0.9  # between singers
    agreement = true_agreement({"f1_hz": measured, "level_db": measured}, {"f1_hz": true}, groups)
    assert set(agreement) == {"f1_hz"}
    assert unreliable_descriptors(agreement) == {"f1_hz"}


def test_agreement_needs_true_values_that_vary_in_enough_clips() -> None:
    groups, true, measured = sung_formants(noise_hz=20.0)
    assert true_agreement({"f1_hz": measured}, {"f2_hz": true}, groups) == {}
    assert true_agreement({"f1_hz": measured}, {"f1_hz": 1000.0 * groups}, groups) == {}
    assert true_agreement({"f1_hz": measured}, {"f1_hz": true}, np.arange(40)) == {}
    few = np.where(np.arange(40) < 10, true, np.nan)
    assert true_agreement({"f1_hz": measured}, {"f1_hz": few}, groups // 4).keys() == {"f1_hz"}
    assert true_agreement({"f1_hz": measured}, {"f1_hz": np.full(40, np.nan)}, groups) == {}


def test_functionals_that_rest_on_an_unreliable_formant_are_named() -> None:
    groups, true, measured = sung_formants(noise_hz=400.0)
    names = ["F3frequency_sma3nz_amean", "F3bandwidth_sma3nz_amean", "logRelF0-H1-A3_sma3nz_amean", "f3_hz", "F3 own"]
    factors = np.stack([measured, true, true, true, true], axis=1)
    found = unreliable_functionals(names, factors, {"f3_hz": true}, groups.astype(str).tolist())
    assert found == set(names[:3])
    assert unreliable_functionals(names, factors, {}, groups.astype(str).tolist()) == set()


def test_spectra_peak_in_the_band_of_a_tone() -> None:
    time_s = np.arange(RATE_HZ) / RATE_HZ
    frames = frame_spans(50, rate_hz=50.0, offset_s=0.01)
    peaks = []
    for frequency_hz in (300, 1000, 3000):
        wave = 0.1 * np.sin(2 * np.pi * frequency_hz * time_s)
        spectra = describe_frames(wave.astype(np.float32), frames).spectra
        assert spectra.shape == (50, BANDS)
        peaks.append(np.unique(spectra[2:-2].argmax(axis=1)).tolist())
    assert [len(one) for one in peaks] == [1, 1, 1]
    assert peaks[0] < peaks[1] < peaks[2]


def test_pitch_follows_the_synthesiser_on_voiced_frames() -> None:
    pytest.importorskip("opensmile")
    clip = synthesise(draw_singer("female1"), "vibrato", "a", "scales", duration_s=3.0)
    frames = frame_spans(150, rate_hz=50.0, offset_s=0.01)
    values = describe_frames(clip.wave, frames).values
    pitch = values[:, COLUMN["f0_semitones"]]
    centre_s = (frames.start_s + frames.end_s) / 2
    truth_hz = np.interp(centre_s, clip.frame_times_s, clip.f0_hz)
    known = np.isfinite(pitch) & (truth_hz > 0)
    assert known.mean() > 0.8
    error = np.abs(pitch[known] - 12 * np.log2(truth_hz[known] / 27.5))
    assert np.median(error) < 0.3
    for name, descriptor in DESCRIPTORS.items():
        if descriptor.voiced:
            assert np.isnan(values[np.isnan(pitch), COLUMN[name]]).all()


@pytest.mark.parametrize("seconds", [0.01, 0.03, 0.3])
def test_short_clips_and_coarse_or_fine_frames_have_levels_and_spectra(seconds: float) -> None:
    wave = np.random.default_rng(0).normal(0, 0.1, round(seconds * RATE_HZ)).astype(np.float32)
    for frames in (
        Frames(np.array([0.0]), np.array([seconds])),
        frame_spans(max(int(seconds * 200), 1), rate_hz=200.0, offset_s=0.0),
        Frames(np.array([0.0, seconds]), np.array([seconds, seconds + 1])),  # beyond the clip
    ):
        described = describe_frames(wave, frames)
        assert np.isfinite(described.values[:, COLUMN["level_db"]]).all()
        assert np.isfinite(described.spectra).all()


def test_describe_clips_keeps_the_order() -> None:
    waves = {f"clip{i}": np.full(8000, 0.01 * (i + 1), dtype=np.float32) for i in range(6)}
    seen: list[int] = []
    described = describe_clips(
        list(waves),
        wave_of=lambda clip: waves[clip],
        frames_of=lambda _: frame_spans(10, rate_hz=20.0, offset_s=0.025),
        on_clip=lambda: seen.append(1),
    )
    levels = [one.values[5, COLUMN["level_db"]] for one in described]
    assert levels == pytest.approx([20 * np.log10(0.01 * (i + 1)) for i in range(6)], abs=0.01)
    assert len(seen) == 6
