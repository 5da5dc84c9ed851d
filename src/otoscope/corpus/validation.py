"""Checks of a whole signal: a clip is unusable if it is too short, silent, far above full scale, or contains NaN."""

import math

import numpy as np
from jaxtyping import Float32

from otoscope.errors import AudioError
from otoscope.formatting import count

SILENCE_DBFS = -90.0
"""A recording counts as silent if its peak around the mean is below this (about one step of 16 bits)."""

SHORTEST_S = 0.010
"""Shortest accepted clip; every supported encoder needs more for one frame."""


MAX_PEAK = 32.0
"""Highest peak, 30 dB above full scale; float recorders stay below, integers stored as floats exceed it."""


class SignalCheck:
    """Length, peak and invalid samples of a clip, accumulated block by block.

    The peak is measured around the mean, so a constant offset counts as silence.
    """

    def __init__(self) -> None:
        self._samples, self._bad = 0, 0
        self._low = self._high = self._sum = np.zeros(0)

    def add(self, wave: Float32[np.ndarray, " samples"], channels: Float32[np.ndarray, "samples channels"]) -> None:
        """Add a block: its mono mean, and the channels."""
        if not len(wave):
            return
        signals = (wave, *channels.T) if channels.shape[1] > 1 else (wave,)
        low, high = (np.array([extreme(x) for x in signals], dtype=np.float64) for extreme in (np.min, np.max))
        total = np.array([x.sum(dtype=np.float64) for x in signals])
        if not np.isfinite(low[0] + high[0]):
            self._bad += int(np.count_nonzero(~np.isfinite(wave)))
        if self._samples:
            low, high, total = np.minimum(low, self._low), np.maximum(high, self._high), total + self._sum
        self._low, self._high, self._sum = low, high, total
        self._samples += len(wave)

    def check(self, rate_hz: int) -> None:
        """Raise `AudioError` if the clip is too short, contains NaN or infinity, is silent, or far above full scale."""
        if self._samples < SHORTEST_S * rate_hz:
            raise AudioError(
                f"too short: {count(self._samples, 'sample')} at {rate_hz} Hz;"
                f" at least {SHORTEST_S * 1000:g} ms are required"
            )
        if self._bad:
            raise AudioError(f"holds NaN or infinity in {self._bad} of {self._samples} samples")
        highest = float(np.maximum(self._high, -self._low).max())
        if highest > MAX_PEAK:
            raise AudioError(
                f"its peak is {highest:g}, full scale is 1 (allowed: {MAX_PEAK:g}): integers stored as floats;"
                " divide them by their full scale, 32768 for 16 bits"
            )
        mean = self._sum / self._samples
        peaks = [_dbfs(float(peak)) for peak in np.maximum(self._high - mean, mean - self._low)]
        if peaks[0] < SILENCE_DBFS:
            if max(peaks) >= SILENCE_DBFS:
                raise AudioError("silent: its channels cancel in the mono mean; `channel: 1` reads one of them")
            if math.isinf(peaks[0]):
                raise AudioError("silent: all its samples are equal")
            raise AudioError(
                f"silent: its peak is {-peaks[0]:.1f} dB below full scale; allowed: up to {-SILENCE_DBFS:g} dB"
            )


def _dbfs(peak: float) -> float:
    return 20.0 * math.log10(peak) if peak > 0.0 else -math.inf
