"""Columns of a manifest: labels and factors, and the notes on what their names or values may mean."""

import pytest

from otoscope.corpus.datasets.manifest import ManifestCorpus
from otoscope.errors import CorpusError


@pytest.mark.parametrize(
    "names",
    [
        ("start", "end"),
        ("Begin Time (s)", "End Time (s)"),
        ("onset", "offset"),
        ("tmin", "tmax"),
        ("start_ms", "end_ms"),
        ("from", "to"),
        ("t0", "t1"),
        ("segment_start", "segment_end"),
        ("CallBegin", "CallEnd"),
        ("xmin", "xmax"),
        ("in", "out"),
    ],
)
def test_times_without_a_known_name_are_refused_not_dropped(manifest, tmp_path, names):
    path = manifest(f"path,{names[0]},{names[1]}\na.wav,0.5,1\n")
    with pytest.raises(CorpusError, match="would be factors, and whole files would be used"):
        ManifestCorpus(table=path).listing(tmp_path)
    with pytest.raises(CorpusError, match="would be ignored, and whole files would be used"):
        ManifestCorpus(table=path, labels=()).listing(tmp_path)
    clips = ManifestCorpus(table=path, factors=names).listing(tmp_path).clips
    assert clips[f"factor_{names[0]}"].to_list() == [0.5]


@pytest.mark.parametrize(
    ("header", "kind"), [("label_take,take", "label"), ("factor_f0,f0", "factor"), ("take,label_take", "label")]
)
def test_columns_of_one_name_are_refused_not_merged(manifest, tmp_path, header, kind):
    cell = "1" if kind == "factor" else "x"
    with pytest.raises(CorpusError, match=f"are the same {kind}; rename one"):
        ManifestCorpus(table=manifest(f"path,{header}\na.wav,{cell},{cell}\n")).listing(tmp_path)


def test_notes_name_unused_empty_and_suspicious_columns(manifest, tmp_path):
    rows = "".join(f"{i}.wav,g{i},{i if i else '~2'},x\n" for i in range(20))
    path = manifest(f"path,group,age,remark\n{rows}")
    notes = ManifestCorpus(table=path).listing(tmp_path).notes
    text = "age is a label, not a factor: 1 of its 20 values is not a number ('~2' in line 2)"
    assert notes == (f"warning: clips.csv: {text}; correct them, or leave them empty",)
    assert (
        "clips.csv: 2 columns not used (age, remark)" in ManifestCorpus(table=path, labels=()).listing(tmp_path).notes
    )
    empty = manifest("path,group,remark\na.wav,x,\n")
    assert "clips.csv: 1 column without a value (remark)" in ManifestCorpus(table=empty).listing(tmp_path).notes


@pytest.mark.parametrize(("wrong", "warns"), [(1, True), (3, True), (4, False)])
def test_text_among_numbers_is_named_with_its_lines_in_small_tables_too(manifest, tmp_path, wrong, warns):
    rows = "".join(f"{i}.wav,g{i},{'~2e3' if i < wrong else '1e3'}\n" for i in range(8))
    listing = ManifestCorpus(table=manifest(f"path,group,f0\n{rows}")).listing(tmp_path)
    assert "label_f0" in listing.clips.columns
    named = f"{wrong} of its 8 values {'is not a number' if wrong == 1 else 'are not numbers'} ('~2e3' in line 2"
    assert any(named in note for note in listing.notes) == warns


@pytest.mark.parametrize("column", ["Split", "Group", "Channel", "START_S"])
def test_a_reserved_name_in_capitals_is_refused_unless_it_is_listed(manifest, tmp_path, column):
    text = f"path,{column}\na.wav,1\nb.wav,2\n"
    with pytest.raises(CorpusError, match=f"'{column}' is not used as {column.lower()}; rename it"):
        ManifestCorpus(table=manifest(text)).listing(tmp_path)
    assert f"label_{column}" in ManifestCorpus(table=manifest(text), labels=(column,)).listing(tmp_path).clips.columns


