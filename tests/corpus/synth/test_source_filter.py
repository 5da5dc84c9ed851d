"""The tract against textbook acoustics."""

import numpy as np
import pytest
from scipy.signal import find_peaks

from otoscope.corpus.synth.source import VOWELS, bandwidths_hz, formants_hz, resonate, tilt_gain

RATE_HZ = 16_000.0


def impulse_response_db(centres_hz: np.ndarray) -> np.ndarray:
    impulse = np.zeros((1, 16_000))
    impulse[0, 0] = 1.0
    tracks = np.tile(centres_hz, (1000, 1))
    answer = resonate(impulse, tracks, bandwidths_hz(tracks), rate_hz=RATE_HZ, tick_hz=1000.0)
    return 20.0 * np.log10(np.abs(np.fft.rfft(answer[0])) + 1e-12)


@pytest.mark.parametrize("vowel", sorted(VOWELS))
@pytest.mark.parametrize("tract_length_cm", [14.0, 17.5])
def test_an_impulse_through_the_tract_peaks_at_the_formants(vowel: str, tract_length_cm: float) -> None:
    centres_hz = formants_hz(vowel, tract_length_cm=tract_length_cm, up_to_hz=7300.0)
    peaks_hz, _ = find_peaks(impulse_response_db(centres_hz))
    nearest = np.array([peaks_hz[np.abs(peaks_hz - f).argmin()] for f in centres_hz[:3]])
    np.testing.assert_allclose(nearest, centres_hz[:3], rtol=0.03)


def test_the_cascade_has_gain_one_at_zero_frequency() -> None:
    assert impulse_response_db(formants_hz("o", tract_length_cm=16.0, up_to_hz=7300.0))[0] == pytest.approx(
        0.0, abs=1e-6
    )


def test_formants_scale_with_the_inverse_of_the_tract_length() -> None:
    long = formants_hz("i", tract_length_cm=17.0, up_to_hz=5000.0)
    short = formants_hz("i", tract_length_cm=14.0, up_to_hz=5000.0)
    np.testing.assert_allclose(short[:3] / long[:3], 17.0 / 14.0)


def test_a_higher_sampling_rate_adds_formants_and_moves_none() -> None:
    narrow = formants_hz("e", tract_length_cm=15.0, up_to_hz=7300.0)
    wide = formants_hz("e", tract_length_cm=15.0, up_to_hz=20_000.0)
    np.testing.assert_array_equal(wide[: len(narrow)], narrow)
    assert len(wide) > len(narrow)


def test_moving_formants_do_not_click() -> None:
    ticks = 1000
    glide = np.linspace(formants_hz("a", tract_length_cm=17.0, up_to_hz=3800.0), [300.0, 2300.0, 2900.0, 3500.0], ticks)
    time_s = np.arange(16_000) / RATE_HZ
    tone = np.sin(2.0 * np.pi * 150.0 * time_s)[None]
    glided = resonate(tone, glide, bandwidths_hz(glide), rate_hz=RATE_HZ, tick_hz=1000.0)[0]
    spectrum = np.abs(np.fft.rfft(glided * np.hanning(16_000)))
    assert spectrum[1000:].max() < 1e-3 * spectrum.max()


def test_tilt_falls_by_the_asked_db_in_each_octave() -> None:
    gain_db = 20.0 * np.log10(tilt_gain(np.array([100.0, 400.0, 800.0, 1600.0]), -6.0, from_hz=200.0))
    np.testing.assert_allclose(gain_db, [0.0, -6.0, -12.0, -18.0])
