"""Factors of pitch and of formants on both pages, and the reliability of measured formants."""

import polars as pl
import pytest

from otoscope.report.claim_factors import formant_agreement


@pytest.mark.parametrize(("measured", "r"), [([900.0, 1200.0, 1500.0], 1.0), ([1500.0, 1200.0, 900.0], -1.0)])
def test_formant_agreement_is_the_correlation_with_the_truth(measured: list[float], r: float):
    factors = pl.DataFrame({"f2_hz": [900.0, 1200.0, 1500.0], "F2frequency_sma3nz_amean": measured})
    assert formant_agreement(factors) == {"F2": pytest.approx(r)}
    assert formant_agreement(factors.select("f2_hz")) == {}
