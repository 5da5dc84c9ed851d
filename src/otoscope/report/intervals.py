"""A number with its interval and null, and when two of them differ: the one rule of every verdict."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MIN_GROUPS = 3
"""Groups below which a bootstrap interval decides nothing: of two groups it merely spans their two values."""


@dataclass(frozen=True)
class Number:
    """A number with its interval and the upper end of its null, NaN where there is none."""

    value: float
    low: float = math.nan
    high: float = math.nan
    null_high: float = math.nan
    n: int = 0
    groups: int = 0

    @property
    def bounded(self) -> bool:
        """Whether it has an interval."""
        return math.isfinite(self.low) and math.isfinite(self.high)


def number_of(row: Mapping[str, Any]) -> Number:
    """Return a row's value with what backs it."""
    known = {
        name: math.nan if row.get(name) is None else float(row[name]) for name in ("value", "low", "high", "null_high")
    }
    return Number(**known, n=row.get("n") or 0, groups=row.get("groups") or 0)


def apart(lower: Number, higher: Number) -> bool:
    """Whether two intervals lie apart, the first below the second; never where one has none.

    >>> apart(Number(5, 4, 6), Number(20, 15, 25)), apart(Number(5, 4, 16), Number(20, 15, 25)), apart(
    ...     Number(5), Number(20, 15, 25)
    ... )
    (True, False, False)
    """
    return lower.bounded and higher.bounded and lower.high < higher.low


def difference(number: Number, base: Number) -> Number:
    """Return one number less another, the distances to the ends of their intervals put together as root of squares.

    This treats the two as independent. Of the same groups they rarely are, so the interval is wider than the truth.
    It has the fewer groups of the two, and no null.

    >>> found = difference(Number(0.75, 0.72, 0.78), Number(0.8, 0.76, 0.84))
    >>> round(found.value, 3), round(found.low, 3), round(found.high, 3)
    (-0.05, -0.1, 0.0)
    """
    value = number.value - base.value
    low = value - math.hypot(number.value - number.low, base.high - base.value)
    high = value + math.hypot(number.high - number.value, base.value - base.low)
    return Number(value, low, high, groups=min(number.groups, base.groups))
