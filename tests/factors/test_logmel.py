"""Tests of log-mel statistics on tones and short clips."""

import numpy as np
import pytest

from otoscope.factors.logmel import BANDS, RATE_HZ, logmel_statistics

TIMES_S = np.arange(RATE_HZ) / RATE_HZ


def test_logmel_of_tone_peaks_in_its_band_without_variation():
    low, high = (logmel_statistics(np.sin(2 * np.pi * hz * TIMES_S).astype(np.float32)) for hz in (300.0, 3000.0))
    assert low.shape == (2 * BANDS,)
    assert 0 < int(low[:BANDS].argmax()) < int(high[:BANDS].argmax()) < BANDS
    assert low[BANDS + int(low[:BANDS].argmax())] < 0.1


def test_logmel_tenfold_amplitude_is_20_db():
    wave = (0.01 * np.random.default_rng(0).standard_normal(RATE_HZ)).astype(np.float32)
    quiet, loud = logmel_statistics(wave), logmel_statistics(10 * wave)
    np.testing.assert_allclose(loud[:BANDS] - quiet[:BANDS], 20, atol=1e-3)
    np.testing.assert_allclose(loud[BANDS:], quiet[BANDS:], atol=1e-3)


@pytest.mark.parametrize("samples", [1, 399, 400, 401])
def test_logmel_of_short_clips_is_finite(samples: int):
    assert np.isfinite(logmel_statistics(np.zeros(samples, dtype=np.float32))).all()
