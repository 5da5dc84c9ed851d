"""WAV headers that are wrong about the length: the sound that is there is read, anything else is refused."""

import numpy as np
import pytest
import soundfile

from otoscope.corpus.audio import decode
from otoscope.corpus.decoding import open_sound
from otoscope.errors import AudioError


def noise(samples: int, seed: int = 0) -> np.ndarray:
    """Return smooth noise, as sound is, at 16 bits."""
    white = np.random.default_rng(seed).standard_normal(samples + 7)
    return (3000 * np.convolve(white, np.ones(8), "valid")).clip(-32768, 32767).astype(np.int16)


def wav(path, samples: np.ndarray, *, declared: int | None = None, tail: bytes = b"", rate_hz: int = 16_000):
    soundfile.write(path, samples, rate_hz, subtype="PCM_16")
    data = bytearray(path.read_bytes())
    at = data.find(b"data")
    if declared is not None:
        data[at + 4 : at + 8] = declared.to_bytes(4, "little")
    path.write_bytes(data + tail)
    return path


def read(path) -> np.ndarray:
    return np.round(decode(path).wave * 32768).astype(np.int16)


def note(path) -> str:
    with open_sound(path) as sound:
        return sound.note


@pytest.mark.parametrize("declared", [0, 8000, 0xFFFF_FFFF, 0x7F00_0000])
def test_sound_beyond_the_declared_size_is_read_and_reported(tmp_path, declared):
    samples = noise(32_000)
    path = wav(tmp_path / "x.wav", samples, declared=declared)
    np.testing.assert_array_equal(read(path), samples)
    expected = "" if declared > 64_000 else f"its header declares {declared:,} bytes of sound, 64,000 were read"
    assert note(path) == expected


def test_a_size_that_overflowed_is_continued(tmp_path):
    """A recording of 4 GiB and 2 s declares 2 s (as a sparse file: zeros between two sounds)."""
    samples = noise(32_000)
    path = wav(tmp_path / "long.wav", samples, declared=64_000)
    with path.open("r+b") as file:
        file.seek((1 << 32) + 44)
        file.write(samples.tobytes())
    with open_sound(path) as sound:
        assert sound.samples == (1 << 31) + 32_000
        (block,) = sound.blocks(1 << 31, 32_000, 1 << 20)
    np.testing.assert_array_equal(np.round(block[:, 0] * 32768).astype(np.int16), samples)


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        (bytes(4000), ""),
        (b"TAG" + b"title".ljust(125), ""),
        (b"LIST\x04\x00\x00\x00INFO", ""),
        (b"\n<html>404 not found</html>\n" * 40, "1,120 bytes of text after the sound were not read"),
    ],
)
def test_what_is_no_sound_after_the_sound_is_not_read(tmp_path, tail, expected):
    samples = noise(8000)
    path = wav(tmp_path / "x.wav", samples, tail=tail)
    np.testing.assert_array_equal(read(path), samples)
    assert note(path) == expected


def test_floats_are_no_sound_if_they_are_not_finite(tmp_path):
    path = tmp_path / "x.wav"
    soundfile.write(path, 0.1 * np.sin(np.arange(8000) / 9), 16_000, subtype="FLOAT")
    signalling = (0x7FA0_0000).to_bytes(4, "little")
    path.write_bytes(path.read_bytes() + signalling * 999)
    with pytest.raises(AudioError, match="contradicts itself"):
        decode(path)


def test_bytes_that_may_be_anything_are_refused(tmp_path):
    other = np.random.default_rng(1).integers(0, 256, 6000, dtype=np.uint8).tobytes()
    path = wav(tmp_path / "x.wav", noise(8000), tail=other)
    with pytest.raises(AudioError, match="declares 16,000 bytes of sound, 6,000 more follow that are no chunk"):
        decode(path)


@pytest.mark.parametrize("subtype", ["IMA_ADPCM", "MS_ADPCM"])
def test_padding_of_the_last_block_is_no_sound(tmp_path, subtype):
    path = tmp_path / "x.wav"
    soundfile.write(path, noise(5000), 16_000, subtype=subtype)
    data = bytearray(path.read_bytes())
    at = data.find(b"fact")
    data[at + 8 : at + 12] = (4321).to_bytes(4, "little")
    path.write_bytes(data)
    assert len(decode(path).wave) == 4321


def test_mp3_inside_a_wav_is_read_to_its_end(tmp_path, tone):
    soundfile.write(tmp_path / "x.mp3", tone(seconds=2.0), 16_000)
    frames = (tmp_path / "x.mp3").read_bytes()
    form = b"fmt \x1e\0\0\0" + bytes.fromhex("5500 0100 803e0000 a00f0000 0100 0000 0c00 0100 02000000 0000 0100 7105")
    body = b"WAVE" + form + b"data" + len(frames).to_bytes(4, "little") + frames
    (tmp_path / "x.wav").write_bytes(b"RIFF" + len(body).to_bytes(4, "little") + body)
    np.testing.assert_array_equal(decode(tmp_path / "x.wav").wave, decode(tmp_path / "x.mp3").wave)


