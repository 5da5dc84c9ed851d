"""Temporal profile of a latent: lag after sound onsets, duration and persistence of firing, and modulation spectrum."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from otoscope.errors import EvaluationError

SYLLABLES_HZ = (4.0, 8.0)
"""Range of modulation rates of syllables and of vibrato."""
SLOWEST_HZ = 1.0
"""Lower end of modulation rates; slower changes are those of the clip as a whole."""
BEFORE_S, AFTER_S = 0.1, 0.5
"""Time around an onset that is averaged."""
RISE_DB = 15.0
"""A sound begins where the level rises from below to above this distance from the clip's maximum."""
QUIET_S = 0.05
"""Minimum time below that level before an onset."""


@dataclass(frozen=True, kw_only=True)
class TemporalProfile:
    """Times and durations of a latent's firing.

    `lag_s` is the time from a sound onset to the moment at which the onset-aligned mean activation passes half of its
    rise, NaN without onsets or if the rise is below three standard errors; `onsets` is their number, and `lag_onsets`
    the number of those whose clip lasts to the maximum of the mean. Only delays that half of the onsets or more reach
    have a mean. `duration_s` is
    the median length of uninterrupted firing, `persistence_s` the time in which the autocorrelation of the activation
    around its mean in each clip falls to 1/e. `modulation_hz` is the rate with the largest power of the activation's
    fluctuation from `SLOWEST_HZ` on, NaN if the power falls from there; `syllable_share` is the share of this power
    from 4 to 8 Hz.
    """

    lag_s: float
    onsets: int
    lag_onsets: int
    duration_s: float
    persistence_s: float
    modulation_hz: float
    syllable_share: float


def temporal_profile(
    activations: Sequence[Float[np.ndarray, " frames"]],
    *,
    frame_s: float,
    onsets_s: Sequence[Sequence[float]] = (),
    first_s: float = 0.0,
) -> TemporalProfile:
    """Return the temporal profile of a latent over clips.

    Args:
        activations: activation per frame of each clip.
        frame_s: distance between frames.
        onsets_s: onset times of each clip, for example from `sound_onsets`.
        first_s: centre of the first frame.

    Raises `EvaluationError` if `frame_s` is not positive or the numbers of clips differ.
    """
    if not frame_s > 0:
        raise EvaluationError(f"frame_s must be positive, got {frame_s}")
    if onsets_s and len(onsets_s) != len(activations):
        raise EvaluationError(f"{len(activations)} clips have activations, {len(onsets_s)} have onsets; give both")
    spectrum_hz, power = _modulation(activations, frame_s)
    inside = (spectrum_hz >= SYLLABLES_HZ[0]) & (spectrum_hz <= SYLLABLES_HZ[1])
    total = float(power.sum())
    # at the lowest rate there is no maximum: slower changes are stronger
    peak = int(power.argmax()) if total > 0 else 0
    lag_s, lag_onsets = _lag(activations, frame_s, onsets_s, first_s)
    return TemporalProfile(
        lag_s=lag_s,
        onsets=sum(map(len, onsets_s)),
        lag_onsets=lag_onsets,
        duration_s=_duration(activations, frame_s),
        persistence_s=_persistence(activations, frame_s),
        modulation_hz=float(spectrum_hz[peak]) if peak > 0 else math.nan,
        syllable_share=float(power[inside].sum() / total) if total > 0 else math.nan,
    )


def sound_onsets(
    levels_db: Float[np.ndarray, " frames"], *, frame_s: float, first_s: float = 0.0
) -> Float[np.ndarray, " onsets"]:
    """Return the times at which a sound begins: the level passes `RISE_DB` below its maximum after `QUIET_S` below it.

    Times between frames are interpolated in dB.

    >>> sound_onsets(np.array([-60.0] * 10 + [-20.0] * 10), frame_s=0.02).round(3).tolist()
    [0.192]
    """
    if levels_db.size == 0 or not np.isfinite(levels_db).any():
        return np.empty(0)
    threshold = np.nanmax(levels_db) - RISE_DB
    above = levels_db > threshold
    rises = np.flatnonzero(above[1:] & ~above[:-1]) + 1
    quiet = max(round(QUIET_S / frame_s), 1)
    kept = [i for i in rises.tolist() if i >= quiet and not above[i - quiet : i].any()]
    share = [(threshold - levels_db[i - 1]) / (levels_db[i] - levels_db[i - 1]) for i in kept]
    return first_s + (np.array(kept) - 1 + np.array(share)) * frame_s if kept else np.empty(0)


