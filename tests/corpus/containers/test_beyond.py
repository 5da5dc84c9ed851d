"""Bytes after the declared end of the sound, in every uncompressed container: read as sound, or not, and reported."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from otoscope.corpus.audio import decode
from otoscope.corpus.decoding import open_sound
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
