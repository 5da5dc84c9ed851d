"""Ogg: streams one after the other are all read; missing pages are named."""

import numpy as np
import pytest
import soundfile

from otoscope.corpus.audio import decode
from otoscope.errors import AudioError


def ogg(path, seconds: float, *, subtype: str = "VORBIS", rate_hz: int = 16_000, seed: int = 0):
    wave = 0.2 * np.random.default_rng(seed).standard_normal(round(seconds * rate_hz))
    soundfile.write(path, wave.clip(-1, 1), rate_hz, format="OGG", subtype=subtype)
    return path


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_all_streams_of_a_joined_ogg_are_read(tmp_path, subtype):
    paths = [ogg(tmp_path / f"{at}.ogg", seconds, subtype=subtype, seed=at) for at, seconds in enumerate((2.0, 1.5))]
    waves = [decode(path).wave for path in paths]
    assert [len(wave) for wave in waves] == [32_000, 24_000]
    joined = tmp_path / "joined.ogg"
    joined.write_bytes(b"".join(path.read_bytes() for path in paths))
    np.testing.assert_array_equal(decode(joined).wave, np.concatenate(waves))
    np.testing.assert_allclose(
        decode(joined, start_s=1.5, duration_s=1.0).wave, np.concatenate(waves)[24_000:40_000], atol=1e-4
    )


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
@pytest.mark.parametrize("rate_hz", [8000, 16_000, 48_000])
def test_the_length_is_that_of_the_sound_at_every_rate(tmp_path, subtype, rate_hz):
    assert len(decode(ogg(tmp_path / "x.ogg", 1.2345, subtype=subtype, rate_hz=rate_hz)).wave) == round(
        1.2345 * rate_hz
    )


def pages(data: bytes) -> list[bytes]:
    starts = [at for at in range(len(data)) if data[at : at + 4] == b"OggS"]
    return [data[start:stop] for start, stop in zip(starts, [*starts[1:], len(data)], strict=True)]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda parts: parts[:-2] + parts[-1:], "damaged: Ogg pages are missing"),
        (lambda parts: [*parts[:-2], b"gap", *parts[-2:]], "damaged: the bytes at"),
        (lambda parts: [*parts[:-1], parts[-1][:-9]], "truncated: the header declares"),
    ],
)
def test_missing_pages_are_named(tmp_path, damage, reason):
    path = ogg(tmp_path / "x.ogg", 10.0)
    path.write_bytes(b"".join(damage(pages(path.read_bytes()))))
    with pytest.raises(AudioError, match=reason):
        decode(path)


def test_streams_of_different_rates_are_refused(tmp_path):
    paths = [ogg(tmp_path / f"{rate_hz}.ogg", 1.0, rate_hz=rate_hz) for rate_hz in (16_000, 48_000)]
    (tmp_path / "joined.ogg").write_bytes(b"".join(path.read_bytes() for path in paths))
    with pytest.raises(AudioError, match="joined from Ogg files of different sample rates"):
        decode(tmp_path / "joined.ogg")
