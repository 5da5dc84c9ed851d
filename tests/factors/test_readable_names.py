"""Factor names in words."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otoscope.factors.egemaps import feature_names
from otoscope.factors.readable_names import readable_name


@pytest.fixture(scope="module")
def functionals() -> tuple[str, ...]:
    pytest.importorskip("opensmile")
    return feature_names()


def test_readable_names_cover_all_functionals_and_stay_distinct(functionals: tuple[str, ...]) -> None:
    names = [readable_name(name) for name in functionals]
    assert len(functionals) == len(set(names)) == 88
    for original, name in zip(functionals, names, strict=True):
        assert re.fullmatch(r"[\w /-]+ \([\w, -]+\)", name), (original, name)
        assert not re.search(r"sma3|amean|stddev|PerSec|LogRel", name)


@pytest.mark.parametrize(
    ("original", "readable"),
    [
        ("F0semitoneFrom27.5Hz_sma3nz_percentile50.0", "pitch (median, semitones)"),
        ("F0semitoneFrom27.5Hz_sma3nz_meanRisingSlope", "pitch (mean rising slope, semitones per s)"),
        ("loudness_sma3_meanFallingSlope", "loudness (mean falling slope, per s)"),
        ("mfcc1_sma3_amean", "MFCC 1 (mean)"),
        ("mfcc1V_sma3nz_amean", "MFCC 1 (mean, voiced frames)"),
        ("slopeV500-1500_sma3nz_stddevNorm",
         "spectral slope 500 to 1500 Hz (relative standard deviation, voiced frames)"),
        ("alphaRatioUV_sma3nz_amean", "alpha ratio (mean, unvoiced frames, dB)"),
        ("HNRdBACF_sma3nz_amean", "harmonics-to-noise ratio (mean, dB)"),
        ("f0_mean_hz", "f0 mean (Hz)"),
        ("tilt_db_per_octave", "tilt (dB per octave)"),
        ("notes_per_s", "notes (per s)"),
        ("_hz", "_hz"),
        ("hz", "hz"),
        ("valence", "valence"),
        ("valence_sma3_amean", "valence_sma3_amean"),
        ("loudness_sma3_kurtosis", "loudness_sma3_kurtosis"),
        ("", ""),
    ],
)  # fmt: skip
def test_readable_name_of_known_and_unknown_factors(original: str, readable: str) -> None:
    assert readable_name(original) == readable


@given(st.text(max_size=40))
def test_readable_name_is_never_empty_and_stable(factor: str) -> None:
    name = readable_name(factor)
    assert bool(name) == bool(factor)
    assert readable_name(name) == name
