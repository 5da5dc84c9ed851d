"""Recordings of known sound, and files that are no good in known ways."""

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
