"""The manifest loader: clips, segments, groups, splits and paths."""

import polars as pl
import pytest

from otoscope.corpus.datasets.manifest import ManifestCorpus
from otoscope.errors import CorpusError, SplitError

CSV = """path,start_s,end_s,group,split,label_take,singer_age,technique,factor_f0_hz
a.wav,0.5,1.25,ann,train,01,31,belt,220.5
b.wav,,,bob,val,02,44,breathy,
sub/../c.wav,1,2.0,cy, Test ,03,28,belt,110
"""


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


@pytest.mark.parametrize("values", [("left", "right"), ("1", "right"), ("0", "1"), ("1.5", "2")])
def test_a_channel_that_is_no_number_from_1_on_is_refused_unless_it_is_listed(manifest, tmp_path, values):
    text = "path,group,channel\n" + "".join(f"{v}.wav,{v},{v}\n" for v in values)
    with pytest.raises(CorpusError, match=r"channel.* in line \d; channels are counted from 1 .*1 is left.*`labels`"):
        ManifestCorpus(table=manifest(text)).listing(tmp_path)
    clips = ManifestCorpus(table=manifest(text), labels=("channel",)).listing(tmp_path).clips
    assert clips["label_channel"].to_list() == list(values)
    assert "channel" not in clips.columns
    assert "channel" not in ManifestCorpus(table=manifest(text), group="channel").listing(tmp_path).clips.columns


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
