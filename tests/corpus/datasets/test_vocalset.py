"""VocalSet's names, regular and not, and its published split."""

from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from otoscope.corpus.datasets.vocalset import (
    CONTEXTS,
    ENDINGS,
    TECHNIQUES,
    VOWELS,
    VocalSetCorpus,
    VocalSetName,
    parse_name,
)
from otoscope.corpus.splits import Splits, assign_splits
from otoscope.errors import CorpusError

NAMES = {
    # real names of the archive, as listed in the table that the paper's authors published
    "female1/arpeggios/belt/f1_arpeggios_belt_c_a.wav": ("female1", "belt", "arpeggios", "a"),
    "female4/arpeggios/straight/arpeggios_straight_e.wav": ("female4", "straight", "arpeggios", "e"),
    "male8/excerpts/vibrato/m9_caro_vibrato.wav": ("male8", "vibrato", "excerpts", None),
    "male8/excerpts/straight/row_straight.wav": ("male8", "straight", "excerpts", None),
    "female9/arpeggios/fast_forte/arps_fast_piano_c.wav": ("female9", "fast_forte", "arpeggios", None),
    "female3/scales/fast_piano/scales_fast_piano_f.wav": ("female3", "fast_piano", "scales", None),
    # names made up after its patterns
    "FULL/test/male10/long_tones/trillo/m10_ long_trillo_u.wav": ("male10", "trillo", "long_tones", "u"),
    "train/female2/scales/vibrado/f2_scales_vibrado_i.wav": ("female2", "vibrato", "scales", "i"),
    "male3/excerpts/spoken/m3_ row_spoken.wav": ("male3", "spoken", "excerpts", None),
    "male5/scales/slow_forte/m5_scales_c_sow_forte_o.wav": ("male5", "slow_forte", "scales", "o"),
    "female5/scales/straight/f5_straight_tone_scales_a.wav": ("female5", "straight", "scales", "a"),
    "data_by_technique/lip_trill/f8_arpeggios_lip_trill_e.wav": ("female8", "lip_trill", "arpeggios", "e"),
    "data_by_vowel/a/m11_long_inhaled_a.wav": ("male11", "inhaled", "long_tones", "a"),
    "m1_scales_vocal_fry_e.WAV": ("male1", "vocal_fry", "scales", "e"),
    "Female6/Scales/Lip Trill/F6_Scales_Lip-Trill_O.wav": ("female6", "lip_trill", "scales", "o"),
    "f7_long_trill_a.wav": ("female7", "trill", "long_tones", "a"),
}


@pytest.mark.parametrize("path", NAMES)
def test_names_are_read(path):
    found = parse_name(path)
    assert found is not None
    assert (found.singer, found.technique, found.context, found.vowel) == NAMES[path]
    assert found.gender == found.singer.rstrip("0123456789")


@pytest.mark.parametrize("path", ["readme.wav", "female1/notes.wav", "belt/someone_scales_belt_a.wav", "female1/.wav"])
def test_paths_that_tell_no_singer_or_technique_are_not_guessed(path):
    assert parse_name(path) is None


@given(
    number=st.integers(1, 11),
    gender=st.sampled_from(["female", "male"]),
    technique=st.sampled_from(TECHNIQUES),
    context=st.sampled_from(["arpeggios", "scales", "long_tones"]),
    vowel=st.sampled_from(VOWELS),
    tree=st.sampled_from(["", "FULL/", "FULL/train/", "test/"]),
)
def test_regular_names_read_alike_with_and_without_their_folders(number, gender, technique, context, vowel, tree):
    name = f"{gender[0]}{number}_{context.split('_')[0]}_{technique}_{vowel}.wav"
    whole = parse_name(f"{tree}{gender}{number}/{context}/{technique}/{name}")
    assert whole == parse_name(name)
    assert whole == VocalSetName(f"{gender}{number}", gender, technique, context, vowel, vowel)


