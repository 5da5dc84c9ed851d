import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from otoscope.errors import EvaluationError
from otoscope.explain.spectrogram import RANGE_DB, colour_map, spectrogram, to_png


@pytest.mark.parametrize("rate_hz", [8000, 16000, 24000, 44100])
@pytest.mark.parametrize("tone_hz", [500.0, 1000.0, 3000.0])
def test_a_tone_peaks_at_its_frequency(rate_hz: int, tone_hz: float) -> None:
    wave = np.sin(2 * np.pi * tone_hz * np.arange(rate_hz) / rate_hz)
    shown = spectrogram(wave, rate_hz=rate_hz)
    bands = shown.levels.shape[0]
    peak_hz = shown.levels.mean(axis=1).argmax() * shown.high_hz / (bands - 1)
    assert peak_hz == pytest.approx(tone_hz, abs=shown.high_hz / (bands - 1) / 2 + 1e-6)


def test_a_click_stands_at_its_time() -> None:
    wave = np.zeros(16000)
    wave[12000] = 1.0
    shown = spectrogram(wave, rate_hz=16000)
    frames = shown.levels.shape[1]
    energy = shown.levels.astype(float).sum(axis=0)
    centre_s = (energy * np.arange(frames)).sum() / energy.sum() * 0.008
    assert centre_s == pytest.approx(0.75, abs=0.008)
    assert shown.duration_s == 1.0


def test_loudness_does_not_change_the_picture_and_silence_is_dark() -> None:
    wave = np.random.default_rng(0).normal(size=4000)
    loud, soft = spectrogram(wave, rate_hz=16000), spectrogram(wave / 1000, rate_hz=16000)
    assert np.abs(loud.levels.astype(int) - soft.levels).max() <= 1
    assert not spectrogram(np.zeros(4000), rate_hz=16000).levels.any()


def test_ten_decibels_are_a_seventh_of_the_scale() -> None:
    time_s = np.arange(16000) / 16000
    tones = np.sin(2 * np.pi * 1000 * time_s) + 10 ** (-10 / 20) * np.sin(2 * np.pi * 3000 * time_s)
    levels = spectrogram(tones, rate_hz=16000).levels
    step = int(levels[32, 60]) - int(levels[96, 60])  # bands are 31.25 Hz wide
    assert step == pytest.approx(255 * 10 / RANGE_DB, abs=1)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5000), st.sampled_from([4000, 16000, 192000]))
def test_any_length_and_rate_gives_a_picture(samples: int, rate_hz: int) -> None:
    shown = spectrogram(np.ones(samples, dtype=np.float32), rate_hz=rate_hz)
    assert 0 < shown.high_hz <= min(8000, rate_hz / 2)
    with Image.open(io.BytesIO(to_png(shown.levels))) as picture:
        assert picture.size[0] <= 480
        assert picture.size[1] <= 160


def test_high_frequencies_are_at_the_top_of_the_picture() -> None:
    wave = np.sin(2 * np.pi * 7000 * np.arange(16000) / 16000)
    with Image.open(io.BytesIO(to_png(spectrogram(wave, rate_hz=16000).levels))) as picture:
        grey = np.asarray(picture.convert("L"), dtype=float)
    assert grey.mean(axis=1).argmax() < grey.shape[0] / 4


def test_the_colour_map_rises_evenly_in_lightness() -> None:
    linear = (colour_map() / 255.0) ** 2.2
    lightness = (linear @ [0.2126, 0.7152, 0.0722]) ** (1 / 3)
    assert (np.diff(lightness) > -1e-3).all()
    assert np.diff(lightness).max() < 4 * np.diff(lightness).mean()


@pytest.mark.parametrize("wave", [np.zeros(0), np.array([0.0, np.nan]), np.array([np.inf, 1.0])])
def test_a_sound_without_finite_samples_is_refused(wave: np.ndarray) -> None:
    with pytest.raises(EvaluationError, match="finite samples"):
        spectrogram(wave, rate_hz=16000)
