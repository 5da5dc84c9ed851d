"""The manifest loader: columns by name, by prefix, or by what they hold."""

import polars as pl
import pytest

from otoscope.corpus.datasets.manifest import ManifestCorpus
from otoscope.errors import CorpusError, SplitError

CSV = """path,start_s,end_s,group,split,label_take,singer_age,technique,factor_f0_hz
a.wav,0.5,1.25,ann,train,01,31,belt,220.5
b.wav,,,bob,val,02,44,breathy,
sub/../c.wav,1,2.0,cy, Test ,03,28,belt,110
"""


@pytest.fixture
def manifest(tmp_path):
    def write(text: str, name: str = "clips.csv"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return write


def test_every_kind_of_column_lands_where_it_belongs(manifest, tmp_path):
    listing = ManifestCorpus(table=manifest(CSV)).listing(tmp_path)
    assert (listing.name, listing.root) == ("clips", tmp_path)
    assert listing.clips.to_dict(as_series=False) == {
        "path": ["a.wav", "b.wav", "c.wav"],
        "start_s": [0.5, 0.0, 1.0],
        "duration_s": [0.75, None, 1.0],
        "group": ["ann", "bob", "cy"],
        "split": ["train", "valid", "test"],
        "label_technique": ["belt", "breathy", "belt"],
        "label_take": ["01", "02", "03"],
        "factor_singer_age": [31.0, 44.0, 28.0],
        "factor_f0_hz": [220.5, None, 110.0],
    }


def test_named_columns_are_taken_and_no_others(manifest, tmp_path):
    spec = ManifestCorpus(table=manifest(CSV), labels=("singer_age",), group="technique")
    clips = spec.listing(tmp_path).clips
    assert [c for c in clips.columns if "_" in c and c[:5] in ("label", "facto")] == [
        "label_singer_age",
        "label_take",
        "factor_f0_hz",
    ]
    assert clips["label_singer_age"].to_list() == ["31", "44", "28"]
    assert clips["group"].to_list() == ["belt", "breathy", "belt"]


def test_parquet_and_tsv_say_the_same_as_csv(manifest, tmp_path):
    manifest(CSV.replace(",", "\t"), "clips.tsv")
    pl.read_csv(manifest(CSV), schema_overrides={"label_take": pl.String}).write_parquet(tmp_path / "clips.parquet")
    tables = [
        ManifestCorpus(table=tmp_path / f"clips.{end}").listing(tmp_path).clips for end in ("csv", "tsv", "parquet")
    ]
    assert tables[0].equals(tables[1])
    assert tables[0].equals(tables[2])


def test_without_a_group_each_file_is_one_and_its_segments_stay_together(manifest, tmp_path):
    text = "path,start_s,duration_s\na.wav,0,1\na.wav,1,1\nb.wav,0,1\n"
    assert ManifestCorpus(table=manifest(text)).listing(tmp_path).clips["group"].to_list() == [
        "a.wav",
        "a.wav",
        "b.wav",
    ]


def test_absolute_paths_become_relative_to_the_root(manifest, tmp_path):
    (tmp_path / "data").mkdir()
    path = manifest(f"path\n{tmp_path}/data/a.wav\nb.wav\n")
    assert ManifestCorpus(table=path, root=tmp_path / "data").listing(tmp_path).clips["path"].to_list() == [
        "a.wav",
        "b.wav",
    ]


@pytest.mark.parametrize(
    ("text", "options", "error", "reason"),
    [
        ("pth\na\n", {}, CorpusError, "has no column 'path'; did you mean pth"),
        ("Pfad,f0\na.wav,1\n", {}, CorpusError, "no column 'path', but 'Pfad' has names of files; rename it to path"),
        ("path,x\na.wav,1\n", {"labels": ["x"], "factors": ["x"]}, CorpusError, "'x' is listed in `labels` and in"),
        ("path,split\na.wav,eval\nb.wav,test\n", {}, SplitError, "split is test and eval; write valid for one"),
        ("path,chan\na.wav,1\n", {}, CorpusError, "the column 'chan' is not used as channel; rename it to channel"),
        (
            "path,subset\na.wav,train\nb.wav,dev\nc.wav,eval\n",
            {},
            CorpusError,
            "the column 'subset' is not used as split; rename it to split",
        ),
        ("path,singer\na.wav,ann\n", {"group": "singr"}, CorpusError, "no column 'singr'; did you mean singer"),
        ("path,singer\na.wav,ann\n", {"labels": ["tecnique"]}, CorpusError, "no column 'tecnique'"),
        (
            "path,age\na.wav,young\n",
            {"factors": ["age"]},
            CorpusError,
            "'age' must hold numbers; got 'young' in line 2",
        ),
        ("path,start_s\na.wav,soon\n", {}, CorpusError, "'start_s' must hold numbers; got 'soon'"),
        ("path,duration_s,end_s\na.wav,1,1\n", {}, CorpusError, "duration_s or end_s, not both"),
        ("path,split\na.wav,tran\n", {}, SplitError, "split is 'tran' in line 2; did you mean train"),
        ("path,group\na.wav,\n", {}, CorpusError, "no group in 1 row, the first in line 2"),
        ("path,group\n,ann\n", {}, CorpusError, "no path in 1 row, the first in line 2"),
        ("path\n", {}, CorpusError, "has a header and no rows"),
        ("path\n../a.wav\n", {}, CorpusError, "is outside the root"),
        ("path\n/elsewhere/a.wav\n", {}, CorpusError, "is outside the root"),
        ("path\na.wav\n", {"root": "/nowhere/at/all"}, CorpusError, "/nowhere/at/all does not exist"),
        ("", {}, CorpusError, "cannot be read"),
    ],
)
def test_tables_that_cannot_be_used_say_why(manifest, tmp_path, text, options, error, reason):
    spec = ManifestCorpus.model_validate({"table": manifest(text), **options})
    with pytest.raises(error, match=reason):
        spec.listing(tmp_path)


def test_a_manifest_that_is_no_table_is_refused(manifest, tmp_path):
    with pytest.raises(CorpusError, match="no manifest"):
        ManifestCorpus(table=tmp_path / "absent.csv").listing(tmp_path)
    with pytest.raises(CorpusError, match="cannot be read"):
        ManifestCorpus(table=manifest("not parquet", "clips.parquet")).listing(tmp_path)
    with pytest.raises(CorpusError, match=r"must be \.csv, \.tsv, \.txt or \.parquet; got clips\.xlsx"):
        ManifestCorpus(table=manifest("", "clips.xlsx")).listing(tmp_path)


def test_cells_that_mean_missing_are_missing(manifest, tmp_path):
    text = "path,group,label_take,age,technique\na.wav,x,NA,31,belt\nb.wav,y,null,nan,None\nc.wav,z,1,44,<NA>\n"
    clips = ManifestCorpus(table=manifest(text)).listing(tmp_path).clips
    assert clips["label_take"].to_list() == [None, None, "1"]
    assert clips["label_technique"].to_list() == ["belt", None, None]
    assert clips["factor_age"].to_list() == [31.0, None, 44.0]


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


def test_paths_of_other_computers_match_the_files_on_disk(manifest, tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "Zoe\u0308.wav").write_bytes(b"")
    (tmp_path / "data").symlink_to(tmp_path / "sub")
    rows = ["sub\\Zo\u00eb.wav", "C:\\rec\\a.wav", "\\\\server\\a.wav", f"{tmp_path}/data/../sub/b.wav", "a\x01b.wav"]
    listing = ManifestCorpus(table=manifest("path\n" + "\n".join(rows) + "\n")).listing(tmp_path)
    assert listing.clips["path"].to_list() == ["sub/Zoe\u0308.wav", "sub/b.wav"]
    assert listing.clips["group"].to_list() == listing.clips["path"].to_list()
    reasons = dict(listing.set_aside.rows())
    assert reasons["C:\\rec\\a.wav"] == "an absolute path of a Windows computer; write paths relative to `root`"
    assert set(reasons) == {"C:\\rec\\a.wav", "\\\\server\\a.wav", "a\\x01b.wav"}


def test_absolute_paths_through_a_link_are_inside_the_root(manifest, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    path = manifest(f"path\n{tmp_path}/real/a.wav\n{tmp_path}/link/b.wav\n")
    for root in ("real", "link"):
        clips = ManifestCorpus(table=path, root=tmp_path / root).listing(tmp_path).clips
        assert clips["path"].to_list() == ["a.wav", "b.wav"]


@pytest.mark.parametrize("name", ["start_s", "end_s", "duration_s"])
@pytest.mark.parametrize("value", ["1e308", "-1e300", "44100000"])
def test_times_that_no_recording_has_are_refused(manifest, tmp_path, name, value):
    table = manifest(f"path,{name},group\na.wav,1,ann\nb.wav,{value},bob\n")
    with pytest.raises(CorpusError, match=rf"{name} is .* in line 3; times are in seconds, at most 1e\+07"):
        ManifestCorpus(table=table).listing(tmp_path)


@pytest.mark.parametrize(("wrong", "warns"), [(1, True), (3, True), (4, False)])
def test_text_among_numbers_is_named_with_its_lines_in_small_tables_too(manifest, tmp_path, wrong, warns):
    rows = "".join(f"{i}.wav,g{i},{'~2e3' if i < wrong else '1e3'}\n" for i in range(8))
    listing = ManifestCorpus(table=manifest(f"path,group,f0\n{rows}")).listing(tmp_path)
    assert "label_f0" in listing.clips.columns
    named = f"{wrong} of its 8 values {'is not a number' if wrong == 1 else 'are not numbers'} ('~2e3' in line 2"
    assert any(named in note for note in listing.notes) == warns


@pytest.mark.parametrize("values", [("left", "right"), ("1", "right"), ("0", "1"), ("1.5", "2")])
def test_a_channel_that_is_no_number_from_1_on_is_refused_unless_it_is_listed(manifest, tmp_path, values):
    text = "path,group,channel\n" + "".join(f"{v}.wav,{v},{v}\n" for v in values)
    with pytest.raises(CorpusError, match=r"channel.* in line \d; channels are counted from 1 .*1 is left.*`labels`"):
        ManifestCorpus(table=manifest(text)).listing(tmp_path)
    clips = ManifestCorpus(table=manifest(text), labels=("channel",)).listing(tmp_path).clips
    assert clips["label_channel"].to_list() == list(values)
    assert "channel" not in clips.columns
    assert "channel" not in ManifestCorpus(table=manifest(text), group="channel").listing(tmp_path).clips.columns


@pytest.mark.parametrize("column", ["Split", "Group", "Channel", "START_S"])
def test_a_reserved_name_in_capitals_is_refused_unless_it_is_listed(manifest, tmp_path, column):
    text = f"path,{column}\na.wav,1\nb.wav,2\n"
    with pytest.raises(CorpusError, match=f"'{column}' is not used as {column.lower()}; rename it"):
        ManifestCorpus(table=manifest(text)).listing(tmp_path)
    assert f"label_{column}" in ManifestCorpus(table=manifest(text), labels=(column,)).listing(tmp_path).clips.columns


def test_columns_and_cells_that_are_passed_over_are_named(manifest, tmp_path):
    text = "path,group,site,start_s,end_s,split\na.wav,x,n,,1,train\nb.wav,y,s,1,,\n"
    notes = ManifestCorpus(table=manifest(text), group="site").listing(tmp_path).notes
    assert notes == (
        "clips.csv: the column group is not used, because groups come from the column site",
        "no start_s in 1 row: those clips start at 0 s",
        "no end_s in 1 row: those clips last to the end of their file",
        "no split in 1 row: those clips join their group, or groups are assigned by their hash",
    )


@pytest.mark.parametrize(
    ("header", "row", "reason"),
    [
        ("start_s,end_s", "1.9,1.2", "start_s is 1.9 and end_s 1.2 in line 3; a segment ends after its start"),
        ("start_s,end_s", "1.5,1.5", "start_s is 1.5 and end_s 1.5 in line 3; a segment ends after its start"),
        ("start_s,end_s", "-1,1.5", "start_s is -1 in line 3; a recording starts at 0 s"),
        ("start_s,duration_s", "1,0", "duration_s is 0 in line 3; a segment lasts more than 0 s"),
    ],
)
def test_impossible_segments_are_set_aside_in_the_words_of_the_table(manifest, tmp_path, header, row, reason):
    listing = ManifestCorpus(table=manifest(f"path,{header}\na.wav,0,1\nb.wav,{row}\n")).listing(tmp_path)
    assert listing.clips["path"].to_list() == ["a.wav"]
    assert listing.set_aside.rows() == [("b.wav", f"impossible segment: {reason}")]


def test_repeated_segments_are_refused_with_their_lines_and_differences(manifest, tmp_path):
    text = "path,start_s,end_s,species\na.wav,0,1,owl\nb.wav,0,1,owl\n./a.wav,0.0,1,wren\nb.wav,0,1,owl\n"
    reason = (
        r"clips\.csv: 'a\.wav' is listed 2 times .*\(in line 2, in line 4\), with different values of label_species"
    )
    with pytest.raises(CorpusError, match=reason + "; so is 1 other segment; keep one row per clip"):
        ManifestCorpus(table=manifest(text)).listing(tmp_path)
    whole = manifest("path,group\na.wav,x\na.wav,x\n")
    with pytest.raises(CorpusError, match=r"\(in line 2, in line 3\), with equal columns; keep one row"):
        ManifestCorpus(table=whole).listing(tmp_path)


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


def test_times_of_a_clock_and_addresses_are_no_data(manifest, tmp_path):
    with pytest.raises(CorpusError, match="start_time and end_time would be factors, and whole files would be used"):
        ManifestCorpus(table=manifest("path,start_time,end_time\na.wav,0:00,0:01\n")).listing(tmp_path)
    listing = ManifestCorpus(table=manifest("path,start_s\na.wav,1\nhttps://example.org/b.wav,1\n")).listing(tmp_path)
    assert listing.set_aside.rows() == [
        ("https://example.org/b.wav", "an address; download the file, and write its path")
    ]
    assert listing.notes == ("no column end_s or duration_s: those clips last to the end of their file",)
    listing = ManifestCorpus(table=manifest("path,duration_s\na.wav,1\n")).listing(tmp_path)
    assert listing.notes == ("no column start_s: each clip begins at 0 s and ends at duration_s",)


def test_split_names_have_synonyms_and_a_listed_column_of_them_is_a_label(manifest, tmp_path):
    words = ("Training", "development", "Validation", "evaluation", "testing")
    rows = "".join(f"{at}.wav,{word}\n" for at, word in enumerate(words))
    clips = ManifestCorpus(table=manifest(f"path,split\n{rows}")).listing(tmp_path).clips
    assert clips["split"].to_list() == ["train", "valid", "valid", "test", "test"]
    listed = ManifestCorpus(table=manifest(f"path,label_set\n{rows}")).listing(tmp_path).clips
    assert listed["label_set"].to_list() == list(words)


def test_signs_of_missing_values_are_missing_unless_they_are_one_of_several(manifest, tmp_path):
    text = "path,polarity,species,f0,word\na.wav,+,owl,1.5,N.A.\nb.wav,-,?,-,unknown\n"
    clips = ManifestCorpus(table=manifest(text)).listing(tmp_path).clips
    assert clips["label_polarity"].to_list() == ["+", "-"]
    assert clips["label_species"].to_list() == ["owl", None]
    assert clips["factor_f0"].to_list() == [1.5, None]
    assert clips["label_word"].to_list() == [None, "unknown"]
