"""Recordings of known sound, and files that are no good in known ways."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile


def tone(hertz: float = 440.0, *, rate_hz: int = 16_000, seconds: float = 0.25, peak: float = 0.5) -> np.ndarray:
    return (peak * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate_hz)) / rate_hz)).astype(np.float32)


Record = Callable[..., Path]


@pytest.fixture(name="tone")
def _tone() -> Callable[..., np.ndarray]:
    return tone


@pytest.fixture
def record(tmp_path: Path) -> Record:
    """Write a recording at a relative path under the test's own folder; a tone unless a wave is given."""

    def write(relative: str, wave: np.ndarray | None = None, *, rate_hz: int = 16_000, **options: str) -> Path:
        path = tmp_path / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        # a frequency of its own, so that no two files hold the same bytes
        own_hz = 200.0 + sum(relative.encode()) % 997
        soundfile.write(path, tone(own_hz, rate_hz=rate_hz) if wave is None else wave, rate_hz, **options)
        return path

    return write


@pytest.fixture
def manifest(tmp_path: Path) -> Callable[..., Path]:
    """Write a table of recordings into the test's own folder."""

    def write(text: str, name: str = "clips.csv") -> Path:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return write


@pytest.fixture
def odd_file(shared: Path) -> Callable[[str], Path]:
    """Return the path of an unusual file of the shared collection; skip the test where it is not at hand."""

    def find(name: str) -> Path:
        path = shared / "data" / "odd" / name
        if not path.is_file():
            pytest.skip(f"{name} is not among the shared recordings")
        return path

    return find


@pytest.fixture
def ffmpeg(tmp_path: Path) -> Callable[..., Path]:
    """Encode a sound file with ffmpeg into a new file of the test's folder; skip the test without ffmpeg."""
    program = shutil.which("ffmpeg")
    if program is None:
        pytest.skip("ffmpeg is not installed")

    def encode(source: Path, name: str, *options: str) -> Path:
        command = [program, "-nostdin", "-v", "error", "-y", "-i", str(source), *options, str(tmp_path / name)]
        subprocess.run(command, check=True)
        return tmp_path / name

    return encode
