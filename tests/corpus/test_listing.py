"""Searching a folder: every recording once, nothing hidden, and plain words when there is none."""

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from otoscope.corpus.listing import find_audio
from otoscope.errors import CorpusError


def test_every_recording_is_found_once_in_order_of_name(record, tmp_path):
    for name in ["b/Zed.WAV", "a/two.Flac", "a/one.wav", "top.aiff", "a b/ü é.wav"]:
        record(name)
    assert find_audio(tmp_path).paths == ["a b/ü é.wav", "a/one.wav", "a/two.Flac", "b/Zed.WAV", "top.aiff"]


def test_hidden_files_and_folders_are_passed_over(record, tmp_path):
    for name in ["x.wav", "._x.wav", ".cache/y.wav", "__MACOSX/sub/z.wav", ".git/annex/a.wav"]:
        record(name)
    (tmp_path / ".DS_Store").write_bytes(b"?")
    found = find_audio(tmp_path)
    assert found.paths == ["x.wav"]
    assert found.notes == (
        "not read: 1 hidden file with a name of sound: ._x.wav",
        "not read: 2 hidden folders: .cache, __MACOSX",
    )


def test_a_link_to_a_hidden_folder_is_followed(record, tmp_path):
    record(".store/y.wav")
    (tmp_path / "data").symlink_to(".store")
    assert find_audio(tmp_path)[::2] == (["data/y.wav"], ())


def test_links_are_followed_but_never_round_in_a_ring(record, tmp_path):
    record("elsewhere/ann/a.wav")
    record("elsewhere/bob/b.wav")
    record("corpus/own/c.wav")
    root = tmp_path / "corpus"
    (root / "all").symlink_to(tmp_path / "elsewhere")
    (root / "again").symlink_to(tmp_path / "elsewhere" / "bob")
    (root / "own" / "up").symlink_to(root)
    (tmp_path / "elsewhere" / "ring").symlink_to(root)
    (root / "linked.wav").symlink_to(root / "own" / "c.wav")
    found = find_audio(root)
    assert found.paths == ["again/b.wav", "all/ann/a.wav", "linked.wav", "own/c.wav"]
    assert found.notes == ("read once: 3 folders that links lead to again: all/bob, all/ring, own/up",)


def test_a_folder_keeps_its_own_name_before_a_link_to_it(record, tmp_path):
    record("zoe/z.wav")
    (tmp_path / "alias").symlink_to(tmp_path / "zoe")
    assert find_audio(tmp_path).paths == ["zoe/z.wav"]


def test_a_name_that_is_no_text_is_set_aside(record, tmp_path):
    path = record("good.wav")
    try:
        (tmp_path / os.fsdecode(b"caf\xe9.wav")).hardlink_to(path)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    found = find_audio(tmp_path)
    assert found.paths == ["good.wav"]
    assert found.set_aside.rows() == [("caf\\udce9.wav", "the file's name is not valid UTF-8; rename it")]


