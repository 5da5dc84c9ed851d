"""Choice of a decoder: by content, never by name; nothing that blocks; the remedy where a program is missing."""

import errno
import os
import time

import numpy as np
import pytest
import soundfile

from otoscope.corpus.audio import decode
from otoscope.corpus.containers import ByteSpan
from otoscope.corpus.decoding import PiecedFile, open_sound
from otoscope.errors import AudioError, StorageFull


@pytest.mark.parametrize("name", ["x.wav", "x.mp3", "x.raw", "x.txt", "x"])
def test_the_content_decides_not_the_name(record, tone, tmp_path, name):
    record("a.flac", tone()).rename(tmp_path / name)
    np.testing.assert_allclose(decode(tmp_path / name).wave, tone(), atol=2e-4)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_named_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "x.wav")
    with pytest.raises(AudioError, match="is no regular file, but a pipe"):
        decode(tmp_path / "x.wav")


@pytest.mark.parametrize("name", ["x.wav", "x.mp3"])
def test_a_hundred_megabytes_of_zeros_are_refused_fast(tmp_path, name):
    with (tmp_path / name).open("wb") as file:
        file.truncate(100 << 20)
    start_s = time.process_time()
    with pytest.raises(AudioError, match="it begins with zeros; copy or download it again"):
        decode(tmp_path / name)
    assert time.process_time() - start_s < 1.0


def test_without_ffmpeg_the_remedy_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    box = (16).to_bytes(4, "big") + b"ftypM4A \0\0\0\0" + (8).to_bytes(4, "big") + b"moov"
    (tmp_path / "x.m4a").write_bytes(box)
    with pytest.raises(AudioError, match=r"MP4 is not read by libsndfile; install ffmpeg .* or convert the file"):
        decode(tmp_path / "x.m4a")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\0\0\0\x10ftypM4A \0\0\0\0\0\0\1\0mdat", "truncated: the header declares 272 bytes, the file has 24"),
        (b"\0\0\0\x10ftypM4A \0\0\0\0", "truncated: it has no index"),
        (bytes.fromhex("1a45dfa380 18538067 01000000000fffff"), "truncated: the header declares"),
        (b"NIST_1A\n   1024\nend_head\n", "a Sphere header without 'sample_rate'"),
        (b"FORM\0\0\0\0AIFF", "no chunk `COMM`"),
        (b"caff\0\1\0\0", "no chunk `desc`"),
        (b".snd\0\0\0\x18", "truncated: the header is incomplete"),
        (b"fLaC\0\0\0\x22", "truncated: the header of FLAC|without stream information"),
    ],
)
def test_the_start_of_a_file_is_not_a_file(tmp_path, content, reason):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(AudioError, match=reason):
        decode(tmp_path / "x")


@pytest.mark.parametrize("rate_hz", [0, 4, 4_127_211_136])
def test_an_impossible_sample_rate_is_refused(tmp_path, rate_hz):
    head = b"Creative Voice File\x1a\x1a\0\x0a\x01\x29\x11" + b"\x09" + (2012).to_bytes(3, "little")
    body = rate_hz.to_bytes(4, "little") + bytes([16, 1, 4, 0]) + bytes(2004)
    (tmp_path / "x.voc").write_bytes(head + body + b"\0")
    with pytest.raises(AudioError, match=rf"1 channels at 0 Hz|sample rate of {rate_hz} Hz; allowed: 100 to"):
        decode(tmp_path / "x.voc")


def test_blocks_of_a_segment_join_to_the_segment(record, tmp_path):
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, (5000, 2))
    path = record("x.wav", wave, subtype="FLOAT")
    with open_sound(path) as sound:
        assert (sound.rate_hz, sound.channels, sound.samples) == (16_000, 2, 5000)
    for first, count, block in [(0, None, 700), (0, 5000, 1 << 20), (123, 4000, 999), (4990, 10, 3)]:
        with open_sound(path) as sound:
            blocks = list(sound.blocks(first, count, block))
        assert max(map(len, blocks)) <= block
        expected = wave[first:] if count is None else wave[first : first + count]
        np.testing.assert_allclose(np.concatenate(blocks), expected, atol=1e-7)


def test_a_pieced_file_reads_as_its_pieces_in_a_row(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(bytes(range(100)))
    expected = b"head" + bytes(range(10, 30)) + b"middle" + bytes(range(90, 100))
    rng = np.random.default_rng(0)
    with PiecedFile(path, (b"head", ByteSpan(10, 30), b"middle", ByteSpan(90, 100))) as file:
        assert file.read() == expected
        assert file.seek(0, os.SEEK_END) == len(expected)
        for _ in range(200):
            start, count = int(rng.integers(0, 45)), int(rng.integers(1, 45))
            file.seek(start)
            assert file.read(count) == expected[start : start + count]
            assert file.tell() == min(start + count, max(start, len(expected)))


def test_the_read_of_a_wave_in_another_rate_is_that_of_its_header(tmp_path):
    soundfile.write(tmp_path / "x.wav", np.full(500, 0.1), 192_000)
    with open_sound(tmp_path / "x.wav") as sound:
        assert sound.rate_hz == 192_000


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"PK\x03\x04" + bytes(99), "a zip archive; unpack it"),
        (b"\x1f\x8b\x08" + bytes(99), "compressed with gzip"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "a pointer of Git LFS; fetch"),
        (b"/annex/objects/MD5E-s12--00.wav\n", "a pointer of git-annex; fetch"),
        (b"\n<!DOCTYPE html>", "a web page or XML"),
        (b"MThd" + bytes(99), "MIDI, which holds notes and no sound"),
        (b"one,two\n1,2\n", "text"),
        (b"RIFF\x10\0\0\0AVI LIST" + bytes(99), "RIFF of the kind 'AVI', not WAVE"),
        (bytes(range(1, 160)), "in no known format"),
    ],
)
def test_a_file_named_as_sound_that_is_none_is_described(tmp_path, content, kind):
    (tmp_path / "x.wav").write_bytes(content)
    with pytest.raises(AudioError, match=rf"cannot be decoded as audio \(its content is {kind}"):
        decode(tmp_path / "x.wav")


@pytest.mark.parametrize("error", [KeyError("chunk"), ZeroDivisionError("division by zero"), RuntimeError("odd")])
def test_an_unexpected_error_is_the_reason_of_one_clip(record, tone, tmp_path, error):
    record("x.wav", tone())
    with pytest.raises(AudioError, match=rf"cannot be decoded \({type(error).__name__}: .*\)") as raised:
        raise_while_open(tmp_path / "x.wav", error)
    assert raised.value.__cause__ is error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.EMFILE, "Too many open files"),
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("can't start new thread"),
        StorageFull("no room"),
        KeyboardInterrupt(),
        SystemExit(143),
    ],
)
def test_a_fault_of_the_machine_is_no_reason_of_a_clip(record, tone, tmp_path, error):
    record("x.wav", tone())
    with pytest.raises(type(error)) as raised:
        raise_while_open(tmp_path / "x.wav", error)
    assert raised.value is error


def raise_while_open(path, error):
    with open_sound(path):
        raise error
