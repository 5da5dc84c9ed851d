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

from otoscope.formatting import comma_list, untested
from otoscope.metrics.registry import METRICS
from otoscope.metrics.representation import CODES, DENSE, REPRESENTATIONS, UNINFORMATIVE, representation_label
from otoscope.metrics.results import Row
from otoscope.resampling.intervals import MIN_GROUPS

MARGIN = 0.02
"""Loss that counts as none: 2 points of accuracy or of R²."""

TOLD_BY_GROUPS = 0.5
"""Mean R² of clips permuted within groups from which on a value is mostly a property of the group."""

TIE = 1e-9
"""Values closer than this are equal: the same clips were classified correctly."""


class Verdict(StrEnum):
    """Outcome of a claim."""

    HOLDS = "holds"
    EQUALLY = "holds, but equally for others"
    FAILS = "does not hold"
    NOTHING_TO_KEEP = "nothing to keep"
    UNDECIDED = "undecided"
    NOT_ASKED = "not tested"
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
    def untestable(self) -> bool:
        """True if there were too few clips or groups for a null."""
        return untested(vars(self))

    @property
    def too_few_groups(self) -> bool:
        """True if the value rests on too few test groups for a decision."""
        return self.groups < MIN_GROUPS


class Relation(Enum):
    """Relation of codes to another representation by the interval of the paired difference."""

    HIGHER = "higher"
    LOWER = "lower"
    UNCLEAR = "the interval includes no difference"
    TOO_FEW_GROUPS = "too few groups"


UNMEASURED = Estimate(math.nan)
"""Estimate without a value."""


def relation(change: Estimate, *, neutral: float = 0.0) -> Relation:
    """Return the relation that a paired difference shows; `neutral` is its value for equal representations.

    >>> relation(Estimate(0.1, 0.02, 0.18, groups=5)), relation(Estimate(0.1, groups=5))
    (<Relation.HIGHER: 'higher'>, <Relation.UNCLEAR: 'the interval includes no difference'>)
    """
    if change.too_few_groups:
        return Relation.TOO_FEW_GROUPS
    if change.low > neutral:
        return Relation.HIGHER
    return Relation.LOWER if change.high < neutral else Relation.UNCLEAR


class Advantage(Enum):
    """Advantage of codes over the best baseline."""

    BEYOND_INTERVALS = "beyond the interval of every paired difference"
    WITHIN_INTERVALS = "within the interval of a paired difference"
    NONE = "none"
    TOO_FEW_GROUPS = "too few groups"


@dataclass(frozen=True)
class Baseline:
    """Best baseline: the representations that reach its value, the estimate, and the sparsity of the codes compared.

    The sparsity is None if a representation has none, such as log-mel statistics. `among` counts the baselines.
    """

    representations: tuple[str, ...]
    estimate: Estimate
    sparsity: float | None = None
    among: int = 1

    @property
    def label(self) -> str:
        """Labels of the representations, as in a sentence."""
        return comma_list(map(representation_label, self.representations))

    @property
    def noun(self) -> str:
        """Noun for the representations, with the number of baselines: the best of many may owe its value to luck."""
        if self.among > len(self.representations):
            return f"best of {self.among} baselines"
        return "best baseline" if len(self.representations) == 1 else "best baselines"


@dataclass(frozen=True)
class Comparison:
    """One question answered from the dense layer, from its codes, and from baselines.

    `codes` is the mean over seeds, `seeds` holds the value of each seed, `others` an estimate per baseline.
    `readers` holds the reader of each representation, `differences` codes minus each other representation (of
    dimensions: their ratio), paired by clip or factor.
    """

    metric: str
    target: str
    dense: Estimate
    codes: Estimate
    seeds: tuple[float, ...] = ()
    others: Mapping[str, Estimate] = field(default_factory=dict[str, Estimate])
    best_baseline: Baseline | None = None
    differences: Mapping[str, Estimate] = field(default_factory=dict[str, Estimate])
    readers: Mapping[str, str] = field(default_factory=dict[str, str])

    def against(self, representation: str) -> Estimate:
        """Return the paired difference to a representation; without a value where it was not measured."""
        return self.differences.get(representation, UNMEASURED)

    def relation_to(self, representation: str) -> Relation:
        """Return the relation of the codes to a representation."""
        return relation(self.against(representation), neutral=1.0 if METRICS[self.metric].logarithmic else 0.0)

    @property
    def change(self) -> Estimate:
        """Paired difference of the codes to the dense layer."""
        return self.against(DENSE)

    @property
    def relation(self) -> Relation:
        """Relation of the codes to the dense layer."""
        return self.relation_to(DENSE)

    @property
    def at_chance(self) -> bool:
        """True if neither the layer nor the codes exceed their null."""
        return self.dense.at_chance and self.codes.at_chance

    @property
    def untestable(self) -> bool:
        """True if there were too few clips or groups for the null of the layer or of the codes."""
        return self.dense.untestable or self.codes.untestable

    @property
    def advantage(self) -> Advantage | None:
        """Advantage of the codes over every informative baseline; None without a baseline.

        All paired differences must be beyond their intervals, so that the best baseline is not chosen by its luck.
        """
        if self.best_baseline is None:
            return None
        if self.codes.too_few_groups:
            return Advantage.TOO_FEW_GROUPS
        if self.codes.value <= self.best_baseline.estimate.value:
            return Advantage.NONE
        rivals = [name for name, rival in self.others.items() if name not in UNINFORMATIVE and rival.measured]
        beyond = all(self.relation_to(name) is Relation.HIGHER for name in rivals)
        return Advantage.BEYOND_INTERVALS if beyond else Advantage.WITHIN_INTERVALS

    @property
    def untrained_is_better(self) -> bool:
        """True if an untrained encoder exceeds the trained layer by more than the margin."""
        untrained = self.others.get("untrained")
        return untrained is not None and untrained.value > self.dense.value + MARGIN


