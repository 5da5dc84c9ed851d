"""Spectrograms as small pictures: decibels on 8 bits, a perceptually uniform colour map."""

import io
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from otoscope.errors import EvaluationError

RANGE_DB = 70.0
MAP_ANCHORS = ("#10131c", "#2b2a5b", "#6b2f7d", "#b43c72", "#ea6a51", "#fbb567", "#fdf3c7")
"""Anchors of the colour map, of evenly rising lightness: dark blue, purple, red, orange, cream."""


class Spectrogram(NamedTuple):
    """Level of each band and frame on 0..255 (0: `RANGE_DB` or more under the loudest; 255: the loudest).

    Row 0 is the lowest frequency. Bands are evenly spaced from 0 Hz to `high_hz`; frames from 0 s to `duration_s`.
    """

    levels: UInt8[np.ndarray, "bands frames"]
    high_hz: float
    duration_s: float


WINDOW_S, HOP_S = 0.032, 0.008


def spectrogram(
    wave: Float[np.ndarray, " samples"],
    *,
    rate_hz: int,
    high_hz: float | None = 8000.0,
) -> Spectrogram:
    """Return the spectrogram of a sound: `20 log10 |STFT|`, Hann window, relative to its loudest point.

    `high_hz` is the highest frequency, at most half the sample rate. Raises `EvaluationError` for a sound without
    samples or with non-finite values.

    >>> tone = np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000)
    >>> shown = spectrogram(tone, rate_hz=16000)
    >>> int(shown.levels.mean(axis=1).argmax() * shown.high_hz / (shown.levels.shape[0] - 1))
    1000
    """
    if wave.size == 0 or not np.isfinite(wave).all():
        raise EvaluationError(f"a spectrogram needs finite samples; got {wave.size} samples")
    length = 1 << max(int(np.ceil(np.log2(WINDOW_S * rate_hz))), 4)
    hop = max(round(HOP_S * rate_hz), 1)
    padded = np.pad(wave.astype(np.float64), (length // 2, length // 2 + hop))
    frames = np.lib.stride_tricks.sliding_window_view(padded, length)[::hop]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)
    level = np.abs(np.fft.rfft(frames * hann, axis=1)).T
    top_hz = min(high_hz or rate_hz / 2, rate_hz / 2)
    bands = int(np.floor(top_hz * length / rate_hz + 1e-9)) + 1
    kept = level[:bands]
    reference = kept.max()
    scaled = np.zeros(kept.shape, dtype=np.uint8)
    if reference > 0:
        below_db = 20 * np.log10(np.maximum(kept / reference, 1e-12))
        scaled = np.round(255 * np.clip(1 + below_db / RANGE_DB, 0, 1)).astype(np.uint8)
    return Spectrogram(scaled, (bands - 1) * rate_hz / length, wave.size / rate_hz)


def colour_map() -> UInt8[np.ndarray, "256 3"]:
    """Return the 256 colours of the map, interpolated between `MAP_ANCHORS` from dark to light."""
    anchors = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in MAP_ANCHORS], dtype=np.float64)
    where = np.linspace(0, len(anchors) - 1, 256)
    columns = [np.interp(where, np.arange(len(anchors)), anchors[:, channel]) for channel in range(3)]
    return np.round(np.stack(columns, axis=1)).astype(np.uint8)


def to_png(levels: UInt8[np.ndarray, "bands frames"], *, max_frames: int = 480, max_bands: int = 160) -> bytes:
    """Return a PNG with the low frequencies at the bottom, averaged down to at most the given size."""
    small = _shrunk(_shrunk(levels, max_bands, axis=0), max_frames, axis=1)
    picture = Image.fromarray(np.ascontiguousarray(small[::-1]))
    picture.putpalette(colour_map().tobytes())
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _shrunk(
    levels: UInt8[np.ndarray, "bands frames"], at_most: int, *, axis: int
) -> UInt8[np.ndarray, "kept_bands kept_frames"]:
    size = levels.shape[axis]
    if size <= at_most:
        return levels
    edges = np.linspace(0, size, at_most + 1).astype(np.intp)[:-1]
    counts = np.diff(np.append(edges, size))
    shape = (-1, 1) if axis == 0 else (1, -1)
    sums = np.add.reduceat(levels.astype(np.float64), edges, axis=axis)
    return np.round(sums / counts.reshape(shape)).astype(np.uint8)
