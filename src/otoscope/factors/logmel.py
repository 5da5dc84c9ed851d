"""Pooled log-mel statistics: a representation of clips without any model."""

import numpy as np
from jaxtyping import Float

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


def logmel_table(corpus: Corpus) -> Float[np.ndarray, "clips statistics"]:
    """Return the statistics of every clip of a corpus, in the same order."""
    clips = corpus.clips.iter_rows(named=True)
    return np.stack([logmel_statistics(load_clip(corpus.root, clip, rate_hz=RATE_HZ)) for clip in clips])