def test_float_samples_of_a_wave64_are_no_integers(odd_file):
    sound = decode(odd_file("headers/speech_float.w64"))
    assert len(sound.wave) == 1804
    assert np.sqrt(np.mean(sound.wave**2)) == pytest.approx(0.0065, abs=1e-4)


@pytest.mark.parametrize(
    ("form", "subtype"),
    [(form, subtype) for form in ("WAV", "RF64", "WAVEX") for subtype in ("PCM_16", "PCM_24", "FLOAT")]
    + [("WAV", "IMA_ADPCM")],  # libsndfile writes it in no other form
)
@pytest.mark.parametrize("tail", [b"", b"LIST\4\0\0\0INFO"])
def test_all_files_of_a_joined_wav_are_read(tmp_path, form, subtype, tail):
    for name, samples in (("a", noise(9001)), ("b", noise(7000, seed=1))):
        soundfile.write(tmp_path / name, samples / 32768, 16_000, format=form, subtype=subtype)
    single = [decode(tmp_path / name).wave for name in "ab"]
    joined = tmp_path / "joined.wav"
    joined.write_bytes((tmp_path / "a").read_bytes() + tail + (tmp_path / "b").read_bytes())
    np.testing.assert_array_equal(decode(joined).wave, np.concatenate(single))
    assert note(joined) == "joined from 2 WAV files, all were read"


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"rate_hz": 8000}, "different sample rates"), ({"tail": b"data\4\0\0\0abcd"}, "it has two chunks `data`")],
)
def test_a_joined_wav_that_is_no_single_recording_is_refused(tmp_path, options, reason):
    first = wav(tmp_path / "a.wav", noise(9000)).read_bytes()
    second = wav(tmp_path / "b.wav", noise(9000), **options).read_bytes()
    (tmp_path / "joined.wav").write_bytes(first + second)
    with pytest.raises(AudioError, match=reason):
        decode(tmp_path / "joined.wav")


def test_a_wave64_from_a_pipe_is_read_to_its_end(tmp_path):
    soundfile.write(tmp_path / "x.w64", noise(8000), 16_000)
    data = bytearray((tmp_path / "x.w64").read_bytes())
    at = data.index(b"data") + 16
    for size in ((1 << 63) - 1, (1 << 64) - 1):
        data[at : at + 8] = size.to_bytes(8, "little")
        (tmp_path / "x.w64").write_bytes(data)
        np.testing.assert_array_equal(read(tmp_path / "x.w64"), noise(8000))


@pytest.mark.parametrize(
    ("at", "field", "reason"),
    [
        (20, b"\0\0", "is not read by libsndfile|needs ffmpeg|ffmpeg"),
        (22, b"\0\0", "declares 0 channels at 16000 Hz"),
        (24, bytes(4), "declares 1 channels at 0 Hz"),
        (24, b"\x04\0\0\0", "declares a sample rate of 4 Hz; allowed: 100 to 10000000 Hz"),
        (34, b"\x08\0", "contradicts itself: samples of 8 bits in 2 bytes"),
        (22, b"\2\0", "contradicts itself: samples of 16 bits in 1 bytes"),
    ],
)
def test_a_header_with_impossible_fields_is_refused(tmp_path, at, field, reason):
    path = wav(tmp_path / "x.wav", noise(8000))
    data = bytearray(path.read_bytes())
    data[at : at + len(field)] = field
    path.write_bytes(data)
    with pytest.raises(AudioError, match=reason):
        decode(path)


def test_a_wave64_size_of_2_to_the_63_is_refused_as_truncated(tmp_path):
    path = tmp_path / "x.w64"
    soundfile.write(path, noise(8000), 16_000)
    data = bytearray(path.read_bytes())
    at = data.find(b"data") + 16
    data[at : at + 8] = (1 << 63).to_bytes(8, "little")
    path.write_bytes(data)
    with pytest.raises(AudioError, match="truncated: the header declares 9223372036854775"):
        decode(path)


def test_a_wave64_chunk_beyond_any_file_is_no_crash(tmp_path):
    soundfile.write(tmp_path / "x.w64", np.full(4000, 0.1), 16_000, format="W64")
    data = bytearray((tmp_path / "x.w64").read_bytes())
    at = data.index(b"fmt ") + 16
    data[at : at + 8] = (2**64 - 100).to_bytes(8, "little")
    (tmp_path / "x.w64").write_bytes(data)
    with pytest.raises(AudioError, match="no chunk `data`"):
        decode(tmp_path / "x.w64")


def test_chunks_without_end_are_no_hang(tmp_path):
    path = tmp_path / "x.wav"
    with path.open("wb") as file:
        file.write(b"RIFF\0\0\0\0WAVE")
        file.truncate(100 << 20)
    with pytest.raises(AudioError, match="no chunk `data`"):
        decode(path)
