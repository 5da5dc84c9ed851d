"""Decoding by ffmpeg: what it delivers is used, what it reports is a reason, and it reads that one file only."""

import os
import struct
import subprocess
import threading
import time

import numpy as np
import psutil
import pytest

import otoscope.corpus.ffmpeg as limits
from otoscope.corpus.audio import decode, load_clip
from otoscope.corpus.decoding import open_sound
from otoscope.corpus.ffmpeg import FfmpegSound
from otoscope.corpus.streaming import StreamedClip, measure_clip
from otoscope.errors import AudioError

ENCODERS = {
    "x.m4a": ("-c:a", "aac"),
    "x.wma": (),
    "x.webm": ("-c:a", "libopus"),
    "x.3gp": ("-c:a", "aac"),
    "x.aac": (),
    "x.oga": ("-c:a", "flac"),
    "x.caf": ("-c:a", "alac"),
    "x.ac3": (),
    "x.mka": ("-c:a", "flac"),
}


def count(path) -> int:
    """Return the number of samples that ffmpeg delivers when it chooses everything itself."""
    command = ["ffmpeg", "-nostdin", "-v", "error", "-i", path, "-map", "0:a:0", "-ac", "1", "-f", "s16le", "-"]
    return len(subprocess.run(command, check=True, capture_output=True).stdout) // 2


@pytest.mark.parametrize("name", ENCODERS)
def test_other_codecs_are_read_with_their_own_length(record, tone, ffmpeg, name):
    source = record("source.wav", tone(440, rate_hz=48_000, seconds=1.5), rate_hz=48_000)
    path = ffmpeg(source, name, *ENCODERS[name])
    sound = decode(path)
    assert len(sound.wave) == count(path)
    middle = sound.wave[sound.rate_hz // 2 : sound.rate_hz]
    assert np.argmax(np.abs(np.fft.rfft(middle))) * 2 == pytest.approx(440, abs=2)
    with open_sound(path) as opened:
        assert isinstance(opened, FfmpegSound)


def test_a_segment_and_a_stream_are_slices_of_the_whole(record, ffmpeg, tmp_path):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 32_000)
    ffmpeg(record("source.wav", noise), "x.caf", "-c:a", "alac")
    whole = decode(tmp_path / "x.caf").wave
    np.testing.assert_array_equal(decode(tmp_path / "x.caf", start_s=0.5, duration_s=0.25).wave, whole[8000:12_000])
    clip = {"path": "x.caf", "start_s": 0.0, "duration_s": None}
    streamed = StreamedClip(tmp_path, clip, rate_hz=8000)
    loaded = load_clip(tmp_path, clip, rate_hz=8000)
    assert len(streamed) == len(loaded)
    np.testing.assert_allclose(streamed[0 : len(loaded)], loaded, atol=2e-6)
    for start_s, duration_s in [(1.9, 0.5), (3.0, None), (3.0, 0.5), (1e308, 1.0)]:
        with pytest.raises(AudioError, match=r"exceeds the recording|too short: 0 samples"):
            decode(tmp_path / "x.caf", start_s=start_s, duration_s=duration_s)
    assert len(decode(tmp_path / "x.caf", start_s=1.5, duration_s=0.505).wave) == 8000


@pytest.mark.parametrize("name", ["x.m4a", "x.wma", "x.webm", "x.caf"])
@pytest.mark.parametrize("kept", [0.5, 0.9])
def test_a_cut_file_is_refused(record, tone, ffmpeg, name, kept):
    path = ffmpeg(record("source.wav", tone(seconds=5.0)), name, *ENCODERS[name])
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(AudioError, match=r"truncated|ffmpeg"):
        decode(path)


def test_a_playlist_of_other_files_is_never_followed(record, ffmpeg, tmp_path):
    source = record("secret.wav")
    for name, text in {
        "list.wav": f"ffconcat version 1.0\nfile '{source}'\n",
        "live.m4a": f"#EXTM3U\n#EXTINF:1,\n{source}\n#EXT-X-ENDLIST\n",
    }.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(AudioError, match="its content is text"):
            decode(tmp_path / name)


@pytest.mark.parametrize("name", ["-i.m4a", "http:x.m4a", "a b%d.m4a", "ü'\".m4a"])
def test_names_that_look_like_options_or_addresses_are_files(record, ffmpeg, tmp_path, name):
    ffmpeg(record("source.wav"), "plain.m4a", "-c:a", "aac").rename(tmp_path / name)
    assert len(decode(tmp_path / name).wave) >= 4000


def test_messages_are_the_same_each_time(record, tone, ffmpeg):
    path = ffmpeg(record("source.wav", tone(seconds=2.0)), "x.m4a", "-c:a", "aac")
    data = bytearray(path.read_bytes())
    at = data.find(b"mdat") + 200
    data[at : at + 300] = bytes(300)
    path.write_bytes(data)
    reasons = []
    for _ in range(2):
        with pytest.raises(AudioError, match="ffmpeg: ") as caught:
            decode(path)
        reasons.append(str(caught.value))
    assert reasons[0] == reasons[1]
    assert "0x" not in reasons[0]


