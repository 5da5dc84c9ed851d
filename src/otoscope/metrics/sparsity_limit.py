"""Sparsity limit of a metric: the sparsest level without loss, and the knee of the curve.

Applies to reconstruction, probes and factors. The input is one value per sparsity and bootstrap draws that all
sparsities share, so that their common variation cancels.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from otoscope.errors import EvaluationError
from otoscope.resampling.groups import CONFIDENCE, Interval, quantiles

MARGIN = 0.02


class SparsityLimit(NamedTuple):
    """Sparsest level within the margin, knee, and loss at every level, each with its interval.

    `censored`: even the sparsest level is within the margin, so the limit is beyond it.
    """

    limit: Interval
    knee: Interval
    loss: Float[np.ndarray, " levels"]
    low: Float[np.ndarray, " levels"]
    high: Float[np.ndarray, " levels"]
    censored: bool


class TwoLines(NamedTuple):
    """Two lines that meet at `at`: slope before and after, and the residual sum of squares."""

    at: float
    before: float
    after: float
    residual: float


def sparsity_limit(
    sparsity: Float[np.ndarray, " levels"],
    values: Float[np.ndarray, " levels"],
    *,
    draws: Float[np.ndarray, "resamples levels"] | None = None,
    margin: float = MARGIN,
    higher_is_better: bool = True,
    confidence: float = CONFIDENCE,
) -> SparsityLimit:
    """Return the sparsest level whose loss relative to the densest stays within a margin, and the knee.

    The loss of a level is the deterioration of its value relative to the densest level. The limit is the last level
    before the first loss above `margin`, going from dense to sparse. The knee is the point where two joined lines fit
    the values best over log10(1 - sparsity), a scale on which each halving of k is one step; NaN with fewer than four
    levels, or if one line fits as well.

    Args:
        sparsity: shares of inactive latents, 0 to below 1, increasing, at least two levels.
        values: one value per level, of one metric.
        draws: values under a bootstrap over groups (or seeds), one row per draw; default: no intervals.
        margin: maximum loss that counts as none, in the metric's unit; set it before looking at results.
        higher_is_better: False for errors.
        confidence: level of the intervals.

    Undefined draws (NaN) are excluded. Raises `EvaluationError` for levels out of order or range, values that are not
    finite, or a negative margin.
    """
    _check(sparsity, values, draws, margin)
    sign = 1.0 if higher_is_better else -1.0
    value = values[None].astype(np.float64)
    drawn = np.full((0, len(values)), math.nan) if draws is None else draws[~np.isnan(draws).any(axis=1)]
    losses = sign * (drawn[:, :1] - drawn)
    loss = sign * (value[:, :1] - value)
    low, high = quantiles(losses, confidence) if len(losses) else np.full((2, len(values)), math.nan)
    limit = _last_within(loss, margin)
    return SparsityLimit(
        limit=_interval(float(sparsity[limit[0]]), sparsity[_last_within(losses, margin)], confidence),
        knee=_interval(float(_knees(sparsity, value)[0]), _knees(sparsity, drawn), confidence),
        loss=loss[0],
        low=low,
        high=high,
        censored=bool(limit[0] == len(values) - 1),
    )


def fit_two_lines(
    x: Float[np.ndarray, " points"], y: Float[np.ndarray, " points"], *, candidates: int = 200
) -> TwoLines:
    """Return the continuous two-piece linear least squares fit y = a + b x + c max(x - at, 0).

    Linear least squares for each of `candidates` positions of the bend, evenly spaced between the second and the last
    but one point (Hudson, JASA 61, 1966); the best position is returned, the first of ties. Raises `EvaluationError`
    with fewer than four points or repeated x.
    """
    order = np.argsort(x)
    places, seen = x[order].astype(np.float64), y[order].astype(np.float64)
    if len(places) < 4 or (np.diff(places) <= 0).any():
        raise EvaluationError(f"two lines need four points or more at different places, got {x.tolist()}")
    bends = np.linspace(places[1], places[-2], candidates)
    at = float(bends[_left_by_bends(places, seen[None], bends)[0].argmin()])
    weights = np.linalg.lstsq(_design(places, at), seen, rcond=None)[0]
    residual = float(((seen - _design(places, at) @ weights) ** 2).sum())
    return TwoLines(at, float(weights[1]), float(weights[1] + weights[2]), residual)


def _design(places: Float[np.ndarray, " points"], at: float) -> Float[np.ndarray, "points 3"]:
    return np.stack([np.ones_like(places), places, np.maximum(places - at, 0)], axis=1)


def _left_by_bends(
    places: Float[np.ndarray, " points"], seen: Float[np.ndarray, "draws points"], bends: Float[np.ndarray, " bends"]
) -> Float[np.ndarray, "draws bends"]:
    """Return the residual sum of squares of the best two lines per draw and bend."""
    centred = seen - seen.mean(axis=1, keepdims=True)
    bases = np.linalg.qr(np.stack([_design(places, float(at)) for at in bends]))[0]
    left = np.stack([((centred - centred @ basis @ basis.T) ** 2).sum(axis=1) for basis in bases], axis=1)
    # rounding must not decide between bends that fit perfectly
    return np.where(left < 1e-24 * np.maximum((centred**2).sum(axis=1, keepdims=True), 1e-300), 0, left)


def _knees(
    sparsity: Float[np.ndarray, " levels"], values: Float[np.ndarray, "draws levels"]
) -> Float[np.ndarray, " draws"]:
    """Return the sparsity at each draw's bend, NaN with too few levels or without a bend."""
    if len(sparsity) < 4:
        return np.full(len(values), math.nan)
    # x must increase; log10(1 - sparsity) decreases with sparsity
    scale = -np.log10(1 - sparsity)
    bends = np.linspace(scale[1], scale[-2], 200)
    left = _left_by_bends(scale, values, bends)
    centred = values - values.mean(axis=1, keepdims=True)
    line = scale - scale.mean()
    straight = centred - np.outer(centred @ line / (line @ line), line)
    gain = (straight**2).sum(axis=1) - left.min(axis=1)
    bent = gain > 1e-9 * (centred**2).sum(axis=1)
    return np.where(bent, 1 - 10 ** -bends[left.argmin(axis=1)], math.nan)


