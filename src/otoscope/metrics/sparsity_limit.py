"""Up to which sparsity a curve holds, and where it bends.

For reconstruction, probes and factors alike: a value at each sparsity, and the same under a bootstrap
whose draws are shared by all sparsities, so that what they have in common cancels.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from otoscope.errors import EvaluationError
from otoscope.resampling.groups import CONFIDENCE, Interval, quantiles

MARGIN = 0.02


class SparsityLimit(NamedTuple):
    """The sparsest level within the margin, the bend, and the loss at every level, each with its interval.

    `censored` says that even the sparsest level tried is within the margin: the limit lies beyond.
    """

    limit: Interval
    knee: Interval
    loss: Float[np.ndarray, " levels"]
    low: Float[np.ndarray, " levels"]
    high: Float[np.ndarray, " levels"]
    censored: bool


class TwoLines(NamedTuple):
    """Two lines that meet at `at`: slope before and after, and the sum of squares that they leave."""

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
    """Return the sparsest level whose loss against the densest stays within a margin, and the knee.

    The loss of a level is how much worse its value is than the densest one's; the limit is the last
    level before the first loss above `margin`, going from dense to sparse. The knee is where two
    lines that meet fit the values best over log10(1 - sparsity), the scale on which k halves evenly;
    NaN with fewer than four levels, or where one line does as well.

    Args:
        sparsity: share of latents that rest, 0 to below 1, increasing, two levels or more.
        values: one a level, of one metric.
        draws: the values under a bootstrap over groups (or seeds), one row a draw; no intervals without.
        margin: loss that still counts as none, in the metric's unit; set it before looking.
        higher_is_better: False for errors.
        confidence: of the intervals.

    Undefined draws (NaN) are left out. Raises `EvaluationError` for levels out of order or range,
    values that are not finite, or a negative margin.
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

    For each of `candidates` places of the bend, evenly between the second and the last but one point,
    the rest is linear least squares (Hudson, JASA 61, 1966); the best place wins, the first of ties.

    Raises `EvaluationError` with fewer than four points or where x repeats itself.
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
    """Return the sum of squares that the best two lines with each bend leave of each draw."""
    centred = seen - seen.mean(axis=1, keepdims=True)
    bases = np.linalg.qr(np.stack([_design(places, float(at)) for at in bends]))[0]
    left = np.stack([((centred - centred @ basis @ basis.T) ** 2).sum(axis=1) for basis in bases], axis=1)
    # rounding must not choose between bends that fit perfectly
    return np.where(left < 1e-24 * np.maximum((centred**2).sum(axis=1, keepdims=True), 1e-300), 0, left)


def _knees(
    sparsity: Float[np.ndarray, " levels"], values: Float[np.ndarray, "draws levels"]
) -> Float[np.ndarray, " draws"]:
    """Return the sparsity at each draw's bend, NaN where there are too few levels or nothing bends."""
    if len(sparsity) < 4:
        return np.full(len(values), math.nan)
    # falls with sparsity, and points must rise
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