def children() -> list[psutil.Process]:
    """Return the processes that this one started and that still run."""
    return [one for one in psutil.Process().children() if one.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture
def repeated(record, ffmpeg, tmp_path):
    """Write a short AAC file whose frames follow each other many times; its sound lasts `seconds`."""

    def write(seconds, rate_hz):
        wave = np.random.default_rng(0).uniform(-0.001, 0.001, 8 * rate_hz)
        data = ffmpeg(record("source.wav", wave, rate_hz=rate_hz), "one.aac", "-b:a", "8k").read_bytes()
        path = tmp_path / "long.aac"
        path.write_bytes(data * (seconds // 8))
        return path

    return write


def test_a_file_that_expands_to_hours_is_refused_at_the_limit(repeated, monkeypatch):
    monkeypatch.setattr(limits, "LONGEST_S", 3600)
    path = repeated(4000, 8000)
    assert path.stat().st_size < 6_000_000
    with pytest.raises(AudioError, match="longer than 1 hours; cut it"):
        measure_clip(path)
    assert children() == []


@pytest.mark.slow
def test_a_file_that_needs_too_much_processor_time_is_refused(repeated, monkeypatch):
    monkeypatch.setattr(limits, "CPU_S", 1)
    sound = FfmpegSound(repeated(32_000, 16_000), "aac")
    with pytest.raises(AudioError, match="more than 1 s of processor time"):
        list(sound.blocks(0, None, 1 << 20))
    assert children() == []


def test_a_table_of_samples_that_exceeds_memory_is_refused(record, ffmpeg, monkeypatch):
    """ffmpeg reserves 24 bytes for each sample that the index of an MP4 file counts: 400 MB for a file of 5 kB."""
    path = ffmpeg(record("source.wav"), "x.m4a", "-c:a", "aac")
    data, number = bytearray(path.read_bytes()), 1 << 24
    struct.pack_into(">II", data, data.find(b"stsz") + 8, 1, number)
    struct.pack_into(">I", data, data.find(b"stts") + 12, number)
    struct.pack_into(">I", data, data.find(b"stsc") + 16, number)
    path.write_bytes(data)
    monkeypatch.setattr(limits, "MEMORY_KB", 300 << 10)
    start_s = time.monotonic()
    with pytest.raises(AudioError, match=r"too short: 0 samples|allocate memory"):
        decode(path)
    assert time.monotonic() - start_s < 5


def test_a_file_of_whole_blocks_is_measured(record, tone, ffmpeg):
    """Its last block is empty; 20 s are two blocks."""
    ffmpeg(record("source.wav", tone(seconds=20.0)), "x.caf", "-c:a", "alac")
    assert measure_clip(record("x.wav").with_name("x.caf")).samples == 320_000


@pytest.mark.parametrize("field", [b"mvhd", b"mdhd"])
def test_a_duration_that_the_header_claims_is_not_believed(record, ffmpeg, field):
    path = ffmpeg(record("source.wav"), "x.m4a", "-c:a", "aac")
    expected, data = len(decode(path).wave), bytearray(path.read_bytes())
    struct.pack_into(">I", data, data.find(field) + 20, 0x7FFF_FFFF)
    path.write_bytes(data)
    assert len(decode(path).wave) == expected


def test_a_source_that_stalls_is_stopped(record, tmp_path, monkeypatch):
    """Two pipes in the place of a file: one without a writer, one whose writer stops in the middle."""
    monkeypatch.setattr(limits, "STALL_S", 1.0)
    os.mkfifo(tmp_path / "silent.wav")
    with pytest.raises(AudioError, match="ffmpeg did not go on for 1 s"):
        FfmpegSound(tmp_path / "silent.wav", "wav")
    os.mkfifo(tmp_path / "slow.wav")
    data, done = record("source.wav", np.zeros(8_000_000, np.float32)).read_bytes(), threading.Event()

    def write():
        with (tmp_path / "slow.wav").open("wb", buffering=0) as pipe:
            pipe.write(data[: len(data) // 2])
            pipe.flush()
            done.wait(20)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        sound = FfmpegSound(tmp_path / "slow.wav", "wav")
        with pytest.raises(AudioError, match="ffmpeg did not go on for 1 s"):
            list(sound.blocks(0, None, 1 << 20))
    finally:
        done.set()
        writer.join()
    assert children() == []


@pytest.mark.shared
def test_opus_with_a_start_offset_has_the_samples_of_ffmpeg(shared, ffmpeg):
    path = shared / "data" / "odd" / "headers" / "opus_off1.opus"
    command = ["ffmpeg", "-nostdin", "-v", "error", "-i", path, "-ac", "1", "-f", "f32le", "-"]
    expected = np.frombuffer(subprocess.run(command, check=True, capture_output=True).stdout, np.float32)
    found = decode(path).wave
    assert len(found) == len(expected)
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_a_joined_mp4_is_refused_and_further_streams_are_named(record, ffmpeg, tmp_path):
    source = record("x.wav")
    one = ffmpeg(source, "x.m4a", "-c:a", "aac")
    assert note(one) == ""
    (tmp_path / "joined.m4a").write_bytes(one.read_bytes() * 2)
    with pytest.raises(AudioError, match="joined from several MP4 files, and readers stop after the first; split it"):
        decode(tmp_path / "joined.m4a")
    for name in ("two.m4a", "two.mka"):
        two = ffmpeg(source, name, "-map", "0:a", "-map", "0:a")
        assert note(two) == "it has 2 audio streams, of which the first was read"
    film = ffmpeg(source, "film.mp4", "-f", "lavfi", "-i", "testsrc=d=1:s=32x32", "-map", "1:v")
    with pytest.raises(AudioError, match="has no stream of sound, only pictures or other data"):
        decode(film)


def note(path) -> str:
    with open_sound(path) as sound:
        return sound.note
