"""Estimates with interval and null, comparisons of codes with their layer and with baselines, and the decision rules.

SAEs that differ only in their seed give one estimate: the mean over seeds.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, StrEnum
from typing import Any

import polars as pl

from otoscope.formatting import comma_list
from otoscope.metrics.representation import CODES, DENSE, REPRESENTATIONS, UNINFORMATIVE, representation_label
from otoscope.metrics.results import Row

MIN_GROUPS = 3
"""Test groups needed for a decision: a bootstrap interval over two groups only spans their two values."""

MARGIN = 0.02
"""Loss that counts as none: 2 points of accuracy or of R²."""

TIE = 1e-9
"""Values closer than this are equal: the same clips were classified correctly."""


class Verdict(StrEnum):
    """Outcome of a claim."""

    HOLDS = "holds"
    FAILS = "does not hold"
    UNDECIDED = "undecided"
    NOT_ASKED = "not asked"
    NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Estimate:
    """Value with its interval and null; NaN where there is none."""

    value: float
    low: float = math.nan
    high: float = math.nan
    null_high: float = math.nan
    n: int = 0
    groups: int = 0
    null_mean: float = math.nan

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Estimate":
        """Return the estimate in a row of a results table."""
        columns = ("value", "low", "high", "null_high", "null_mean")
        numbers = {name: math.nan if row.get(name) is None else float(row[name]) for name in columns}
        return cls(**numbers, n=row.get("n") or 0, groups=row.get("groups") or 0)

    @property
    def measured(self) -> bool:
        """True if there is a value."""
        return not math.isnan(self.value)

    @property
    def bounded(self) -> bool:
        """True if the value has an interval."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    @property
    def at_chance(self) -> bool:
        """True if the value does not exceed the upper end of its null; False without a null."""
        return self.value <= self.null_high

    @property
    def too_few_groups(self) -> bool:
        """True if the value rests on too few test groups for a decision."""
        return self.groups < MIN_GROUPS


def disjoint(lower: Estimate, higher: Estimate) -> bool:
    """Return whether the first interval lies below the second; False where either has none.

    >>> disjoint(Estimate(5, 4, 6), Estimate(20, 15, 25)), disjoint(Estimate(5, 4, 16), Estimate(20, 15, 25))
    (True, False)
    >>> disjoint(Estimate(5), Estimate(20, 15, 25))
    False
    """
    return lower.bounded and higher.bounded and lower.high < higher.low


def difference(estimate: Estimate, base: Estimate) -> Estimate:
    """Return the first estimate minus the second, without a null; the distances to the interval ends add in quadrature.

    This treats the two as independent. Estimates on the same groups rarely are, so the interval is conservative.
    The number of groups is the smaller of the two.

    >>> change = difference(Estimate(0.75, 0.72, 0.78), Estimate(0.8, 0.76, 0.84))
    >>> round(change.value, 3), round(change.low, 3), round(change.high, 3)
    (-0.05, -0.1, 0.0)
    """
    value = estimate.value - base.value
    low = value - math.hypot(estimate.value - estimate.low, base.high - base.value)
    high = value + math.hypot(estimate.high - estimate.value, base.value - base.low)
    return Estimate(value, low, high, groups=min(estimate.groups, base.groups))


class Relation(Enum):
    """Relation of an estimate to another by their intervals."""

    HIGHER = "higher"
    LOWER = "lower"
    OVERLAP = "overlap"
    TOO_FEW_GROUPS = "too few groups"


def relation(estimate: Estimate, other: Estimate) -> Relation:
    """Return how an estimate relates to another: higher or lower only where the intervals are disjoint."""
    if min(estimate.groups, other.groups) < MIN_GROUPS:
        return Relation.TOO_FEW_GROUPS
    if disjoint(other, estimate):
        return Relation.HIGHER
    return Relation.LOWER if disjoint(estimate, other) else Relation.OVERLAP


class Advantage(Enum):
    """Advantage of codes over the best baseline."""

    BEYOND_INTERVALS = "beyond both intervals"
    WITHIN_INTERVALS = "within the intervals"
    NONE = "none"
    TOO_FEW_GROUPS = "too few groups"


@dataclass(frozen=True)
class Baseline:
    """Best baseline: the representations that reach its value, the estimate, and the sparsity it was matched to."""

    representations: tuple[str, ...]
    estimate: Estimate
    sparsity: float | None = None

    @property
    def label(self) -> str:
        """Labels of the representations, as in a sentence."""
        return comma_list(map(representation_label, self.representations))


@dataclass(frozen=True)
class Comparison:
    """One question answered from the dense layer, from its codes, and from baselines.

    `codes` is the mean over seeds, `seeds` holds the value of each seed, `others` an estimate per baseline.
    """

    metric: str
    target: str
    dense: Estimate
    codes: Estimate
    seeds: tuple[float, ...] = ()
    others: Mapping[str, Estimate] = field(default_factory=dict[str, Estimate])
    best_baseline: Baseline | None = None

    @property
    def change(self) -> Estimate:
        """Codes minus dense layer."""
        return difference(self.codes, self.dense)

    @property
    def relation(self) -> Relation:
        """Relation of the codes to the dense layer."""
        return relation(self.codes, self.dense)

    @property
    def at_chance(self) -> bool:
        """True if neither the layer nor the codes exceed their null."""
        return self.dense.at_chance and self.codes.at_chance

    @property
    def advantage(self) -> Advantage | None:
        """Advantage of the codes over the best baseline; None without a baseline."""
        if self.best_baseline is None:
            return None
        best = self.best_baseline.estimate
        if self.codes.too_few_groups:
            return Advantage.TOO_FEW_GROUPS
        if self.codes.value <= best.value:
            return Advantage.NONE
        return Advantage.BEYOND_INTERVALS if disjoint(best, self.codes) else Advantage.WITHIN_INTERVALS

    @property
    def untrained_is_better(self) -> bool:
        """True if an untrained encoder exceeds the trained layer by more than the margin."""
        untrained = self.others.get("untrained")
        return untrained is not None and untrained.value > self.dense.value + MARGIN


