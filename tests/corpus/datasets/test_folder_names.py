"""Fields of file names: a linear-time engine, named groups with a meaning, words for codes."""

import time

import polars as pl
import pytest

from otoscope.corpus.datasets.folder import apply_names, as_factor, check_pattern, find_fields
from otoscope.errors import CorpusError

RAVDESS = r"-(?P<label_emotion>\d\d)-(?P<factor_intensity>\d\d)-\d\d-\d\d-(?P<group>\d\d)\.wav$"


def test_find_fields_of_ravdess_names() -> None:
    fields = find_fields(RAVDESS, ["Actor_17/03-02-04-01-01-01-17.wav", "notes.wav"])
    assert fields.columns == ["label_emotion", "factor_intensity", "group"]
    assert fields.rows() == [("04", "01", "17"), (None, None, None)]
    assert find_fields("(a)(?P<group>é)", ["ae\u0301"]).rows() == [("é",)]
    assert find_fields("(?P<group> *)x", ["x", " x"]).rows() == [(None,), (None,)]


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        ("*/(?P<group>a)", "not a regular expression .repetition operator missing expression.$"),
        ("(?P<group>", "not a regular expression .unclosed group"),
        ("a{99999999999}(?P<group>a)", "not a regular expression .decimal literal invalid"),
        ("(?P<group>((a{1000}){1000}){1000})", "not a regular expression .*size limit"),
        ("(?P<group>a)(?=b)", "look-around, including look-ahead and look-behind, is not supported"),
        (r"(?P<group>a)\1", "backreferences are not supported"),
        ("(?P<group>a)(?P<group>b)", "duplicate capture group name"),
        ("(?P<speaker>a)", "the named group 'speaker' has no meaning; use group, label_speaker or factor_speaker"),
        ("(?P<label_>a)", "has no meaning"),
        ("abc", "needs a named group"),
        ("(abc)", "needs a named group"),
        ("", "needs a named group"),
        ("a" * 20_000, "at most 10,000 characters"),
        ("(?P<group>\ud800)", "not a regular expression"),
        ("(" * 5000, "not a regular expression"),
    ],
)
def test_check_pattern_explains_what_is_wrong(pattern: str, problem: str) -> None:
    start_s = time.monotonic()
    with pytest.raises(ValueError, match=problem):
        check_pattern(pattern)
    assert time.monotonic() - start_s < 2


def test_find_fields_takes_linear_time() -> None:
    start_s = time.monotonic()
    assert find_fields(r"(?P<group>(a+)+)$", ["a" * 4000 + "!"] * 20).null_count().item() == 20
    assert time.monotonic() - start_s < 2


def test_apply_names_keeps_codes_without_a_word_and_names_them() -> None:
    codes = pl.Series(["01", "02", None, "03"])
    words, notes = apply_names("label_emotion", codes, {"01": "neutral", "02": "calm", "09": "?"})
    assert words.to_list() == ["neutral", "calm", None, "03"]
    unused = "names.emotion has words for codes that are in no path: 09"
    assert notes == ["names.emotion has no word for 03: kept as they are", unused]
    with pytest.raises(CorpusError, match="it names 1, 2; the paths have 01, 02, 03"):
        apply_names("label_emotion", codes, {"1": "neutral", "2": "calm"})


def test_as_factor_refuses_text_with_its_path() -> None:
    assert as_factor("factor_x", pl.Series(["01", None, "-2.5"]), ["a"] * 3).to_list() == [1.0, None, -2.5]
    with pytest.raises(CorpusError, match=r"factor_x of b\.wav is 'xy', not a number; use label_ for text"):
        as_factor("factor_x", pl.Series(["1", "xy"]), ["a.wav", "b.wav"])
