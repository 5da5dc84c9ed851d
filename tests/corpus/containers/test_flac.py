"""FLAC: frames decide where the header contradicts them."""

import numpy as np
import pytest
import soundfile

from otoscope.corpus.audio import decode
from otoscope.corpus.containers.flac import _crc8, parse_frame, read_info  # pyright: ignore[reportPrivateUsage]
from otoscope.corpus.decoding import open_sound
from otoscope.errors import AudioError


def samples(count: int = 30_000, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-9000, 9000, count).astype(np.int16)


def flac(path, wave: np.ndarray, rate_hz: int = 8000):
    soundfile.write(path, wave, rate_hz, format="FLAC", subtype="PCM_16")
    return path


def read(path) -> np.ndarray:
    return np.round(decode(path).wave * 32768).astype(np.int16)


def with_fields(path, *, rate_hz: int, count: int):
    """Write another sample rate and number of samples into the header."""
    data = bytearray(path.read_bytes())
    fields = int.from_bytes(data[18:26], "big")
    kept = fields & (0xFF << 36)  # channels and bits, of fewer than 20 + 8 + 36 bits
    data[18:26] = (rate_hz << 44 | kept | count).to_bytes(8, "big")
    path.write_bytes(data)
    return path


def note(path) -> str:
    with open_sound(path) as sound:
        return sound.note


@pytest.mark.parametrize(
    ("rate_hz", "count", "expected"),
    [
        (8000, 0, ""),
        (8000, 12_345, "its header declares 12,345 samples, its frames hold 30,000"),
        (44_100, 30_000, "its header declares 44,100 Hz, its frames hold 8,000"),
        (4, 30_000, "its header declares 4 Hz, its frames hold 8,000"),
    ],
)
def test_frames_decide_where_the_header_contradicts_them(tmp_path, rate_hz, count, expected):
    wave = samples()
    path = with_fields(flac(tmp_path / "x.flac", wave), rate_hz=rate_hz, count=count)
    np.testing.assert_array_equal(read(path), wave)
    assert decode(path).rate_hz == 8000
    assert note(path) == expected


BROKEN_HEADERS = {
    "no stream information": lambda data: data[:4] + data[42:],
    "no metadata": lambda data: data[:4] + data[data.index(b"\xff\xf8") :],
    "stream information of another kind": lambda data: data[:4] + b"\1" + data[5:],
    "stream information as last block": lambda data: data[:4] + b"\x80" + data[5:],
    "a block that is too long": lambda data: data[:6] + b"\1" + data[7:],
    "a block that is longer than the file": lambda data: data[:5] + b"\x7f" + data[6:],
    "zeros": lambda data: data[:8] + bytes(34) + data[42:],
    "ones": lambda data: data[:8] + b"\xff" * 34 + data[42:],
    "blocks of 65535 samples": lambda data: data[:8] + b"\xff" * 4 + data[12:],
    "24 bits": lambda data: data[:20] + b"\x01\x70" + data[22:],
}


@pytest.mark.parametrize("broken", BROKEN_HEADERS)
def test_a_lost_or_broken_header_is_made_from_the_frames(tmp_path, broken):
    wave = samples()
    path = flac(tmp_path / "x.flac", wave)
    path.write_bytes(BROKEN_HEADERS[broken](path.read_bytes()))
    np.testing.assert_array_equal(read(path), wave)
    assert decode(path).rate_hz == 8000


def test_a_header_whose_frames_are_lost_is_refused_with_the_reason(tmp_path):
    path = flac(tmp_path / "x.flac", samples())
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"\xff\xf8")])
    with pytest.raises(AudioError, match="a FLAC header without frames"):
        decode(path)
    path.write_bytes(data[:4])
    with pytest.raises(AudioError, match="a FLAC header without stream information, and no frame"):
        decode(path)


