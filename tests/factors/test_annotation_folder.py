"""Annotation files found by the names of the recordings."""

from pathlib import Path

import polars as pl
import pytest

from otoscope.errors import CorpusError
from otoscope.factors.annotation_folder import AnnotationFolder
from otoscope.factors.annotations import AnnotatedInterval


def one(tier: str) -> AnnotatedInterval:
    return AnnotatedInterval(tier, 0.25, 0.75, "one")


def test_annotation_folder_gives_the_chosen_tiers_of_each_clip(tmp_path: Path):
    (tmp_path / "a.txt").write_text("0.25\t0.75\tone\n")
    (tmp_path / "all.ctm").write_text("a 1 0.25 0.5 one\n")
    folder = AnnotationFolder(tmp_path)
    clips = pl.DataFrame({"path": ["a.wav", "a.wav", "b.wav"], "rate_hz": [16000] * 3})
    assert list(folder.of_clips(clips, ())) == [[one("labels"), one("words")]] * 2 + [[]]
    assert list(folder.of_clips(clips, ("words",))) == [[one("words")]] * 2 + [[]]


def test_annotation_folder_gives_each_channel_its_lines_of_a_table(tmp_path: Path):
    (tmp_path / "all.ctm").write_text("a A 0.25 0.5 one\na B 1 1 two\nb 1 0.25 0.5 one\nb 2 1 1 two\n")
    folder = AnnotationFolder(tmp_path)
    clips = pl.DataFrame({"path": ["a.wav", "a.wav", "b.wav", "b.wav"], "rate_hz": 8000, "channel": [1, None, 1, 2]})
    labels = [[one.label for one in found] for found in folder.of_clips(clips, ())]
    assert labels == [["one"], ["one", "two"], ["one"], ["two"]]


def test_annotation_folder_check_reads_every_file_of_the_recordings(tmp_path: Path):
    names = ("a", "b", "c")
    for name in names:
        (tmp_path / f"{name}.txt").write_text("0\t1\towl\n")
    recordings = [f"{name}.wav" for name in names]
    folder = AnnotationFolder(tmp_path)
    folder.check(recordings, ("labels",))
    with pytest.raises(CorpusError, match=r"tier 'label' has no label in any file under .*; did you mean labels"):
        folder.check(recordings, ("label",))
    for name in names[1:]:
        (tmp_path / f"{name}.txt").write_text("seven\n")
    with pytest.raises(CorpusError, match=r"b\.txt is not a label file .*; annotations of 1 more recording cannot be"):
        folder.check(recordings, ())
    for name in names:
        (tmp_path / f"{name}.txt").write_text("0\t1\t\n")
    with pytest.raises(CorpusError, match=r"no file under .* has a label"):
        folder.check(recordings, ())
    with pytest.raises(CorpusError, match=r"tier 'labels' has no label in any file under .*; nor has any other tier"):
        folder.check(recordings, ("labels",))


def test_annotation_folder_reads_a_table_of_many_recordings_once(tmp_path: Path):
    (tmp_path / "all.ctm").write_text("".join(f"take{i} 1 0.25 0.5 one\n" for i in range(50)))
    folder = AnnotationFolder(tmp_path)
    assert folder.of("take0.wav", rate_hz=16000) == [one("words")]
    (tmp_path / "all.ctm").unlink()
    assert all(folder.of(f"take{i}.wav", rate_hz=16000) == [one("words")] for i in range(50))


def test_annotation_folder_finds_files_by_the_name_of_the_recording(tmp_path: Path):
    (tmp_path / "ann").mkdir()
    (tmp_path / "ann" / "take1.txt").write_text("0.25\t0.75\tone\n")
    (tmp_path / "TAKE2.Table.1.selections.txt").write_text("Begin Time (s)\tEnd Time (s)\tSpecies\n0.25\t0.75\tone\n")
    (tmp_path / "all.ctm").write_text("take3 1 0.25 0.5 one\n")
    (tmp_path / "notes.md").write_text("not an annotation")
    folder = AnnotationFolder(tmp_path)
    assert folder.of("ann/take1.wav", rate_hz=16000) == [one("labels")]
    assert folder.of("bob/take2.flac", rate_hz=16000) == [one("Species")]
    assert folder.of("take3.wav", rate_hz=16000) == [one("words")]
    assert folder.of("take4.wav", rate_hz=16000) == []
    assert folder.of("take1.wav", rate_hz=16000) == folder.of("speech/ann/take1.wav", rate_hz=16000) == [one("labels")]
    assert folder.of("bob/take1.wav", rate_hz=16000) == []
    (tmp_path / "all.ctm").write_text("TAKE3.wav 1 0.25 0.5 one\n")
    assert AnnotationFolder(tmp_path).of("take3.wav", rate_hz=16000) == [one("words")]


def test_annotation_folder_without_annotations_is_refused(tmp_path: Path):
    (tmp_path / "a.srt").touch()
    with pytest.raises(CorpusError, match=r"no annotations under .*; found 1 \.srt; correct .* or convert them"):
        AnnotationFolder(tmp_path)
    with pytest.raises(CorpusError, match="does not exist"):
        AnnotationFolder(tmp_path / "none")