def _last_within(
    losses: Float[np.ndarray, "draws levels"], margin: float
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    within: Bool[np.ndarray, "draws levels"] = losses <= margin + 1e-12
    return np.cumprod(within, axis=1).sum(axis=1).astype(np.int64) - 1


def _interval(value: float, draws: Float[np.ndarray, " draws"], confidence: float) -> Interval:
    if not len(draws):
        return Interval(value, math.nan, math.nan)
    low, high = quantiles(draws, confidence)
    return Interval(value, float(low), float(high))


def _check(
    sparsity: Float[np.ndarray, " levels"],
    values: Float[np.ndarray, " levels"],
    draws: Float[np.ndarray, "resamples levels"] | None,
    margin: float,
) -> None:
    if sparsity.ndim != 1 or len(sparsity) < 2 or (np.diff(sparsity) <= 0).any():
        raise EvaluationError(f"sparsity must hold two or more increasing levels, got {sparsity.tolist()}")
    if sparsity[0] < 0 or sparsity[-1] >= 1:
        raise EvaluationError(f"sparsity must lie from 0 to below 1, got {sparsity[0]} to {sparsity[-1]}")
    if values.shape != sparsity.shape or not np.isfinite(values).all():
        raise EvaluationError(f"values must be finite, one a level ({len(sparsity)}), got shape {values.shape}")
    if draws is not None and (draws.ndim != 2 or draws.shape[1] != len(sparsity)):
        raise EvaluationError(f"draws must be [resamples, {len(sparsity)}], got shape {draws.shape}")
    if margin < 0:
        raise EvaluationError(f"margin must be 0 or more, got {margin}")
