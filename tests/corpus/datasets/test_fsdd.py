"""Spoken digits: names, cuts, and the real 3,000."""

from pathlib import Path

import numpy as np
import pytest

from otoscope.corpus.audio import load_audio
from otoscope.corpus.catalog import build_corpus
from otoscope.corpus.datasets.fsdd import FsddCorpus
from otoscope.corpus.splits import Splits
from otoscope.errors import CorpusError
from otoscope.factors import AnnotationFolder


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


def test_joined_recordings_are_clips_with_their_words_as_annotations(root: Path, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    spec = FsddCorpus(root=root, join=2)
    clips = spec.listing(cache).clips  # three takes of each speaker make one string of two
    assert set(clips.select("path", "group").iter_rows()) == {(f"{who}_000.wav", who) for who in ("ann", "bob", "cy")}
    assert [name for name in clips.columns if name.startswith("label_")] == []
    folder = spec.annotation_folder(cache)
    assert folder is not None
    words = AnnotationFolder(folder).of("ann_000.wav", rate_hz=8000)
    assert [(one.tier, one.label) for one in words] == [("words", "seven")] * 2
    joined = load_audio(folder / "ann_000.wav", rate_hz=8000)
    spoken = [load_audio(root / f"7_ann_{take}.wav", rate_hz=8000) for take in (0, 1, 10)]
    for one in words:
        inside = joined[round(one.start_s * 8000) : round(one.end_s * 8000)]
        assert any(len(inside) == len(wave) and np.abs(inside - wave).max() < 1e-4 for wave in spoken)
    outside = [*joined[: round(words[0].start_s * 8000)], *joined[round(words[0].end_s * 8000) :][:1000]]
    assert np.abs(outside).max() == 0


def test_joined_recordings_are_written_once_for_the_same_settings(root: Path, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    state = {path: path.stat().st_mtime_ns for path in _files(FsddCorpus(root=root, join=2), cache)}
    assert {path: path.stat().st_mtime_ns for path in _files(FsddCorpus(root=root, join=2), cache)} == state
    next(path for path in state if path.suffix == ".wav").unlink()
    assert set(_files(FsddCorpus(root=root, join=2), cache)) == set(state)
    assert FsddCorpus(root=root, join=3).annotation_folder(cache) not in {path.parent for path in state}
    with pytest.raises(CorpusError, match="join is 4, and no speaker has as many recordings"):
        FsddCorpus(root=root, join=4).listing(cache)


def _files(spec: FsddCorpus, cache: Path) -> list[Path]:
    """Return the files of a listing."""
    return sorted(spec.listing(cache).root.iterdir())


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
