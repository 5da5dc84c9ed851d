"""Factors of pitch and of formants on both pages, and the reliability of measured formants."""

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from otoscope.report.claim_factors import describe_formants, formant_agreement
from otoscope.report.run_data import read_run
from tests.support.finished_run import make_run


@pytest.mark.parametrize(("measured", "r"), [([900.0, 1200.0, 1500.0], 1.0), ([1500.0, 1200.0, 900.0], -1.0)])
def test_formant_agreement_is_the_correlation_with_the_truth(measured: list[float], r: float):
    factors = pl.DataFrame({"f2_hz": [900.0, 1200.0, 1500.0], "F2frequency_sma3nz_amean": measured})
    assert formant_agreement(factors) == {"F2": pytest.approx(r)}
    assert formant_agreement(factors.select("f2_hz")) == {}


def test_describe_formants_names_levels_that_follow_voicing(tmp_path: Path) -> None:
    names = ["F1amplitudeLogRelF0_sma3nz_amean", "F2frequency_sma3nz_amean"]
    cards = [{"name": name, "category": "formants", "source": "eGeMAPSv02"} for name in names]
    run = replace(read_run(make_run(tmp_path, gallery=False)), factors={"factors": cards})
    text = describe_formants(run, names)
    assert text.startswith("2 factors (2 of eGeMAPSv02); 1 of these is a level relative to f0, whose means include")
    assert "−201" not in describe_formants(run, names[1:])
