import re
from collections import Counter
from pathlib import Path

import polars as pl
import pytest

from otoscope.corpus.synth.singer import draw_singer
from otoscope.corpus.synth.synthesis import synthesise
from otoscope.factors.egemaps import feature_names
from otoscope.factors.readable_names import _RULES, CATEGORIES, category


def test_category_counts_of_all_functionals() -> None:
    # the authors count 14, 18, 6, 16, 17, 5, 12: four harmonic differences move to voice quality
    # and loudnessPeaksPerSec to rhythm
    counts = Counter(category(name) for name in feature_names())
    assert [counts[name] for name in CATEGORIES] == [10, 18, 10, 16, 17, 6, 11, 0]


def test_category_rules_are_disjoint() -> None:
    for name in feature_names():
        assert len([pattern for _, pattern in _RULES if re.fullmatch(pattern, name)]) == 1, name


@pytest.mark.shared
def test_category_covers_the_authors_columns(shared: Path) -> None:
    columns = pl.read_csv(shared / "paper" / "vocalset_train_egemaps.csv.gz", n_rows=1).columns
    assert {name for name in columns if category(name) == "other"} == {"path", "name"}


def test_category_covers_every_synthesiser_factor() -> None:
    factors = synthesise(draw_singer("male1"), "vibrato", "a", "long_tones", duration_s=0.5).factors
    assert {name for name in factors if category(name) == "other"} == set()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("logRelF0-H1-H2_sma3nz_amean", "voice quality"),
        ("F1amplitudeLogRelF0_sma3nz_amean", "formants"),
        ("loudnessPeaksPerSec", "rhythm"),
        ("vibrato_rate_hz", "pitch"),
        ("tract_length_cm", "formants"),
        ("valence", "other"),
        ("my_jitter", "other"),
    ],
)
def test_category_of_names(name: str, expected: str) -> None:
    assert category(name) == expected