def compare(rows: pl.DataFrame, metric: str, target: str = "") -> Comparison | None:
    """Compare the representations in the rows of one question; None where the layer or its codes are missing.

    The rows hold one row per representation, and of codes one per seed.
    """
    codes = rows.filter(pl.col("representation") == CODES)
    one_each = rows.unique("representation", keep="first", maintain_order=True)
    first = {row["representation"]: Estimate.from_row(row) for row in one_each.iter_rows(named=True)}
    if codes.is_empty() or DENSE not in first:
        return None
    measured = codes.filter(pl.col("value").is_not_null() & pl.col("value").is_not_nan())
    return Comparison(
        metric=metric,
        target=target,
        dense=first[DENSE],
        codes=Estimate.from_row(mean_over_seeds(codes)),
        seeds=tuple(measured["value"]),
        others={name: estimate for name, estimate in first.items() if name not in (DENSE, CODES)},
        best_baseline=best_baseline(rows),
    )


def best_baseline(rows: pl.DataFrame) -> Baseline | None:
    """Return the best informative baseline, ties together; None where no baseline has a value."""
    informative = ~pl.col("representation").is_in([DENSE, CODES, *UNINFORMATIVE])
    others = rows.filter(informative & pl.col("value").is_not_nan())
    if others.is_empty():
        return None
    ranked = others.sort("value", page_order(), descending=[True, False], maintain_order=True)
    best = ranked.row(0, named=True)
    tied = ranked.filter((pl.col("value") - best["value"]).abs() < TIE)["representation"].unique(maintain_order=True)
    names, estimate = tuple(map(str, tied)), Estimate.from_row(best)
    if len(names) > 1:  # their intervals differ, so none stands for all
        return Baseline(names, replace(estimate, low=math.nan, high=math.nan))
    return Baseline(names, estimate, best["sparsity"])


def page_order() -> pl.Expr:
    """Return each row's rank in the order in which pages list representations; unknown ones come last."""
    order = {name: rank for rank, name in enumerate(REPRESENTATIONS)}
    return pl.col("representation").replace_strict(order, default=len(order), return_dtype=pl.Int64)


SEED = re.compile(r"-seed\d+$")
"""End of an SAE's name."""

NORMAL = 1.96
"""Standard errors to either end of a 95 % interval."""


def same_but_seed(codes: pl.DataFrame, sae_id: str) -> pl.DataFrame:
    """Return the rows of an SAE and of those that differ from it only in their seed, its own first."""
    stem = SEED.sub("", sae_id)
    same = codes.filter(pl.col("sae_id").str.replace(SEED.pattern, "") == stem)
    return same.sort(pl.col("sae_id") != sae_id, "seed", maintain_order=True)


def mean_over_seeds(rows: pl.DataFrame) -> Row:
    r"""Return the first row with the mean over seeds and an interval that covers groups and seeds.

    With values $v_s$ of $S$ seeds, their standard deviation $\sigma$ and the intervals $[l_s, h_s]$ over groups, the
    mean $\bar v$ reaches down to $\bar v - \sqrt{\overline{(v - l)}^2 + (1.96 \sigma / \sqrt S)^2}$ and up likewise, at
    most to 1 for a fraction. Rows without a value are left out, unless none has one.

    >>> two = {"value": [0.6, 0.8], "low": [0.5, 0.7], "high": [0.7, 0.9], "null_mean": [0.1, 0.1],
    ...        "null_high": [0.2, 0.2], "unit": ["fraction"] * 2}
    >>> row = mean_over_seeds(pl.DataFrame(two))
    >>> round(row["value"], 3), round(row["low"], 3), round(row["high"], 3)
    (0.7, 0.48, 0.92)
    """
    measured = rows.filter(pl.col("value").is_not_nan() & pl.col("value").is_not_null())
    row = (measured if measured.height else rows).row(0, named=True)
    if measured.height < 2:
        return row
    value, low, high = (measured[name].cast(pl.Float64).to_list() for name in ("value", "low", "high"))
    mean = sum(value) / len(value)
    spread = NORMAL * math.sqrt(sum((v - mean) ** 2 for v in value) / (len(value) - 1) / len(value))
    down = _mean([v - end for v, end in zip(value, low, strict=True)])
    up = _mean([end - v for v, end in zip(value, high, strict=True)])
    most = 1.0 if row["unit"] == "fraction" else math.inf
    ends = {"low": mean - math.hypot(down, spread), "high": min(mean + math.hypot(up, spread), most)}
    nulls = {name: _mean(measured[name].cast(pl.Float64).to_list()) for name in ("null_mean", "null_high")}
    return {**row, "value": mean, **ends, **nulls}


def with_seed_means(rows: pl.DataFrame) -> pl.DataFrame:
    """Replace the codes' rows of one metric, target, layer, k and dimension count by their mean over seeds."""
    keys = ("representation", "metric", "target", "layer", "k", "dimensions", "split")
    parts: list[pl.DataFrame] = []
    for (representation, *_), part in rows.group_by(keys, maintain_order=True):
        is_codes = representation == CODES
        parts.append(pl.DataFrame([mean_over_seeds(part)], schema=part.schema) if is_codes else part)
    return pl.concat(parts) if parts else rows


def _mean(values: Sequence[float | None]) -> float:
    """Return the mean; NaN where a value is missing."""
    numbers = [math.nan if v is None else v for v in values]
    return math.fsum(numbers) / len(numbers)
