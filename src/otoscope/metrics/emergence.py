"""Emergence: profile of a category of factors over layers, and order of two categories.

Computed from held-out squared errors by layer, group and factor (`RidgeFits.squares`). A category's profile is
the mean over its factors, so that 18 formant descriptors do not outweigh 6 rhythm descriptors. One bootstrap draws
groups and factors, each with replacement, with the same draws in every layer.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from otoscope.errors import EvaluationError, suggest
from otoscope.resampling.groups import CONFIDENCE, RESAMPLES, Interval, quantiles, r2_from_sums, resample_counts

REACHED = 0.9


class Emergence(NamedTuple):
    """Profile of one category over layers.

    `r2` is the mean of its factors' R2 (each at least 0) by layer; `earliest` the first layer that reaches the share
    `reached` of the profile's maximum; `centre` the mean layer weighted by the profile; `factors` the number of factors
    that could be scored. NaN for a category that no layer predicts.
    """

    category: str
    r2: Float[np.ndarray, " layers"]
    low: Float[np.ndarray, " layers"]
    high: Float[np.ndarray, " layers"]
    earliest: Interval
    centre: Interval
    factors: int


class Lead(NamedTuple):
    """Lead of one category over another: difference of their centres in layers, with interval and null.

    `value` > 0: the first category emerges earlier. `null_high` is the 95 % point of the absolute lead under shuffled
    categories; `p` is two-sided.
    """

    value: float
    low: float
    high: float
    null_mean: float
    null_high: float
    p: float


def emergence(
    squares: Float[np.ndarray, "layers groups factors 2"],
    categories: Sequence[str],
    *,
    layers: Sequence[int] | None = None,
    reached: float = REACHED,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> list[Emergence]:
    """Return each category's profile over layers, its earliest layer and its centre, with intervals.

    Args:
        squares: squared error and squared deviation of the test rows of each group, by layer and factor.
        categories: category of each factor; reduce near duplicates to one factor first.
        layers: layer numbers; default: 0, 1, 2, ...
        reached: share of the maximum that defines the earliest layer.
        resamples: number of bootstrap draws.
        confidence: level of the intervals; their bounds are NaN with one group.
        seed: seed of the bootstrap.
    """
    numbers = _layer_numbers(squares, categories, layers)
    if not 0 < reached <= 1:
        raise EvaluationError(f"reached must lie above 0 and up to 1, got {reached}")
    rng = np.random.default_rng(seed)
    counts = _group_draws(squares, resamples, seed)
    found: list[Emergence] = []
    for name in dict.fromkeys(categories):
        members = _scored(squares, np.flatnonzero(np.asarray(categories) == name))
        profile = _profiles(squares, members, None, None)
        draws = _profiles(squares, members, counts, _factor_draws(len(members), resamples, rng))
        low, high = quantiles(draws, confidence) if counts is not None else np.full((2, len(numbers)), math.nan)
        known = counts is not None
        earliest, drawn_earliest = _earliest(profile, numbers, reached), _earliest(draws, numbers, reached)
        centre, drawn_centre = _centre(profile, numbers), _centre(draws, numbers)
        found.append(
            Emergence(
                category=name,
                r2=profile[0],
                low=low,
                high=high,
                earliest=_interval(earliest[0], drawn_earliest, confidence, known=known),
                centre=_interval(centre[0], drawn_centre, confidence, known=known),
                factors=len(members),
            )
        )
    return found


def compare_order(
    squares: Float[np.ndarray, "layers groups factors 2"],
    categories: Sequence[str],
    *,
    first: str,
    then: str,
    layers: Sequence[int] | None = None,
    resamples: int = RESAMPLES,
    permutations: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Lead:
    """Test a claim such as "pitch comes before formants".

    The value is the centre layer of `then` minus that of `first`; its interval draws groups and factors. The null
    assigns the factors of both at random to categories of the same sizes: p is the share of assignments whose absolute
    lead is at least the observed one (which is included). Raises `EvaluationError` for a category without factors.
    """
    numbers = _layer_numbers(squares, categories, layers)
    for name in (first, then):
        if name not in categories:
            raise EvaluationError(f"no factor of category {name!r}; {suggest(name, set(categories))}")
    rng = np.random.default_rng(seed)
    kinds = np.asarray(categories)
    sides = [_scored(squares, np.flatnonzero(kinds == name)) for name in (first, then)]
    if not all(len(side) for side in sides):
        return Lead(*[math.nan] * 6)
    counts = _group_draws(squares, resamples, seed)

    def lead(
        one: Float[np.ndarray, "draws layers"], other: Float[np.ndarray, "draws layers"]
    ) -> Shaped[np.ndarray, " draws"]:
        return _centre(other, numbers) - _centre(one, numbers)

    value = float(lead(*(_profiles(squares, side, None, None) for side in sides))[0])
    drawn = lead(*(_profiles(squares, side, counts, _factor_draws(len(side), resamples, rng)) for side in sides))
    interval = _interval(value, drawn, confidence, known=counts is not None)
    pooled = np.concatenate(sides)
    by_factor = _by_factor(squares, pooled, None)[0]
    shuffled = np.argsort(rng.random((permutations, len(pooled))), axis=1)
    dealt = by_factor.T[shuffled]
    null = lead(dealt[:, : len(sides[0])].mean(axis=1), dealt[:, len(sides[0]) :].mean(axis=1))
    null = null[~np.isnan(null)]
    if math.isnan(value) or not len(null):
        return Lead(value, interval.low, interval.high, math.nan, math.nan, math.nan)
    p = (1 + int((np.abs(null) >= abs(value) - 1e-12).sum())) / (1 + len(null))
    return Lead(value, interval.low, interval.high, float(null.mean()), float(np.quantile(np.abs(null), 0.95)), p)


def _by_factor(
    squares: Float[np.ndarray, "layers groups factors 2"],
    members: Int[np.ndarray, " members"],
    counts: Int[np.ndarray, "draws groups"] | None,
) -> Float[np.ndarray, "draws layers members"]:
    """Return R2, at least 0, of each factor by layer, for all groups or for each draw of groups."""
    chosen = squares[:, :, members]
    sums = chosen.sum(axis=1)[None] if counts is None else np.einsum("dg,lgmt->dlmt", counts.astype(np.float64), chosen)
    return np.maximum(np.nan_to_num(r2_from_sums(sums)), 0)


def _profiles(
    squares: Float[np.ndarray, "layers groups factors 2"],
    members: Int[np.ndarray, " members"],
    counts: Int[np.ndarray, "draws groups"] | None,
    factors: Float[np.ndarray, "draws members"] | None,
) -> Float[np.ndarray, "draws layers"]:
    """Return the mean over factors, unweighted or weighted by their counts in a draw."""
    if not len(members):
        return np.full((1 if factors is None else len(factors), len(squares)), math.nan)
    r2 = _by_factor(squares, members, counts)
    if factors is None:
        return r2.mean(axis=2)
    return (r2 * factors[:, None, :]).sum(axis=2) / len(members)


def _centre(
    profiles: Float[np.ndarray, "draws layers"], numbers: Float[np.ndarray, " layers"]
) -> Shaped[np.ndarray, " d"]:
    total = profiles.sum(axis=1)
    return np.where(total > 0, profiles @ numbers / np.where(total > 0, total, 1), math.nan)


def _earliest(
    profiles: Float[np.ndarray, "draws layers"], numbers: Float[np.ndarray, " layers"], reached: float
) -> Float[np.ndarray, " draws"]:
    top = profiles.max(axis=1, keepdims=True)
    there = (profiles >= reached * top) & (top > 0)
    return np.where(there.any(axis=1), numbers[there.argmax(axis=1)], math.nan)


def _group_draws(
    squares: Float[np.ndarray, "layers groups factors 2"], resamples: int, seed: int
) -> Int[np.ndarray, "draws groups"] | None:
    """Return the count of each group in each draw; None with fewer than two groups."""
    return resample_counts(squares.shape[1], resamples=resamples, seed=seed) if squares.shape[1] > 1 else None


def _factor_draws(n: int, resamples: int, rng: np.random.Generator) -> Float[np.ndarray, "draws members"]:
    if not n:
        return np.zeros((resamples, 0))
    return rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float64)


def _scored(
    squares: Float[np.ndarray, "layers groups factors 2"], members: Int[np.ndarray, " m"]
) -> Int[np.ndarray, " s"]:
    """Return the factors with test rows that vary in every layer."""
    return members[(squares[:, :, members, 1].sum(axis=1) > 0).all(axis=0)]


def _interval(value: float, draws: Float[np.ndarray, " draws"], confidence: float, *, known: bool) -> Interval:
    if not known:
        return Interval(float(value), math.nan, math.nan)
    low, high = quantiles(draws, confidence)
    return Interval(float(value), float(low), float(high))


def _layer_numbers(
    squares: Float[np.ndarray, "layers groups factors 2"], categories: Sequence[str], layers: Sequence[int] | None
) -> Float[np.ndarray, " layers"]:
    if squares.ndim != 4 or squares.shape[3] != 2 or squares.shape[2] != len(categories):
        raise EvaluationError(
            f"squares {squares.shape} must be [layers, groups, factors, 2] with a category a factor ({len(categories)})"
        )
    if not np.isfinite(squares).all() or (squares < 0).any():
        raise EvaluationError("squares must be finite and 0 or more; a group without a factor counts 0")
    numbers = np.arange(len(squares)) if layers is None else np.asarray(layers)
    if numbers.shape != (len(squares),) or (np.diff(numbers) <= 0).any():
        raise EvaluationError(f"layers must increase, one number for each of {len(squares)}, got {numbers.tolist()}")
    return numbers.astype(np.float64)
