"""MP3 files of every make: all that the decoder delivers is read, whatever a header estimates."""

import re

import numpy as np
import pytest
import soundfile

from otoscope.corpus.audio import decode
from otoscope.corpus.containers.mpeg import DECODER_DELAY, parse_frame
from otoscope.corpus.decoding import open_sound
from otoscope.errors import AudioError

ID3 = b"ID3\x04\0\0\0\0\x1f\x76" + bytes(4086)
"""An ID3v2 tag of 4,096 bytes."""

MODES = ["CONSTANT", "VARIABLE"]
RATES_HZ = [44_100, 48_000, 22_050, 16_000, 8_000]


def speech(seconds: float, rate_hz: int, seed: int = 0) -> np.ndarray:
    """Return loud noise after a soft tone: a variable rate begins low, so that estimates from the start fail."""
    samples = round(seconds * rate_hz)
    wave = 0.05 * np.sin(2 * np.pi * 220 / rate_hz * np.arange(samples))
    wave[samples // 3 :] += 0.3 * np.random.default_rng(seed).standard_normal(samples - samples // 3)
    return wave.clip(-1, 1).astype(np.float32)


def mp3(path, seconds: float = 3.0, *, rate_hz: int = 44_100, mode: str = "VARIABLE", xing: bool = True, seed: int = 0):
    """Write an MP3; without its Xing header if asked for."""
    wave = speech(seconds, rate_hz, seed)
    soundfile.write(path, wave, rate_hz, format="MP3", bitrate_mode=mode, compression_level=0.6)
    if not xing:
        data = path.read_bytes()
        first = parse_frame(data)
        assert first is not None
        path.write_bytes(data[first.length :])
    return path


def frame_samples(rate_hz: int) -> int:
    return 1152 if rate_hz >= 32_000 else 576


@pytest.mark.parametrize("tag", [b"", ID3])
@pytest.mark.parametrize("xing", [True, False])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_an_mp3_is_read_whole_with_and_without_headers(tmp_path, rate_hz, mode, xing, tag):
    path = mp3(tmp_path / "x.mp3", rate_hz=rate_hz, mode=mode, xing=xing)
    path.write_bytes(tag + path.read_bytes())
    wave = decode(path).wave
    if xing:
        assert len(wave) == 3 * rate_hz
    else:  # the encoder's delay and padding stay
        assert 3 * rate_hz <= len(wave) <= 3 * rate_hz + 4 * frame_samples(rate_hz)
    start = len(wave) // 3 + 2000
    assert np.std(wave[start:-4000]) == pytest.approx(0.28, rel=0.15)


@pytest.mark.parametrize("tag", [b"", b"TAG" + bytes(125), ID3])
@pytest.mark.parametrize("xing", [(True, True), (True, False), (False, True), (False, False)])
def test_all_files_of_a_joined_mp3_are_read(tmp_path, xing, tag):
    first, second = (
        mp3(tmp_path / f"{at}.mp3", seconds, xing=has, seed=at).read_bytes()
        for at, (seconds, has) in enumerate(zip((1.0, 2.0), xing, strict=True))
    )
    lengths = [len(decode(tmp_path / f"{at}.mp3").wave) for at in (0, 1)]
    (tmp_path / "joined.mp3").write_bytes(first + tag + second)
    with open_sound(tmp_path / "joined.mp3") as sound:
        decoded = sum(len(block) for block in sound.blocks(0, None, 1 << 20))
        assert decoded == sound.samples
    # two bare files in a row are one stream, of which the decoder's delay is removed once
    assert decoded - sum(lengths) in (0, DECODER_DELAY)


def test_a_header_may_count_the_frames_of_all_joined_files(tmp_path):
    first, second = (
        bytearray(mp3(tmp_path / f"{at}.mp3", seconds, xing=True, seed=at).read_bytes())
        for at, seconds in enumerate((1.0, 2.0))
    )
    at, inner = (part.index(b"Info" if b"Info" in part[:400] else b"Xing") + 8 for part in (first, second))
    counts = [int.from_bytes(part[i : i + 4], "big") for part, i in ((first, at), (second, inner))]
    whole = len(decode(tmp_path / "0.mp3").wave) + len(decode(tmp_path / "1.mp3").wave)
    first[at : at + 4] = (sum(counts) + 1).to_bytes(4, "big")  # as `ffmpeg -i "concat:a.mp3|b.mp3" -c copy` writes it
    (tmp_path / "joined.mp3").write_bytes(first + second)
    assert abs(len(decode(tmp_path / "joined.mp3").wave) - whole) <= 2 * 1152
    first[at : at + 4] = (sum(counts) + 50).to_bytes(4, "big")
    (tmp_path / "cut.mp3").write_bytes(first + second)
    with pytest.raises(AudioError, match="truncated: the header declares"):
        decode(tmp_path / "cut.mp3")


def test_a_segment_over_the_seam_of_a_joined_mp3_is_a_slice_of_the_whole(tmp_path):
    parts = [mp3(tmp_path / f"{seed}.mp3", 1.0, seed=seed).read_bytes() for seed in (0, 1)]
    path = tmp_path / "joined.mp3"
    path.write_bytes(b"".join(parts))
    whole = decode(path).wave
    cut = decode(path, start_s=0.9, duration_s=0.4).wave
    np.testing.assert_allclose(cut, whole[39_690 : 39_690 + 17_640], atol=1e-6)


def test_a_wrong_xing_header_is_replaced(tmp_path):
    path = mp3(tmp_path / "x.mp3")
    data = bytearray(path.read_bytes())
    at = max(data.find(b"Xing"), data.find(b"Info")) + 8
    frames = int.from_bytes(data[at : at + 4], "big")
    for wrong, reason in ((frames + 1, None), (2 * frames, "truncated: the header declares")):
        data[at : at + 4] = wrong.to_bytes(4, "big")
        path.write_bytes(data)
        if reason is None:
            assert len(decode(path).wave) == frames * 1152 - DECODER_DELAY
        else:
            with pytest.raises(AudioError, match=reason):
                decode(path)


@pytest.mark.parametrize("xing", [True, False])
def test_a_cut_or_damaged_mp3_is_refused(tmp_path, xing):
    path = mp3(tmp_path / "x.mp3", xing=xing)
    data = path.read_bytes()
    path.write_bytes(data[:-50])
    with pytest.raises(AudioError, match="truncated: the header declares"):
        decode(path)
    path.write_bytes(data[: len(data) // 2] + bytes(3000) + data[len(data) // 2 + 3000 :])
    with pytest.raises(AudioError, match=r"damaged: \d+ bytes at byte \d+ are no MPEG frames|truncated"):
        decode(path)


def test_parts_of_different_rates_are_refused(tmp_path):
    parts = [mp3(tmp_path / f"{rate_hz}.mp3", 1.0, rate_hz=rate_hz).read_bytes() for rate_hz in (44_100, 22_050)]
    path = tmp_path / "joined.mp3"
    path.write_bytes(b"".join(parts))
    with pytest.raises(AudioError, match="joined from parts of 22050 Hz and 44100 Hz; split it"):
        decode(path)


def test_bytes_before_the_first_frame_are_counted(tmp_path):
    path = mp3(tmp_path / "x.mp3", 1.0)
    data = path.read_bytes()
    assert note(path) == ""
    path.write_bytes(ID3 + bytes(500) + data)
    assert note(path) == ""
    path.write_bytes(data[500:])
    assert re.fullmatch(r"\d+ bytes before the first MPEG frame were not read", note(path))


def note(path) -> str:
    with open_sound(path) as sound:
        return sound.note
