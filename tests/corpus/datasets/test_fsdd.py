"""Spoken digits: names, cuts, and the real 3,000."""

from pathlib import Path

import pytest

from otoscope.corpus.catalog import build_corpus
from otoscope.corpus.datasets.fsdd import FsddCorpus
from otoscope.corpus.splits import Splits
from otoscope.errors import CorpusError


@pytest.fixture
def root(record, tmp_path):
    for speaker in ("ann", "bob", "cy"):
        for take in (0, 1, 10):
            record(f"7_{speaker}_{take}.wav", rate_hz=8000)
    return tmp_path


def test_digit_and_speaker_come_from_the_name(root):
    clips = FsddCorpus(root=root).listing(root).clips
    assert clips.height == 9
    assert set(clips.select("path", "group", "label_digit").iter_rows()) >= {("7_ann_10.wav", "ann", "7")}


def test_takes_cut_by_number_and_speakers_by_name(root):
    assert FsddCorpus(root=root, takes=2).listing(root).clips.height == 6
    clips = FsddCorpus(root=root, takes=1, speakers=("bob",)).listing(root).clips
    assert clips["path"].to_list() == ["7_bob_0.wav"]


def test_other_names_are_set_aside_and_unknown_speakers_refused(root, record):
    record("eight_ann_0.wav")
    assert FsddCorpus(root=root).listing(root).set_aside["path"].to_list() == ["eight_ann_0.wav"]
    with pytest.raises(CorpusError, match=r"no speaker 'anne' under .*; did you mean ann"):
        FsddCorpus(root=root, speakers=("anne",)).listing(root)


def test_a_folder_of_other_recordings_is_no_fsdd(record, tmp_path):
    record("one.wav")
    with pytest.raises(CorpusError, match=r"no recording named \{digit\}"):
        FsddCorpus(root=tmp_path).listing(tmp_path)


@pytest.mark.shared
def test_the_real_corpus_is_whole(shared: Path, tmp_path: Path):
    corpus = build_corpus(FsddCorpus(root=shared / "data" / "fsdd"), Splits(), cache=tmp_path)
    assert corpus.clips.height == 3000
    assert corpus.set_aside.is_empty()
    assert set(corpus.clips["rate_hz"]) == {8000}
    assert corpus.clips.group_by("group", "label_digit").len()["len"].to_list() == [50] * 60
    speakers = corpus.clips.select("group", "split").unique()["split"].value_counts(name="n")
    assert dict(speakers.iter_rows()) == {"train": 3, "valid": 1, "test": 2}
    assert corpus.licence == "CC BY-SA 4.0"
