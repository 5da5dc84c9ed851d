"""Pooled log-mel statistics: a representation of clips without any model."""

from collections.abc import Callable

import numpy as np
import polars as pl
from jaxtyping import Float
from numpy.typing import NDArray

from otoscope.corpus.audio import load_clip
from otoscope.corpus.table import Corpus

BANDS = 80
RATE_HZ = 16_000
WINDOW_SAMPLES, HOP_SAMPLES = 400, 160
"""25 ms windows every 10 ms, as in the front ends of speech models."""

FLOOR = 1e-10


def logmel_statistics(wave: Float[np.ndarray, " samples"]) -> Float[np.ndarray, " statistics"]:
    """Return mean and standard deviation over time of each of `BANDS` log-mel energies, in dB, float32.

    `wave` is mono at 16 kHz; a clip shorter than one window is padded with zeros.
    """
    from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

    filters = mel_filter_bank(
        WINDOW_SAMPLES // 2 + 1, BANDS, 0.0, RATE_HZ / 2, RATE_HZ, norm="slaney", mel_scale="slaney"
    )
    padded = np.pad(wave, (0, max(0, WINDOW_SAMPLES - len(wave))))
    levels_db = 10 * spectrogram(
        padded.astype(np.float64),
        window_function(WINDOW_SAMPLES, "hann"),
        WINDOW_SAMPLES,
        HOP_SAMPLES,
        power=2.0,
        center=False,
        mel_filters=filters,
        mel_floor=FLOOR,
        log_mel="log10",
    )
    return np.concatenate([levels_db.mean(axis=1), levels_db.std(axis=1)]).astype(np.float32)


def logmel_table(
    corpus: Corpus, *, on_clip: Callable[[], object] | None = None
) -> Float[np.ndarray, "clips statistics"]:
    """Return the statistics of every clip of a corpus, in the same order."""
    statistics: list[NDArray[np.float32]] = []
    for row in _rows(corpus.clips):
        statistics.append(logmel_statistics(load_clip(corpus.root, row, rate_hz=RATE_HZ)))
        if on_clip is not None:
            on_clip()
    return np.stack(statistics)


def _rows(clips: pl.DataFrame) -> list[dict[str, object]]:
    return clips.rows(named=True)
