"""A number with its interval and null, and when two of them differ: the one rule of every verdict.

Dictionaries that differ by their seed alone: one number for all of them.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from otoscope.metrics.representation import CODES

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


SEED = re.compile(r"-seed\d+$")
"""The end of a dictionary's name."""

NORMAL = 1.96
"""Standard errors to either end of a 95 % interval."""

Row = dict[str, Any]


def alike(codes: pl.DataFrame, sae_id: str) -> pl.DataFrame:
    """Keep the rows of a dictionary and of those that differ from it by their seed alone, its own first."""
    stem = SEED.sub("", sae_id)
    same = codes.filter(pl.col("sae_id").str.replace(SEED.pattern, "") == stem)
    return same.sort(pl.col("sae_id") != sae_id, "seed", maintain_order=True)


def mean_of(rows: pl.DataFrame) -> Row:
    r"""Return the first row with the mean over seeds, and an interval for the chance of groups and of seeds.

    With values $v_s$ of $S$ seeds, their standard deviation $\sigma$ and the intervals $[l_s, h_s]$ over groups, the
    mean $\bar v$ reaches down to $\bar v - \sqrt{\overline{(v - l)}^2 + (1.96 \sigma / \sqrt S)^2}$ and up likewise, at
    most to 1 for a fraction. Rows without a value are left out, unless none has one.

    >>> two = {"value": [0.6, 0.8], "low": [0.5, 0.7], "high": [0.7, 0.9], "null_mean": [0.1, 0.1],
    ...        "null_high": [0.2, 0.2], "unit": ["fraction"] * 2}
    >>> found = mean_of(pl.DataFrame(two))
    >>> round(found["value"], 3), round(found["low"], 3), round(found["high"], 3)
    (0.7, 0.48, 0.92)
    """
    known = rows.filter(pl.col("value").is_not_nan() & pl.col("value").is_not_null())
    row = (known if known.height else rows).row(0, named=True)
    if known.height < 2:
        return row
    value, low, high = (known[name].cast(pl.Float64).to_list() for name in ("value", "low", "high"))
    mean = sum(value) / len(value)
    spread = NORMAL * math.sqrt(sum((v - mean) ** 2 for v in value) / (len(value) - 1) / len(value))
    down = _mean([v - end for v, end in zip(value, low, strict=True)])
    up = _mean([end - v for v, end in zip(value, high, strict=True)])
    most = 1.0 if row["unit"] == "fraction" else math.inf
    ends = {"low": mean - math.hypot(down, spread), "high": mean + math.hypot(up, spread)}
    nulls = {name: _mean(known[name].cast(pl.Float64).to_list()) for name in ("null_mean", "null_high")}
    return {**row, "value": mean, "low": ends["low"], "high": min(ends["high"], most), **nulls}


def with_means(rows: pl.DataFrame) -> pl.DataFrame:
    """Put one row, the mean over seeds, in the place of the codes' rows of one metric, target, layer and k."""
    keys = ("representation", "metric", "target", "layer", "k", "dimensions", "split")
    found: list[pl.DataFrame] = []
    for (representation, *_), part in rows.group_by(keys, maintain_order=True):
        found.append(pl.DataFrame([mean_of(part)], schema=part.schema) if representation == CODES else part)
    return pl.concat(found) if found else rows


def _mean(values: Sequence[float | None]) -> float:
    """Return the mean; NaN where a value is missing."""
    known = [math.nan if v is None else v for v in values]
    return math.fsum(known) / len(known)
