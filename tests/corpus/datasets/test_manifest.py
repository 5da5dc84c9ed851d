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
        ("pth\na.wav\n", {}, CorpusError, "has no column 'path'; did you mean pth"),
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
        ("path,split\na.wav,tran\n", {}, SplitError, "got 'tran' .*did you mean train"),
        ("path,group\na.wav,\n", {}, CorpusError, "1 rows have no group, the first in line 2"),
        ("path,group\n,ann\n", {}, CorpusError, "1 rows have no path, the first in line 2"),
        ("path\n", {}, CorpusError, "all rows have no path"),
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
    rows = "".join(f"{i}.wav,g{i},{i if i else 'n.a.'},x\n" for i in range(20))
    path = manifest(f"path,group,age,remark\n{rows}")
    notes = ManifestCorpus(table=path).listing(tmp_path).notes
    assert notes == ("warning: age is a label and no factor: 1 of its values are no numbers, such as 'n.a.' in line 2",)
    assert (
        "clips.csv: 2 columns are not used (age, remark)"
        in ManifestCorpus(table=path, labels=()).listing(tmp_path).notes
    )
    empty = manifest("path,group,remark\na.wav,x,\n")
    assert "clips.csv: 1 columns hold no value (remark)" in ManifestCorpus(table=empty).listing(tmp_path).notes


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
