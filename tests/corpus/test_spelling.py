"""One spelling for each group and class, and names that a page can show."""

from pathlib import Path

import polars as pl
import pytest

from otoscope.corpus.listing import Listing, listing_table
from otoscope.corpus.spelling import clean_listing
from otoscope.errors import CorpusError


def listing(groups: list[str], **columns: list[object]) -> Listing:
    rows = [
        {"path": f"{at}.wav", "group": group, **{name: values[at] for name, values in columns.items()}}
        for at, group in enumerate(groups)
    ]
    return Listing("test", Path("recordings"), "unknown", "", listing_table(rows))


@pytest.mark.parametrize(
    ("groups", "clean"),
    [
        (["spk0", "spk0 ", "\ufeffspk0"], ["spk0"] * 3),
        (["2", "2.0", "+2", "3.0"], ["2", "2", "2", "3.0"]),
        (["Zo\u00eb", "Zoe\u0308"], ["Zo\u00eb"] * 2),
        (["a  b", "a\tb", "a b"], ["a b"] * 3),
        (["lo\u200bw", "low", "\u202elow\u202c"], ["low"] * 3),
        (["1.2.3", "+", "-", "."], ["1.2.3", "+", "-", "."]),
        (["spk1", "Spk1"], ["spk1", "Spk1"]),
    ],
)
def test_clean_listing_gives_groups_and_labels_one_spelling(groups: list[str], clean: list[str]) -> None:
    given = listing(groups, label_take=list(groups))
    cleaned = clean_listing(given)
    assert cleaned.clips["group"].to_list() == clean
    assert cleaned.clips["label_take"].to_list() == clean


def test_clean_listing_notes_unified_and_case_only_spellings() -> None:
    notes = clean_listing(listing(["2", "2.0", "Ann", "ann"])).notes
    assert notes[0] == "group: 1 spelling unified ('2.0' as '2')"
    assert notes[1].startswith("warning: group: values that differ only in case (Ann and ann)")
    assert clean_listing(listing(["1", "2", "ann"])).notes == ()


def test_clean_listing_warns_of_spellings_that_look_alike() -> None:
    (note,) = clean_listing(listing(["very-high", "Very_high", "very\u2011high", "-1", "1", "p1-11", "p11-1"])).notes
    named = "values that differ only in blanks, dashes, quotes or width (Very_high and very-high and very\u2011high)"
    assert note.startswith(f"warning: group: {named}: they are different groups")
    for pair in (["d'Arc", "d\u2019Arc"], ["\uff21 1", "A 1"]):
        (note,) = clean_listing(listing(pair)).notes
        assert "dashes, quotes or width" in note


def test_clean_listing_keeps_codes_of_classes_apart_but_not_of_groups() -> None:
    cleaned = clean_listing(listing(["1", "01", "2"], label_lab=["1", "01", "1.0"]))
    assert cleaned.clips["group"].to_list() == ["1", "1", "2"]
    assert cleaned.clips["label_lab"].to_list() == ["1", "01", "1"]
    assert any("label_lab: values that differ only in zeros in front (01 and 1): they" in n for n in cleaned.notes)


def test_clean_listing_makes_blank_labels_and_nan_factors_missing() -> None:
    given = listing(["a", "b"], label_take=[" ", "x"], factor_f0=[float("nan"), 1.0])
    clips = clean_listing(given).clips
    assert clips["label_take"].to_list() == [None, "x"]
    assert clips["factor_f0"].to_list() == [None, 1.0]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label_take": ["tech \x1b[2J", "b"]}, r"label_take of '0\.wav' contains a control character"),
        ({"label_take": ["a", "b\uffff"]}, r"label_take of '1\.wav' contains a control character"),
        ({"label_take": ["a", "b" * 10_000]}, r"label_take of '1\.wav' has 10,000 characters; at most 1,000"),
        ({"label_a\x00": ["a", "b"]}, r"the name 'label_a\\x00' contains a control character"),
        ({"label_" + "a" * 500: ["a", "b"]}, "name has 506 characters"),
        ({"factor_x": [1.0, float("inf")]}, r"factor_x of '1\.wav' is infinite"),
    ],
)
def test_clean_listing_refuses_what_no_page_can_show(columns: dict[str, list[object]], message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        clean_listing(listing(["a", "b"], **columns))
    with pytest.raises(CorpusError, match=r"1 clip without a group, such as 1\.wav"):
        clean_listing(listing(["a", " "]))


def test_clean_listing_has_no_notes_on_groups_that_are_files() -> None:
    given = listing(["a"] * 3)
    paths = ["A.wav", "a.wav", "Zoe\u0308.wav"]
    each = given._replace(clips=given.clips.with_columns(path=pl.Series(paths), group=pl.Series(paths)))
    assert clean_listing(each).notes == ()
    assert clean_listing(each).clips["group"].to_list() == ["A.wav", "a.wav", "Zo\u00eb.wav"]