@pytest.mark.parametrize(
    "values", [("220 Hz", "8\u00b0C"), ("10%", "20%"), ("1'000.5", "2\u2019000"), ("1.5\u00b10.1", "1.7\u00b10.2")]
)
def test_numbers_with_units_or_marks_of_thousands_are_no_label_without_a_warning(manifest, tmp_path, values):
    text = "path;group;f0\n" + "".join(f"{at}.wav;g{at};{value}\n" for at, value in enumerate(values))
    (note,) = [n for n in ManifestCorpus(table=manifest(text)).listing(tmp_path).notes if n.startswith("warning")]
    assert "f0 is a label, not a factor: 2 of its 2 values" in note
    assert f"{values[0]}" in note


def test_codes_with_zeros_in_front_are_a_label_with_their_spelling(manifest, tmp_path):
    listing = ManifestCorpus(table=manifest("path,group,lab\na.wav,x,001\nb.wav,y,100\n")).listing(tmp_path)
    assert listing.clips["label_lab"].to_list() == ["001", "100"]
    assert listing.notes[0].startswith("clips.csv: lab is a label, not a factor: 1 of its 2 values begins with 0")
    named = ManifestCorpus(table=manifest("path,lab\na.wav,001\nb.wav,100\n"), factors=("lab",)).listing(tmp_path)
    assert named.clips["factor_lab"].to_list() == [1.0, 100.0]


@pytest.mark.parametrize(
    ("values", "remark"),
    [
        ([at % 2 for at in range(12)], "factors with few whole values: x (2). If they are classes"),
        ([2**60 + at for at in range(12)], "factors that look like identifiers or dates: x"),
        ([20240131 + at % 3 for at in range(12)], "factors that look like identifiers or dates: x"),
        ([7 * at + at % 3 for at in range(12)], "factors that look like identifiers or dates: x"),
        ([100 + at // 2 for at in range(24)], "factors that look like identifiers or dates: x"),
        ([0.5 * (at % 2) for at in range(12)], ""),
        ([7 * (at % 11) for at in range(24)], ""),
        ([18 + 7 * at % 30 for at in range(30)], ""),
        ([18 + at // 2 for at in range(60)], ""),
    ],
)
def test_whole_numbers_that_may_be_classes_or_identifiers_are_named(manifest, tmp_path, values, remark):
    text = "path,group,x\n" + "".join(f"{at}.wav,g{at},{value}\n" for at, value in enumerate(values))
    path = manifest(text)
    notes = ManifestCorpus(table=path).listing(tmp_path).notes
    assert any(remark in note for note in notes) if remark else not notes
    assert not ManifestCorpus(table=path, factors=("x",)).listing(tmp_path).notes


@pytest.mark.parametrize(
    ("values", "remark"),
    [
        ((200, 210, -999), "1 of its 3 values is -999 (in line 4), read as a number"),
        ((0.5, 9999, 9999), "2 of its 3 values are 9999 (in line 3, in line 4), read as a number"),
        (("owl", "?", "!"), "1 of its 3 values is '?' (in line 3), read as a class"),
        (("owl", "wren", "Missing"), "1 of its 3 values is 'Missing' (in line 4), read as a class"),
        ((0, *(150.5 + at for at in range(12))), "1 of its 13 values is 0 (in line 2), read as a number"),
        ((0, *(0.5 + at for at in range(12))), None),
        ((0, 50.5, 100, 0, 50.5, 100), None),
        ((-80, -20, -99), None),
        ((800, 999, 1000), None),
        (("none", "C#", "+/-"), "1 of its 3 values is '+/-' (in line 4), read as a class"),
        (("none", "unknown", "C#"), None),
    ],
)
def test_values_that_may_mean_a_missing_one_are_named(manifest, tmp_path, values, remark):
    text = "path,group,x\n" + "".join(f"{at}.wav,g{at},{value}\n" for at, value in enumerate(values))
    notes = ManifestCorpus(table=manifest(text)).listing(tmp_path).notes
    assert notes == ((f"warning: clips.csv: x: {remark}; leave missing values empty",) if remark else ())
