"""Sparsity limit of a metric: the sparsest level without loss, and the knee of the curve.

Applies to reconstruction, probes and factors. The input is one value per sparsity, and the same values without each
group, so that the common variation of all sparsities cancels.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from otoscope.errors import EvaluationError
from otoscope.resampling.intervals import Interval, Scale, jackknife

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


def sparsity_limit(
    sparsity: Float[np.ndarray, " levels"],
    values: Float[np.ndarray, " levels"],
    *,
    without: Float[np.ndarray, "groups levels"] | None = None,
    margin: float = MARGIN,
) -> SparsityLimit:
    """Return the sparsest level whose loss relative to the densest stays within a margin, and the knee.

    The loss of a level is the deterioration of its value relative to the densest level. The limit is the last level
    before the first loss above `margin`, going from dense to sparse. The knee is the point where two joined lines fit
    the values best over log10(1 - sparsity), a scale on which each halving of k is one step; NaN with fewer than four
    levels, or if one line fits as well.

    Args:
        sparsity: shares of inactive latents, 0 to below 1, increasing, at least two levels.
        values: one value per level, of one metric of which more is better.
        without: the same values without each group (or seed), one row each; default: no intervals.
        margin: maximum loss that counts as none, in the metric's unit; set it before looking at results.

    The interval of the limit runs from the last level whose loss is within the margin beyond doubt to the last one
    whose loss may be, by the intervals of the losses. Raises `EvaluationError` for levels out of order or range, values
    that are not finite, or a negative margin.
    """
    _check(sparsity, values, without, margin)
    value = values.astype(np.float64)
    left = np.zeros((0, len(values))) if without is None else without
    loss = value[0] - value
    low, high = jackknife(loss, left[:, :1] - left)
    limit, first, last = (_last_within(each, margin) for each in (loss, high, low))
    known = not np.isnan(low).any()
    ends = (float(sparsity[first]), float(sparsity[last])) if known else (math.nan, math.nan)
    return SparsityLimit(
        limit=Interval(float(sparsity[limit]), *ends),
        knee=_knee(sparsity, value, left),
        loss=loss,
        low=low,
        high=high,
        censored=limit == len(values) - 1,
    )


def _design(places: Float[np.ndarray, " points"], at: float) -> Float[np.ndarray, "points 3"]:
    return np.stack([np.ones_like(places), places, np.maximum(places - at, 0)], axis=1)


def _left_by_bends(
    places: Float[np.ndarray, " points"], seen: Float[np.ndarray, "draws points"], bends: Float[np.ndarray, " bends"]
) -> Float[np.ndarray, "draws bends"]:
    """Return the residual sum of squares of the best two joined lines per draw and bend (Hudson, JASA 61, 1966)."""
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


def _last_within(losses: Float[np.ndarray, " levels"], margin: float) -> int:
    return max(int(np.cumprod(losses <= margin + 1e-12).sum()) - 1, 0)


def _knee(
    sparsity: Float[np.ndarray, " levels"],
    value: Float[np.ndarray, " levels"],
    without: Float[np.ndarray, "groups levels"],
) -> Interval:
    # on the scale of the fit, each halving of k is one step
    def forward(s: NDArray[Any]) -> NDArray[Any]:
        return -np.log10(1 - s)

    def back(x: NDArray[Any]) -> NDArray[Any]:
        return np.clip(1 - 10.0**-x, sparsity[0], sparsity[-1])

    found = _knees(sparsity, value[None])[0]
    low, high = jackknife(found, _knees(sparsity, without), scale=Scale(forward, back))
    return Interval(float(found), float(low), float(high))


def _check(
    sparsity: Float[np.ndarray, " levels"],
    values: Float[np.ndarray, " levels"],
    without: Float[np.ndarray, "groups levels"] | None,
    margin: float,
) -> None:
    if sparsity.ndim != 1 or len(sparsity) < 2 or (np.diff(sparsity) <= 0).any():
        raise EvaluationError(f"sparsity must hold two or more increasing levels, got {sparsity.tolist()}")
    if sparsity[0] < 0 or sparsity[-1] >= 1:
        raise EvaluationError(f"sparsity must lie from 0 to below 1, got {sparsity[0]} to {sparsity[-1]}")
    if values.shape != sparsity.shape or not np.isfinite(values).all():
        raise EvaluationError(f"values must be finite, one a level ({len(sparsity)}), got shape {values.shape}")
    if without is not None and (without.ndim != 2 or without.shape[1] != len(sparsity)):
        raise EvaluationError(f"without must be [groups, {len(sparsity)}], got shape {without.shape}")
    if margin < 0:
        raise EvaluationError(f"margin must be 0 or more, got {margin}")
