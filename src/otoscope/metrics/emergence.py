"""Emergence: profile of a category of factors over layers, and order of two categories.

Computed from held-out squared errors by layer, group and factor. A category's profile is
the mean over its factors, so that 18 formant descriptors do not outweigh 6 rhythm descriptors. Intervals cover groups
and factors: the squared half-widths of the jackknife over groups (Student's t) and over factors (normal) add up.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped
from numpy.typing import NDArray

from otoscope.errors import EvaluationError, suggest
from otoscope.resampling.groups import r2_from_sums
from otoscope.resampling.intervals import Interval, combined_half_width, jackknife_error, leave_one_out

REACHED = 0.9

OfProfile = Callable[[NDArray[Any]], NDArray[Any]]
"""A statistic of profiles `[..., layers]`."""


class Emergence(NamedTuple):
    """Profile of one category over layers.

    `r2` is the mean of its factors' R2 (each at least 0) by layer; `earliest` the first layer that reaches the share
    `REACHED` of the profile's maximum; `centre` the mean layer weighted by the profile; `factors` the number of factors
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
) -> list[Emergence]:
    """Return each category's profile over layers, its earliest layer and its centre, with intervals.

    Args:
        squares: squared error and squared deviation of the test rows of each group, by layer and factor.
        categories: category of each factor; reduce near duplicates to one factor first.
        layers: layer numbers; default: 0, 1, 2, ...

    The interval of the earliest layer runs from the first layer that may reach the share to the first that surely does,
    by the interval of the difference in that layer. Bounds are NaN with one group.
    """
    numbers = _layer_numbers(squares, categories, layers)
    found: list[Emergence] = []
    for name in dict.fromkeys(categories):
        members = _scored(squares, np.flatnonzero(np.asarray(categories) == name))
        profiles = _Profiles.build(squares, members)
        half = profiles.half_width(lambda r2: r2)
        over = profiles.apply(lambda r2: r2 - REACHED * r2.max(axis=-1, keepdims=True))
        over_half = profiles.half_width(lambda r2: r2 - REACHED * r2.max(axis=-1, keepdims=True))
        centre = float(profiles.apply(lambda r2: _centre(r2, numbers)))
        centre_half = float(profiles.half_width(lambda r2: _centre(r2, numbers)))
        predicted = bool((profiles.whole > 0).any())
        found.append(
            Emergence(
                category=name,
                r2=profiles.whole,
                low=np.maximum(profiles.whole - half, 0),
                high=np.minimum(profiles.whole + half, 1),
                earliest=_earliest(over, over_half, numbers) if predicted else Interval(*[math.nan] * 3),
                centre=_within(centre, centre_half, (numbers[0], numbers[-1])),
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
    permutations: int = 1000,
) -> Lead:
    """Test a claim such as "pitch comes before formants".

    The value is the centre layer of `then` minus that of `first`; its interval covers groups and factors. The null
    assigns the factors of both at random to categories of the same sizes: p is the share of assignments whose absolute
    lead is at least the observed one (which is included). Raises `EvaluationError` for a category without factors.
    """
    numbers = _layer_numbers(squares, categories, layers)
    for name in (first, then):
        if name not in categories:
            raise EvaluationError(f"no factor of category {name!r}; {suggest(name, set(categories))}")
    rng = np.random.default_rng(0)
    kinds = np.asarray(categories)
    sides = [_scored(squares, np.flatnonzero(kinds == name)) for name in (first, then)]
    if not all(len(side) for side in sides):
        return Lead(*[math.nan] * 6)

    def lead(one: Float[np.ndarray, "*n layers"], other: Float[np.ndarray, "*n layers"]) -> Shaped[np.ndarray, "*n"]:
        return np.asarray(_centre(other, numbers) - _centre(one, numbers))

    one, other = (_Profiles.build(squares, side) for side in sides)
    value = float(lead(one.whole, other.whole))
    of_groups = jackknife_error(lead(one.without_group, other.without_group)) if squares.shape[1] > 1 else math.nan
    of_factors = math.hypot(*(float(side.factor_error(lambda r2: _centre(r2, numbers))) for side in (one, other)))
    half = float(combined_half_width(np.asarray(of_groups), np.asarray(of_factors), max(squares.shape[1], 2)))
    interval = Interval(value, value - half, value + half)
    pooled = np.concatenate(sides)
    by_factor = _by_factor(squares, pooled)[0]
    shuffled = np.argsort(rng.random((permutations, len(pooled))), axis=1)
    dealt = by_factor.T[shuffled]
    null = lead(dealt[:, : len(sides[0])].mean(axis=1), dealt[:, len(sides[0]) :].mean(axis=1))
    null = null[~np.isnan(null)]
    if math.isnan(value) or not len(null):
        return Lead(value, interval.low, interval.high, math.nan, math.nan, math.nan)
    p = (1 + int((np.abs(null) >= abs(value) - 1e-12).sum())) / (1 + len(null))
    return Lead(value, interval.low, interval.high, float(null.mean()), float(np.quantile(np.abs(null), 0.95)), p)


class _Profiles(NamedTuple):
    """Profile of a category over layers: of all groups and factors, and without each group or factor."""

    whole: Float[np.ndarray, " layers"]
    without_group: Float[np.ndarray, "groups layers"]
    without_factor: Float[np.ndarray, "members layers"]

    @classmethod
    def build(
        cls, squares: Float[np.ndarray, "layers groups factors 2"], members: Int[np.ndarray, " m"]
    ) -> "_Profiles":
        n_layers, n_groups = squares.shape[:2]
        if not len(members):
            return cls(*(np.full(shape, math.nan) for shape in ((n_layers,), (n_groups, n_layers), (0, n_layers))))
        r2 = _by_factor(squares, members)
        left = (r2[0].sum(axis=-1)[:, None] - r2[0]) / max(len(members) - 1, 1)
        return cls(r2[0].mean(axis=-1), r2[1:].mean(axis=-1), left.T)

    def apply(self, statistic: OfProfile) -> NDArray[Any]:
        """Return a statistic of the profile of all groups and factors."""
        return statistic(self.whole)

    def factor_error(self, statistic: OfProfile) -> NDArray[Any]:
        """Return the jackknife error over factors; 0 for a single factor, which is then the category."""
        if len(self.without_factor) < 2:
            return np.zeros_like(statistic(self.whole))
        return jackknife_error(statistic(self.without_factor))

    def half_width(self, statistic: OfProfile) -> NDArray[Any]:
        """Return the half-width of the interval of a statistic; NaN with one group."""
        n_groups = len(self.without_group)
        if n_groups < 2:
            return np.full_like(statistic(self.whole), math.nan)
        of_groups = jackknife_error(statistic(self.without_group))
        return combined_half_width(of_groups, self.factor_error(statistic), n_groups)


def _by_factor(
    squares: Float[np.ndarray, "layers groups factors 2"], members: Int[np.ndarray, " members"]
) -> Float[np.ndarray, "sets layers members"]:
    """Return R2, at least 0, of each factor by layer: of all groups, then without each of them."""
    chosen = squares[:, :, members].transpose(1, 0, 2, 3)
    value, without = leave_one_out(chosen, lambda sums: np.maximum(np.nan_to_num(r2_from_sums(sums)), 0))
    return np.concatenate([value[None], without])


def _centre(
    profiles: Float[np.ndarray, "*n layers"], numbers: Float[np.ndarray, " layers"]
) -> Shaped[np.ndarray, "*n"]:
    total = profiles.sum(axis=-1)
    return np.where(total > 0, profiles @ numbers / np.where(total > 0, total, 1), math.nan)


def _earliest(
    over: Float[np.ndarray, " layers"], half: Float[np.ndarray, " layers"], numbers: Float[np.ndarray, " layers"]
) -> Interval:
    """Return the first layer that reaches the share of the maximum, from its difference to it and their half-widths."""
    value = float(numbers[(over >= 0).argmax()])
    if np.isnan(half).any():
        return Interval(value, math.nan, math.nan)
    sure = over - half >= 0
    last = numbers[sure.argmax()] if sure.any() else numbers[-1]
    return Interval(value, float(numbers[(over + half >= 0).argmax()]), float(max(value, last)))


def _within(value: float, half: float, bounds: tuple[float, float]) -> Interval:
    return (
        Interval(value, max(value - half, bounds[0]), min(value + half, bounds[1]))
        if half == half
        else Interval(value, math.nan, math.nan)
    )


def _scored(
    squares: Float[np.ndarray, "layers groups factors 2"], members: Int[np.ndarray, " m"]
) -> Int[np.ndarray, " s"]:
    """Return the factors with test rows that vary in every layer."""
    return members[(squares[:, :, members, 1].sum(axis=1) > 0).all(axis=0)]


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
