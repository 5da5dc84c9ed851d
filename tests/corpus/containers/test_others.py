"""VOC, AIFF, CAF, AU and NIST: blocks and chunks around the samples are no sound."""

import numpy as np
import pytest
import soundfile

from otoscope.corpus.audio import decode
from otoscope.errors import AudioError

VOC = b"Creative Voice File\x1a\x1a\0\x0a\x01\x29\x11"


def samples(count: int = 9000) -> np.ndarray:
    return np.random.default_rng(0).integers(-9000, 9000, count).astype(np.int16)


def read(path) -> np.ndarray:
    return np.round(decode(path).wave * 32768).astype(np.int16)


def block(kind: int, body: bytes) -> bytes:
    return bytes([kind]) + len(body).to_bytes(3, "little") + body


def new_sound(wave: np.ndarray, rate_hz: int = 8000) -> bytes:
    head = rate_hz.to_bytes(4, "little") + bytes([16, 1]) + (4).to_bytes(2, "little") + bytes(4)
    return block(9, head + wave.tobytes())


def test_only_the_sound_of_voc_blocks_is_read(tmp_path):
    wave, path = samples(), tmp_path / "x.voc"
    first, second = wave[:4000], wave[4000:]
    text, silence = block(5, b"spoken by ann" * 40 + b"\0"), block(3, (99).to_bytes(2, "little") + b"\x83")
    path.write_bytes(VOC + new_sound(first) + text + silence + block(2, second.tobytes()) + text + b"\0after the end")
    np.testing.assert_array_equal(read(path), np.concatenate([first, np.zeros(100, np.int16), second]))


def test_eight_bit_voc_with_blocks_as_ffmpeg_writes_them_is_read(tmp_path):
    wave = np.random.default_rng(0).integers(60, 200, 900).astype(np.uint8)
    blocks = [block(1, bytes([131, 0]) + wave[:300].tobytes()), block(2, wave[300:].tobytes())]
    (tmp_path / "x.voc").write_bytes(VOC + b"".join(blocks) + b"\0")
    sound = decode(tmp_path / "x.voc")
    assert sound.rate_hz == 8000
    np.testing.assert_array_equal(np.round(sound.wave * 128 + 128).astype(np.uint8), wave)


@pytest.mark.parametrize(
    ("blocks", "reason"),
    [
        (new_sound(samples())[:-10], "truncated: a block ends at byte"),
        (new_sound(samples()) + new_sound(samples(), 16_000), "its blocks differ in encoding or sample rate"),
        (new_sound(samples()) + block(6, b"\x05\0") + block(7, b""), "its sound is repeated"),
        (block(5, b"no sound\0") + b"\0", "a VOC header without sound"),
        (block(1, bytes([131, 2]) + bytes(500)) + b"\0", "codec 2 of VOC"),
        (new_sound(samples()).replace(b"\x10\1\4", b"\x10\x1b\4"), "codec 4 of VOC, 27 channels"),
    ],
)
def test_a_voc_that_cannot_be_read_says_why(tmp_path, blocks, reason):
    (tmp_path / "x.voc").write_bytes(VOC + blocks)
    with pytest.raises(AudioError, match=reason):
        decode(tmp_path / "x.voc")


@pytest.mark.parametrize("declared", [0, 0x7F00_0000, 0x7FFF_FFFF, 0xFFFF_FFFF])
def test_an_aiff_from_a_pipe_is_read_to_its_end(tmp_path, declared):
    wave, path = samples(), tmp_path / "x.aiff"
    soundfile.write(path, wave, 8000)
    data = bytearray(path.read_bytes())
    comm, ssnd = data.find(b"COMM"), data.find(b"SSND")
    data[comm + 10 : comm + 14] = (max(declared - 8, 0) // 2).to_bytes(4, "big")
    data[ssnd + 4 : ssnd + 8] = declared.to_bytes(4, "big")
    path.write_bytes(data)
    np.testing.assert_array_equal(read(path), wave)


def test_an_aiff_whose_header_contradicts_its_sound_is_refused(tmp_path):
    path = tmp_path / "x.aiff"
    soundfile.write(path, samples(), 8000)
    data = bytearray(path.read_bytes())
    comm = data.find(b"COMM")
    data[comm + 10 : comm + 14] = (500).to_bytes(4, "big")
    path.write_bytes(data)
    with pytest.raises(AudioError, match="its header declares 500 samples, its sound has 9000"):
        decode(path)


@pytest.mark.parametrize(
    ("form", "subtype", "endian"),
    [
        (form, subtype, endian)
        for form in ("WAV", "RF64", "W64", "AIFF", "AU", "CAF", "NIST")
        for subtype in ("PCM_U8", "PCM_S8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW")
        for endian in ("FILE", "LITTLE", "BIG")
        if soundfile.check_format(form, subtype, endian)  # RF64 and Wave64 are never big-endian
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_uncompressed_encodings_are_read_as_written(tmp_path, form, subtype, endian, channels):
    path = tmp_path / f"x.{form.lower()}"
    wave = samples().reshape(-1, channels) / 32768
    soundfile.write(path, wave, 8000, format=form, subtype=subtype, endian=endian)
    expected = soundfile.read(path, dtype="float32", always_2d=True)[0]
    sound = decode(path)
    np.testing.assert_allclose(sound.wave, expected.mean(axis=1), atol=1e-7)
    assert sound.rate_hz == 8000


def test_a_caf_whose_packets_contradict_its_channels_is_refused(tmp_path):
    soundfile.write(tmp_path / "x.caf", samples(), 16_000)
    data = bytearray((tmp_path / "x.caf").read_bytes())
    at = data.index(b"desc") + 12 + 24
    assert data[at : at + 4] == b"\0\0\0\1"
    data[at + 3] = 86
    (tmp_path / "x.caf").write_bytes(data)
    with pytest.raises(AudioError, match="contradicts itself: 2 bytes hold a sample of 86 channels of PCM_16"):
        decode(tmp_path / "x.caf")


@pytest.mark.parametrize("form", ["AIFF", "VOC", "AU", "CAF", "NIST", "W64"])
def test_a_joined_file_is_refused_where_readers_stop_after_the_first(tmp_path, form):
    smooth = np.sin(np.arange(9000) / 9) / 2
    soundfile.write(tmp_path / "x", smooth, 16_000, format=form, subtype="PCM_16")
    data = (tmp_path / "x").read_bytes()
    (tmp_path / "x").write_bytes(data + data)
    with pytest.raises(AudioError, match=r"joined from several|contradicts itself: its header declares"):
        decode(tmp_path / "x")


@pytest.mark.parametrize("name", ["headers/voc1_text.voc"])
def test_published_odd_files_have_their_length(odd_file, name):
    assert len(decode(odd_file(name)).wave) == 8000