def test_a_folder_without_audio_says_what_was_looked_for_and_what_is_there(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    for name in ["a.m4a", "b.m4a", "notes.txt", "README"]:
        (tmp_path / name).write_text("no sound")
    with pytest.raises(
        CorpusError, match=r"no audio under .*looked for \.aif .*\.wav.*; warning: 2 \.m4a not read: ins"
    ):
        find_audio(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusError, match="found nothing"):
        find_audio(tmp_path / "empty")


def test_files_that_are_not_read_are_counted_by_extension(record, tmp_path, monkeypatch):
    record("a.wav")
    for name in ["b.M4A", "c.m4a", "d.wma", "e.txt", "f.TXT", "README", *(f"x.{n}" for n in range(9))]:
        (tmp_path / name).write_bytes(b"?")
    monkeypatch.setenv("PATH", str(tmp_path))
    files = find_audio(tmp_path)
    assert files.paths == ["a.wav"]
    assert files.notes[0].startswith(
        "warning: 2 .m4a, 1 .wma not read: install ffmpeg (https://ffmpeg.org), or convert"
    )
    (tmp_path / "g.mp4").write_bytes(b"?")
    (video,) = [note for note in find_audio(tmp_path).notes if "mp4" in note]
    assert video.startswith("warning: 1 .mp4 not read: videos; extract their sound with ffmpeg -i VIDEO -vn SOUND.wav")
    (tmp_path / "g.mp4").unlink()
    assert files.notes[1].startswith("not read, no sound: 2 .txt, 1 no extension, 1 .")
    assert files.notes[1].endswith(" and 3 others")
    program = tmp_path / "ffmpeg"
    program.touch(mode=0o755)
    found = find_audio(tmp_path)
    assert found.paths == ["a.wav", "b.M4A", "c.m4a", "d.wma"]
    assert len(found.notes) == 1


def test_sounds_of_runs_are_no_recordings(record, tmp_path):
    record("a.wav")
    record("runs/one/explain/latent1.flac")
    for name in ("run.json", "config.yaml"):
        (tmp_path / "runs" / "one" / name).touch()
    found = find_audio(tmp_path)
    assert found.paths == ["a.wav"]
    assert found.notes == ("no sound in 1 folder: runs", "not read: 1 folder of a run: runs/one")
    assert find_audio(tmp_path / "runs" / "one").paths == ["explain/latent1.flac"]


def test_videos_are_read_where_there_is_nothing_else(record, tmp_path, monkeypatch):
    for name in ["one.mp4", "b/two.MKV", "c.avi"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"?")
    (tmp_path / "ffmpeg").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = find_audio(tmp_path)
    assert found.paths == ["b/two.MKV", "one.mp4"]
    assert found.notes[0] == "no files of sound alone: that of 1 .mkv, 1 .mp4 is read"
    assert found.notes[1].startswith("warning: 1 .avi not read: videos")
    record("one.wav")  # its sound, perhaps
    assert find_audio(tmp_path).paths == ["one.wav"]
    (tmp_path / "one.wav").unlink()
    monkeypatch.setenv("PATH", "")
    with pytest.raises(CorpusError, match=r"1 \.avi, 1 \.mp4, 1 \.mkv not read: videos; extract their sound"):
        find_audio(tmp_path)


def test_files_without_an_extension_of_audio_are_found_by_their_content(record, tmp_path):
    sound = {form: record(f"known.{form}").read_bytes() for form in ("wav", "flac", "ogg", "aiff", "mp3", "caf", "au")}
    for form, data in sound.items():
        (tmp_path / f"bare_{form}").write_bytes(data)
    (tmp_path / "take.1").write_bytes(sound["wav"])
    (tmp_path / "tagged").write_bytes(b"ID3\4\0\0\0\0\0\x10" + bytes(16) + sound["mp3"])
    passed_over = {
        "copy.wav.bak": sound["wav"],
        "copy.wav~": sound["wav"],
        "half.part": sound["flac"],
        "film": b"RIFF\0\0\0\0AVI " + bytes(100),
        "text": "\ufeffname,value".encode("utf-16"),
        "empty": b"",
    }
    for name, data in passed_over.items():
        (tmp_path / name).write_bytes(data)
    os.mkfifo(tmp_path / "pipe")
    found = find_audio(tmp_path)
    assert found.paths == sorted(
        [*(f"known.{form}" for form in sound), *(f"bare_{form}" for form in sound), "tagged", "take.1"]
    )
    assert found.notes == (
        "read as sound by their content: 8 no extension, 1 .1",
        "not read, no sound: 4 no extension, 1 .bak, 1 .wav~, 1 .part",
    )


def test_a_root_that_is_no_folder_is_refused(tmp_path):
    with pytest.raises(CorpusError, match="does not exist; set `root`"):
        find_audio(tmp_path / "absent")
    (tmp_path / "file.wav").write_bytes(b"")
    with pytest.raises(CorpusError, match="is a file, not a folder"):
        find_audio(tmp_path / "file.wav")


def test_names_with_line_breaks_and_links_to_nothing_are_named(record, tmp_path):
    record("good.wav").rename(tmp_path / "caf\u00e9.wav")
    record("two\nlin\u00e9s.wav")
    (tmp_path / "speaker3").symlink_to("gone")
    (tmp_path / "lost.wav").symlink_to("gone.wav")
    found = find_audio(tmp_path)
    assert found.paths == ["caf\u00e9.wav", "lost.wav"]
    reason = "the file's name has a control character, such as a line break; rename it"
    assert found.set_aside.rows() == [("two\\nlin\u00e9s.wav", reason)]
    assert found.notes == ("warning: 1 link to nothing: speaker3",)


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs permissions of POSIX")
def test_a_folder_that_cannot_be_read_is_named():
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        for folder in ("open", "closed"):
            (root / folder).mkdir(mode=0o755)
            soundfile.write(root / folder / "x.wav", np.zeros(100), 8000)
        (root / "closed").chmod(0)
        user = os.geteuid()
        os.seteuid(user or 65534)  # everything is open to the superuser
        try:
            found = find_audio(root)
        finally:
            os.seteuid(user)
            (root / "closed").chmod(0o755)
    assert found.paths == ["open/x.wav"]
    assert "warning: 1 folder that cannot be read: closed (Permission denied)" in found.notes