@pytest.mark.shared
def test_all_2699_names_of_the_paper_are_read_and_its_filter_keeps_1212(shared: Path):
    paths = pl.read_csv(shared / "paper" / "vocalset_train_egemaps.csv.gz")["path"].unique().sort().to_list()
    names = {path: parse_name(path) for path in paths}
    assert len(paths) == 2699
    assert [path for path, name in names.items() if name is None] == []
    told = {path: (name.singer, name.context, name.technique) for path, name in names.items() if name}
    assert told == {path: tuple(path.split("/")[:3]) for path in paths}
    ten = [name for name in names.values() if name and name.technique in TECHNIQUES]
    assert sum(name.ending in ENDINGS for name in ten) == 1212  # PAPER.md 1.1
    assert all(name.vowel for name in ten if name.context != "excerpts")


@pytest.fixture
def root(record, tmp_path):
    for singer in ["female1", "female2", "male1", "male2", "male3"]:
        code = singer.replace("female", "f").replace("male", "m")
        record(f"FULL/{singer}/scales/vibrato/{code}_scales_vibrato_a.wav")
        record(f"FULL/{singer}/scales/fast_forte/{code}_scales_c_fast_forte_a.wav")
        record(f"FULL/{singer}/excerpts/spoken/{code}_row_spoken.wav")
        record(f"FULL/{singer}/excerpts/straight/{code}_row_straight.wav")
        record(f"data_by_vowel/a/{code}_scales_vibrato_a.wav")
    return tmp_path


def test_the_archive_is_read_once_with_its_published_split(root):
    listing = VocalSetCorpus(root=root).listing(root)
    assert listing.root == root / "FULL"
    assert listing.licence == "CC BY 4.0"
    assert listing.clips.height == 15  # three of the ten techniques, five singers
    assert set(listing.clips["label_technique"]) == {"vibrato", "spoken", "straight"}
    assert dict(listing.clips.select("group", "split").unique().iter_rows()) == {
        "female1": "train",
        "female2": "test",
        "male1": "train",
        "male2": "train",
        "male3": "test",
    }


def test_published_test_singers_stay_test_and_valid_comes_out_of_train(root):
    dealt = assign_splits(VocalSetCorpus(root=root).listing(root).clips, Splits())
    test = dealt.filter(pl.col("split") == "test")["group"].unique().sort().to_list()
    assert test == ["female2", "male3"]
    assert dealt.filter(pl.col("split") == "valid")["group"].n_unique() == 1


def test_filters_keep_what_they_name(root):
    papers = VocalSetCorpus(root=root, vowels=ENDINGS).listing(root).clips
    assert set(papers["label_technique"]) == {"vibrato", "spoken"}  # sung excerpts end in no vowel
    only = VocalSetCorpus(root=root, techniques=("fast_forte",), split="by_group").listing(root).clips
    assert set(only["label_technique"]) == {"fast_forte"}
    assert only["split"].null_count() == 5
    with pytest.raises(CorpusError, match=r"none of 20 recordings .* passes the filters"):
        VocalSetCorpus(root=root, techniques=("belt",)).listing(root)


def test_strange_files_are_set_aside(root, record):
    record("FULL/warm-up.wav")
    listing = VocalSetCorpus(root=root).listing(root)
    assert listing.set_aside.rows() == [("warm-up.wav", "its path names no singer or no technique of VocalSet")]


def test_train_and_test_folders_above_the_singers_change_nothing(root):
    (root / "FULL" / "test").mkdir()
    for singer in ("female2", "male3"):
        (root / "FULL" / singer).rename(root / "FULL" / "test" / singer)
    clips = VocalSetCorpus(root=root / "FULL").listing(root).clips
    assert clips.filter(pl.col("split") == "test")["group"].unique().sort().to_list() == ["female2", "male3"]
    assert set(clips["label_context"]) < set(CONTEXTS)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"techniques": ["vibrado"]}, "no technique 'vibrado'; did you mean vibrato"),
        ({"vowels": ["y"]}, "no vowel 'y'"),
        ({"techniques": []}, "name at least one technique"),
        ({"split": "random"}, "'published' or 'by_group'"),
    ],
)
def test_unknown_names_are_refused(tmp_path, options, reason):
    with pytest.raises(ValidationError, match=reason):
        VocalSetCorpus.model_validate({"root": tmp_path, **options})