def test_a_header_with_more_samples_than_the_frames_is_refused(tmp_path):
    path = with_fields(flac(tmp_path / "x.flac", samples()), rate_hz=8000, count=30_001)
    with pytest.raises(AudioError, match="truncated: the header declares 30001 samples, its frames hold 30000"):
        decode(path)


@pytest.mark.parametrize("lengths", [(30_000, 17_000), (30_000, 30_000), (5000, 30_000, 4097)])
def test_all_files_of_a_joined_flac_are_read(tmp_path, lengths):
    waves = [samples(length, seed) for seed, length in enumerate(lengths)]
    data = [flac(tmp_path / f"{at}.flac", wave).read_bytes() for at, wave in enumerate(waves)]
    path = tmp_path / "joined.flac"
    path.write_bytes(b"".join(data))
    np.testing.assert_array_equal(read(path), np.concatenate(waves))
    assert note(path) == f"joined from {len(lengths)} FLAC files, all were read"


def test_joined_files_of_different_rates_are_refused(tmp_path):
    data = [flac(tmp_path / f"{rate_hz}.flac", samples(), rate_hz).read_bytes() for rate_hz in (8000, 16_000)]
    (tmp_path / "joined.flac").write_bytes(b"".join(data))
    with pytest.raises(AudioError, match="joined from FLAC files of different sample rates"):
        decode(tmp_path / "joined.flac")


def test_an_id3_tag_before_the_sound_is_skipped(tmp_path):
    wave = samples()
    path = flac(tmp_path / "x.flac", wave)
    path.write_bytes(b"ID3\x04\0\0\0\0\0\x64" + bytes(100) + path.read_bytes())
    np.testing.assert_array_equal(read(path), wave)


@pytest.mark.parametrize("kept", [0.2, 0.5, 0.9, 0.999])
def test_a_cut_flac_is_refused(tmp_path, kept):
    path = flac(tmp_path / "x.flac", samples())
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(AudioError, match=r"truncated|lost sync"):
        decode(path)


@pytest.mark.parametrize("rate_hz", [8000, 11_025, 44_100, 96_000, 12_345, 123_450])
def test_frame_headers_state_the_rate_and_the_place(tmp_path, rate_hz):
    path = flac(tmp_path / "x.flac", samples(), rate_hz)
    with path.open("rb") as file:
        info = read_info(file, 0)
    assert info is not None
    sound = info.sound
    data = path.read_bytes()
    frame = parse_frame(data, sound)
    assert frame is not None
    assert (frame.rate_hz or rate_hz, frame.number, frame.channels) == (rate_hz, 0, 1)
    flipped = bytearray(data)
    flipped[sound + 4] ^= 1
    assert parse_frame(bytes(flipped), sound) is None


@pytest.mark.parametrize(
    ("name", "length", "rate_hz"),
    [
        ("headers/flac_half.flac", 8000, 8000),
        ("headers/flac_rate.flac", 8000, 8000),
        ("flac-test-files/faulty/05 - wrong total number of samples.flac", 109_487, 24_000),
        ("flac-test-files/faulty/04 - wrong number of channels.flac", 97_391, 24_000),
        ("flac-test-files/faulty/02 - wrong maximum framesize.flac", 195_891, 44_100),
        ("flac-test-files/subset/43 - 8 channels (7.1).flac", 438_530, 44_100),
    ],
)
def test_published_odd_files_have_their_length(odd_file, name, length, rate_hz):
    sound = decode(odd_file(name))
    assert (len(sound.wave), sound.rate_hz) == (length, rate_hz)


def test_frames_longer_than_any_header_can_state_are_set_aside(tmp_path):
    head = bytes([0xFF, 0xF8, 0x79, 0x08, 0x00, 0xFF, 0xFF])  # 65,536 samples, 44.1 kHz, mono, 16 bits, number 0
    (tmp_path / "long.flac").write_bytes(b"fLaC" + bytes(4) + head + bytes([_crc8(head)]) + bytes(64))
    with pytest.raises(AudioError, match="65,536 samples, at most 65,535"):
        note(tmp_path / "long.flac")