def compare(rows: pl.DataFrame, metric: str, target: str = "", *, differences: pl.DataFrame) -> Comparison | None:
    """Compare the representations in the rows of one question; None where the layer or its codes are missing.

    The rows hold one row per representation, and of codes one per seed. `differences` holds one row per representation
    that the codes were compared with.
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
        readers=readers_of(rows),
        differences={row["representation"]: Estimate.from_row(row) for row in differences.iter_rows(named=True)},
    )


def readers_of(rows: pl.DataFrame) -> dict[str, str]:
    """Return the readers of each representation, of codes those of all seeds, of a cross-fit those of all folds."""
    found: dict[str, dict[str, None]] = {}
    for name, readers in rows.filter(pl.col("reader") != "").select("representation", "reader").rows():
        found.setdefault(name, {}).update(dict.fromkeys(readers.split(" or ")))
    return {name: " or ".join(readers) for name, readers in found.items()}


def best_baseline(rows: pl.DataFrame) -> Baseline | None:
    """Return the best informative baseline, ties together; None where no baseline has a value."""
    informative = ~pl.col("representation").is_in([DENSE, CODES, *UNINFORMATIVE])
    others = rows.filter(informative & pl.col("value").is_not_nan())
    if others.is_empty():
        return None
    ranked = others.sort("value", page_order(), descending=[True, False], maintain_order=True)
    best = ranked.row(0, named=True)
    tied = ranked.filter((pl.col("value") - best["value"]).abs() < TIE)
    names, estimate = tuple(map(str, tied["representation"].unique(maintain_order=True))), Estimate.from_row(best)
    if len(names) > 1:  # their intervals differ, so none stands for all
        estimate = replace(estimate, low=math.nan, high=math.nan)
    at = best["sparsity"] if tied["sparsity"].n_unique() == 1 else None
    return Baseline(names, estimate, at, among=others["representation"].n_unique())


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
    most to 1 for a fraction. Dimensions, which are compared by ratios, are averaged as logarithms. Rows without a value
    are left out, unless none has one.

    >>> two = {"metric": ["task_r2"] * 2, "value": [0.6, 0.8], "low": [0.5, 0.7], "high": [0.7, 0.9],
    ...        "null_mean": [0.1, 0.1], "null_high": [0.2, 0.2], "unit": ["fraction"] * 2}
    >>> row = mean_over_seeds(pl.DataFrame(two))
    >>> round(row["value"], 3), round(row["low"], 3), round(row["high"], 3)
    (0.7, 0.48, 0.92)
    """
    measured = rows.filter(pl.col("value").is_not_nan() & pl.col("value").is_not_null())
    row = (measured if measured.height else rows).row(0, named=True)
    if measured.height < 2:
        return row
    logarithmic = METRICS[row["metric"]].logarithmic
    ends_of = measured.select(pl.col("value", "low", "high").cast(pl.Float64))
    if logarithmic:
        ends_of = ends_of.select(pl.all().log())
    value, low, high = (column.to_list() for column in ends_of)
    mean = sum(value) / len(value)
    spread = NORMAL * math.sqrt(sum((v - mean) ** 2 for v in value) / (len(value) - 1) / len(value))
    down = _mean([v - end for v, end in zip(value, low, strict=True)])
    up = _mean([end - v for v, end in zip(value, high, strict=True)])
    most = 1.0 if row["unit"] == "fraction" else math.inf
    ends = {"low": mean - math.hypot(down, spread), "high": min(mean + math.hypot(up, spread), most)}
    if logarithmic:
        mean, ends = math.exp(mean), {name: math.exp(end) for name, end in ends.items()}
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