def _lag(
    activations: Sequence[Float[np.ndarray, " frames"]],
    frame_s: float,
    onsets_s: Sequence[Sequence[float]],
    first_s: float,
) -> tuple[float, int]:
    """Return the delay at which the onset-aligned mean passes half of its rise, and the onsets behind its maximum.

    The delay is interpolated between frames. After the end of a clip its onsets no longer count.
    """
    grid_s = np.arange(-BEFORE_S, AFTER_S + 1e-9, frame_s / 4)
    aligned = [
        np.interp(onset + grid_s, first_s + np.arange(len(activation)) * frame_s, activation, left=0.0, right=np.nan)
        for activation, onsets in zip(activations, onsets_s, strict=True)
        for onset in onsets
        if len(activation)
    ] if onsets_s else []  # fmt: skip
    if not aligned:
        return math.nan, 0
    lasting = np.isfinite(aligned).sum(axis=0)
    kept = int((2 * lasting >= len(aligned)).sum())  # fewer and fewer clips last to later delays
    grid_s, rows = grid_s[:kept], np.asarray(aligned)[:, :kept]
    if not (grid_s >= 0).any():
        return math.nan, 0
    mean = np.nanmean(rows, axis=0)
    before = float(mean[grid_s < 0].mean())
    top = int(mean.argmax())
    number = int(lasting[top])
    half = (before + float(mean[top])) / 2
    below = np.flatnonzero(mean[: top + 1] < half)
    error = float(np.nanstd(rows[:, top])) / math.sqrt(number)
    if mean[top] - before <= 3 * error or not below.size:
        return math.nan, number
    i = int(below[-1])
    return float(grid_s[i] + (half - mean[i]) / (mean[i + 1] - mean[i]) * (grid_s[i + 1] - grid_s[i])), number


def _duration(activations: Sequence[Float[np.ndarray, " frames"]], frame_s: float) -> float:
    lengths = np.concatenate([_run_lengths(activation > 0) for activation in activations] or [np.empty(0)])
    return float(np.median(lengths) * frame_s) if lengths.size else math.nan


def _run_lengths(fires: Bool[np.ndarray, " frames"]) -> Float[np.ndarray, " runs"]:
    """Return the lengths of runs of firing, in frames."""
    change = np.diff(np.concatenate([[False], fires, [False]]).astype(np.int8))
    return (np.flatnonzero(change == -1) - np.flatnonzero(change == 1)).astype(np.float64)


def _persistence(activations: Sequence[Float[np.ndarray, " frames"]], frame_s: float) -> float:
    """Return the time in which the autocorrelation within clips falls to 1/e, interpolated between frames.

    Differences between clips never decay; each clip is centred on its own mean.
    """
    if not any(np.ptp(a) > 0 for a in activations if len(a)):
        return math.nan
    centred = [a - a.mean(dtype=np.float64) for a in activations if len(a)]
    longest, variance = max(map(len, centred)), float(np.square(np.concatenate(centred)).mean())
    previous = 1.0
    for lag in range(1, longest):
        pairs = [(a[:-lag], a[lag:]) for a in centred if len(a) > lag]
        number = sum(len(one) for one, _ in pairs)
        now = float(sum(one @ other for one, other in pairs)) / number / variance
        if now <= math.exp(-1):
            share = (previous - math.exp(-1)) / (previous - now)
            return float((lag - 1 + share) * frame_s)
        previous = now
    return float((longest - 1) * frame_s)


def _modulation(
    activations: Sequence[Float[np.ndarray, " frames"]], frame_s: float
) -> tuple[Float[np.ndarray, " rates"], Float[np.ndarray, " rates"]]:
    """Return modulation rates and power: windowed spectra of each clip's activation around its mean, averaged."""
    length = 1 << max(math.ceil(math.log2(2.0 / frame_s)), 4)  # 2 s, so that rates differ by 0.5 Hz
    power = np.zeros(length // 2 + 1)
    for activation in activations:
        if len(activation) < 4 or not np.any(activation):
            continue
        fluctuation = (activation - activation.mean()) * np.hanning(len(activation) + 2)[1:-1]
        for start in range(0, len(fluctuation), length):
            power += np.square(np.abs(np.fft.rfft(fluctuation[start : start + length], length)))
    rates_hz = np.fft.rfftfreq(length, frame_s)
    kept = rates_hz >= SLOWEST_HZ
    return rates_hz[kept], power[kept]
