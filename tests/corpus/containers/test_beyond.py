"""Bytes after the declared end of the sound, in every uncompressed container: read as sound, or not, and reported."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from otoscope.corpus.audio import decode
from otoscope.corpus.decoding import open_sound
from otoscope.corpus.ffmpeg import find_ffmpeg
from otoscope.errors import AudioError

FORMS = ["WAV", "W64", "AIFF", "AU", "CAF", "NIST"]
SUBTYPES = ["PCM_16", "PCM_24", "PCM_32", "FLOAT", "ULAW"]


def smooth(samples: int, seed: int) -> np.ndarray:
    white = np.random.default_rng(seed).standard_normal(samples + 30)
    return 0.05 * np.convolve(white, np.hanning(31), "valid")


def written(path: Path, wave: np.ndarray, form: str, subtype: str) -> bytes:
    """Write a file; return its samples without the header, which are the same for every length."""
    soundfile.write(path, wave, 8000, format=form, subtype=subtype)
    raw = path.with_suffix(".raw")
    endian = {"AIFF": "BIG", "AU": "BIG", "CAF": "BIG"}.get(form, "LITTLE")
    soundfile.write(raw, wave, 8000, format="RAW", subtype=subtype, endian=endian)
    return raw.read_bytes()


def note(path: Path) -> str:
    with open_sound(path) as sound:
        return sound.note


CASES = [(form, subtype) for form in FORMS for subtype in SUBTYPES if soundfile.check_format(form, subtype)]


@pytest.mark.parametrize(("form", "subtype"), CASES)
def test_sound_beyond_the_declared_end_is_read_in_wav_and_refused_elsewhere(tmp_path, form, subtype):
    path = tmp_path / "x"
    more = written(path, smooth(6000, 1), form, subtype)
    end = decode(path).wave
    written(path, smooth(4000, 0), form, subtype)
    start = decode(path).wave
    path.write_bytes(path.read_bytes() + more)
    if form == "WAV":
        np.testing.assert_array_equal(decode(path).wave, np.concatenate([start, end]))
        assert "bytes of sound" in note(path)
    else:
        with pytest.raises(
            AudioError, match=r"contradicts itself: its header declares .* bytes of sound, .* are there"
        ):
            decode(path)


@pytest.mark.parametrize(("form", "subtype"), CASES)
def test_text_and_zeros_are_no_sound(tmp_path, form, subtype):
    path = tmp_path / "x"
    written(path, smooth(4000, 0), form, subtype)
    data, wave = path.read_bytes(), decode(path).wave
    for tail in (bytes(3000), b"\nrecorded by ann, rain at night" * 50):
        path.write_bytes(data + tail)
        if subtype == "ULAW" and tail.strip(b"\0"):
            continue  # companded samples are bytes, as letters are
        np.testing.assert_array_equal(decode(path).wave, wave)


def test_a_rest_that_may_be_anything_is_refused(tmp_path):
    path = tmp_path / "x"
    written(path, smooth(4000, 0), "AU", "PCM_16")
    path.write_bytes(path.read_bytes() + np.random.default_rng(0).bytes(5000))
    with pytest.raises(AudioError, match="declares 8,000 bytes of sound, 5,000 more follow that are no chunk"):
        decode(path)


APE = b"APETAGEX" + (2000).to_bytes(4, "little") + (44).to_bytes(4, "little") + bytes(16) + bytes(range(44))
RESTS = {
    "zeros": bytes(3000),
    "ID3v1": bytes(10) + b"TAG" + bytes(range(125)),
    "APE": APE,
    "Lyrics3": b"LYRICSBEGIN" + bytes(range(200)) + b"000211LYRICS200" + b"TAG" + b"x" * 125,
    "ID3v2": b"ID3\x04\0\0\0\0\1\0" + bytes(range(128)),
    "text": b"\n<html>404 not found</html>\n" * 40,
    "noise": np.random.default_rng(7).bytes(3000),
    "long noise": np.random.default_rng(7).bytes(300_000),
}
COMPRESSED = {
    "x.flac": ("FLAC", "PCM_16"),
    "x.mp3": ("MP3", "MPEG_LAYER_III"),
    "vorbis.ogg": ("OGG", "VORBIS"),
    "opus.ogg": ("OGG", "OPUS"),
    "x.voc": ("VOC", "PCM_16"),
    "x.au": ("AU", "G721_32"),
    "chunk.wav": ("WAV", "PCM_16"),
    "chunk.aiff": ("AIFF", "PCM_16"),
}
ENCODED = ("x.wma", "x.webm", "x.aac", "x.caf") if find_ffmpeg() else ()


@pytest.mark.parametrize("rest", RESTS)
@pytest.mark.parametrize("name", [*COMPRESSED, *ENCODED])
def test_bytes_of_unknown_meaning_after_the_sound_are_refused_in_every_container(tmp_path, name, rest):
    path, source = tmp_path / name, tmp_path / "source.wav"
    if name in COMPRESSED:
        form, subtype = COMPRESSED[name]
        soundfile.write(path, smooth(30_000, 0), 8000, format=form, subtype=subtype)
    else:
        soundfile.write(source, smooth(30_000, 0), 8000)
        codec = ["-c:a", "alac"] if name == "x.caf" else []
        subprocess.run([find_ffmpeg() or "", "-v", "error", "-i", source, *codec, path], check=True)
    data = path.read_bytes()
    if name.startswith("chunk"):
        data += b"LIST" + (5).to_bytes(4, "big" if form == "AIFF" else "little") + b"abcde" + b"\0"
        path.write_bytes(data)
    wave = decode(path).wave
    path.write_bytes(data + RESTS[rest])
    if "noise" in rest:
        with pytest.raises(AudioError, match=r"of unknown meaning|contradicts itself|damaged"):
            decode(path)
    else:
        np.testing.assert_array_equal(decode(path).wave, wave)
        assert ("bytes of text after the sound were not read" in note(path)) == (rest == "text")
