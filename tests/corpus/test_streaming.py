from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from otoscope.corpus import streaming
from otoscope.corpus.audio import load_clip
from otoscope.corpus.streaming import StreamedClip
from otoscope.errors import AudioError


def clip(path: str, start_s: float = 0.0, duration_s: float | None = None) -> dict[str, Any]:
    return {"path": path, "start_s": start_s, "duration_s": duration_s}


def write(path: Path, seconds: float, rate_hz: int, channels: int = 1, **options: Any) -> Path:
    rng = np.random.default_rng(0)
    soundfile.write(path, 0.2 * rng.standard_normal((round(seconds * rate_hz), channels)), rate_hz, **options)
    return path


def read(streamed: StreamedClip, step: int) -> np.ndarray:
    return np.concatenate([streamed[start : start + step] for start in range(0, len(streamed), step)])


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "BLOCK_S", 0.37)


@pytest.mark.parametrize("from_hz", [8_000, 16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize(("name", "channels"), [("a.wav", 1), ("a.wav", 2), ("a.flac", 1), ("a.ogg", 2), ("a.mp3", 1)])
def test_the_samples_are_those_of_the_whole_file_way(tmp_path: Path, name: str, channels: int, from_hz: int):
    write(tmp_path / name, 2.31, from_hz, channels)
    whole = load_clip(tmp_path, clip(name), rate_hz=16_000)
    streamed = StreamedClip(tmp_path, clip(name), rate_hz=16_000)
    assert len(streamed) == len(whole)
    np.testing.assert_allclose(read(streamed, 5000), whole, atol=2e-6)


@pytest.mark.parametrize("seed", range(8))
def test_slices_may_overlap_as_windows_do(tmp_path: Path, seed: int):
    rng = np.random.default_rng(seed)
    write(tmp_path / "a.wav", 3.0, 44_100)
    wanted = clip("a.wav", rng.uniform(0.0, 1.0), rng.uniform(0.5, 2.0))
    whole = load_clip(tmp_path, wanted, rate_hz=16_000)
    streamed = StreamedClip(tmp_path, wanted, rate_hz=16_000)
    start = 0
    while start < len(whole):
        stop = start + int(rng.integers(1, 20_000))
        np.testing.assert_allclose(streamed[start:stop], whole[start:stop], atol=2e-6)
        start += int(rng.integers(1, 9_000))


def test_what_was_left_behind_is_forgotten(tmp_path: Path):
    streamed = StreamedClip(write(tmp_path / "a.wav", 2.0, 16_000).parent, clip("a.wav"), rate_hz=16_000)
    assert len(streamed[16_000:17_000]) == 1000
    with pytest.raises(ValueError, match="samples before 16000 are discarded; got a slice from 0 to 100"):
        streamed[0:100]


def broken(path: Path) -> None:
    write(path, 3.0, 16_000)
    path.write_bytes(path.read_bytes()[: -3 * 16_000])


def with_nan(path: Path) -> None:
    wave = 0.1 * np.ones(48_000)
    wave[40_000] = np.nan
    soundfile.write(path, wave, 16_000, subtype="FLOAT")


def silent(path: Path) -> None:
    soundfile.write(path, np.full(48_000, 0.3), 16_000)


def cancelling(path: Path) -> None:
    wave = 0.1 * np.random.default_rng(0).standard_normal(48_000)
    soundfile.write(path, np.stack([wave, -wave], axis=1), 16_000, subtype="FLOAT")


def cut_flac(path: Path) -> None:
    write(path, 3.0, 16_000, format="FLAC")
    path.write_bytes(path.read_bytes()[:-20_000])


@pytest.mark.parametrize("spoil", [broken, with_nan, silent, cancelling, cut_flac])
def test_what_the_whole_file_way_refuses_is_refused_with_the_same_words(tmp_path: Path, spoil: Any):
    spoil(tmp_path / "bad.wav")
    with pytest.raises(AudioError) as whole:
        load_clip(tmp_path, clip("bad.wav"), rate_hz=8_000)
    with pytest.raises(AudioError, match=r"^bad\.wav: ") as streamed:
        read(StreamedClip(tmp_path, clip("bad.wav"), rate_hz=8_000), 8000)
    assert str(streamed.value) == str(whole.value)
