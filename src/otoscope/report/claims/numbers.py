"""The numbers of three claims: what the study published, and what its own way gives here.

What stands beside the first target of claim 1: every other target, and the best of what codes must beat.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from otoscope.metrics.representation import CODES, DENSE
from otoscope.protocols.comparing import Number, alike, difference, mean_of, number_of
from otoscope.protocols.mariotte2025 import NAME as COMPAT
from otoscope.protocols.mariotte2025.published import published
from otoscope.report.baselines import Baseline, best_baseline

MARGIN = 0.02
"""Loss that still counts as none, as in the strict protocol's limits: 2 points of accuracy or of R²."""


@dataclass(frozen=True)
class Beside:
    """How many other targets were asked, the losses beyond the margin among them, and the best baseline."""

    asked: int
    lost: Mapping[str, Number]
    best: Baseline | None


def beside_codes(tasks: pl.DataFrame, codes: Mapping[str, Any]) -> Beside:
    """Look beside codes, given by one of their rows: `tasks` holds the test rows of every target and representation.

    A target that the layer does not tell better than its null is not asked: nothing can be lost of it.
    """
    of_layer = tasks.filter(pl.col("layer") == codes["layer"])
    same = (pl.col("target") == codes["target"]) & (pl.col("metric") == codes["metric"])
    asked, lost = 0, dict[str, Number]()
    for target, metric in of_layer.filter(~same).select("target", "metric").unique(maintain_order=True).rows():
        rows = of_layer.filter((pl.col("target") == target) & (pl.col("metric") == metric))
        dense = rows.filter(pl.col("representation") == DENSE)
        found = alike(rows.filter(pl.col("representation") == CODES), codes["sae_id"])
        if dense.is_empty() or found.is_empty():
            continue
        base = number_of(dense.row(0, named=True))
        if base.value <= base.null_high:
            continue
        asked += 1
        change = difference(number_of(mean_of(found)), base)
        if change.value < -MARGIN:
            lost[f"{target} (R²)" if metric == "task_r2" else target] = change
    return Beside(asked, lost, best_baseline(of_layer.filter(same)))


HIGH_SPARSITY = 0.95
"""The sparsity at which the study's text reads its figures; the nearest that was trained stands for it."""

FEW = 4
"""Dimensions that stand for few: the nearest number of the k-sparse curves."""

EARLY_LATE = ("pitch", "formants", "mfcc")
"""Categories of the third claim: the first early, the others late."""


@dataclass(frozen=True)
class Kept:
    """Claim 1: what a probe reads from a layer and from codes, by sparsity; `cells` says over how many layers.

    `beside` holds what else decides whether a task is kept: other targets, and what codes must beat; `seeds` what
    dictionaries of each seed reach at the sparsity that stands for a high one, of which its number is the mean,
    and `clips` how many were named rightly or wrongly (0 for a value).
    """

    dense: Number
    codes: Mapping[float, Number]
    target: str
    cells: int = 1
    limit: Number | None = None
    beside: Beside | None = None
    seeds: tuple[float, ...] = ()
    clips: int = 0

    @property
    def sparsity(self) -> float:
        """The sparsity that stands for a high one."""
        return min(self.codes, key=lambda s: (abs(s - HIGH_SPARSITY), s))

    @property
    def high(self) -> Number:
        """What codes of a high sparsity keep."""
        return self.codes[self.sparsity]

    @property
    def losses(self) -> dict[float, float]:
        """Codes less dense, by sparsity."""
        return {s: number.value - self.dense.value for s, number in sorted(self.codes.items())}


@dataclass(frozen=True)
class Sides:
    """One quantity of a layer and of its codes."""

    dense: Number
    codes: Number


@dataclass(frozen=True)
class Compact:
    """Claim 2: completeness; on held-out groups also what a factor takes, and what `few_k` dimensions tell.

    `unlearned` holds the dimensions that a factor takes of what learned nothing, by its words; `seeds` what it takes
    of dictionaries of every seed; `few_best` what tells most of a factor in few dimensions besides layer and codes.
    """

    completeness: Sides
    cells: int = 1
    dimensions: Sides | None = None
    few: Sides | None = None
    few_k: int = FEW
    factors: int = 0
    unlearned: Mapping[str, Number] = field(default_factory=dict[str, Number])
    seeds: tuple[float, ...] = ()
    few_best: Baseline | None = None


@dataclass(frozen=True)
class Order:
    """Claim 3: what is read early and late; counts by category, or the lead of one category over others in layers.

    `of_blocks` are the leads without layer 0, the input of the first block.
    """

    early: Mapping[str, float] = field(default_factory=dict[str, float])
    late: Mapping[str, float] = field(default_factory=dict[str, float])
    leads: Mapping[str, Number] = field(default_factory=dict[str, Number])
    of_blocks: Mapping[str, Number] = field(default_factory=dict[str, Number])
    by_layer: pl.DataFrame | None = None
    cells: int = 1


@dataclass(frozen=True)
class Claims:
    """The three claims' numbers from one source; None where it does not have them."""

    kept: Kept | None
    compact: Compact | None
    order: Order | None


def published_claims() -> Claims:
    """Return the study's own numbers, means over the layers that it opened."""
    rows = published().rename({"model": "encoder"})
    return _in_the_studys_way(rows)


def compat_claims(results: pl.DataFrame) -> Claims:
    """Return the same numbers of this run, made in the study's way."""
    rows = results.filter((pl.col("protocol") == COMPAT) & (pl.col("split") == "test") & pl.col("value").is_not_nan())
    seeds = rows["seed"].drop_nulls()
    if not seeds.is_empty():
        rows = rows.filter(pl.col("seed").is_null() | (pl.col("seed") == seeds.min()))
    for column, theirs in (("preset", "mariotte2025"), ("latents", 2048)):
        found = rows[column].drop_nulls().unique(maintain_order=True).to_list()
        if len(found) > 1:  # one kind of dictionary, the study's own where it was trained
            rows = rows.filter(pl.col(column).is_null() | (pl.col(column) == (theirs if theirs in found else found[0])))
    return _in_the_studys_way(rows)


def _in_the_studys_way(rows: pl.DataFrame) -> Claims:
    return Claims(_kept_as_published(rows), _compact_as_published(rows), _order_as_published(rows))


def _kept_as_published(rows: pl.DataFrame) -> Kept | None:
    probes = rows.filter(pl.col("metric") == "probe_accuracy")
    if probes.is_empty():
        return None
    target = probes["target"][0]
    # the two runs of one label count as one cell each
    probes = probes.filter(pl.col("target").str.starts_with(target))
    dense, codes = _opened(probes)
    if dense.is_empty() or codes.is_empty():
        return None
    means = codes.group_by("sparsity").agg(pl.col("value").mean()).sort("sparsity")
    found = {float(s): Number(float(v)) for s, v in means.iter_rows()}
    return Kept(Number(_mean(dense)), found, target, cells=dense.height)


def _compact_as_published(rows: pl.DataFrame) -> Compact | None:
    dense, codes = _opened(rows.filter((pl.col("metric") == "top_completeness") & (pl.col("target") == "")))
    if dense.is_empty() or codes.is_empty():
        return None
    near = min(codes["sparsity"].unique(), key=lambda s: (abs(s - HIGH_SPARSITY), s))
    found = Sides(Number(_mean(dense)), Number(_mean(codes.filter(pl.col("sparsity") == near))))
    return Compact(found, cells=dense.height)


def _order_as_published(rows: pl.DataFrame) -> Order | None:
    counts = rows.filter((pl.col("metric") == "category_count") & (pl.col("representation") == "sae"))
    if counts.is_empty():
        return None
    ends = counts.group_by("encoder").agg(pl.col("layer").min().alias("first"), pl.col("layer").max().alias("last"))
    ends = ends.filter(pl.col("first") < pl.col("last"))
    placed = counts.join(ends, on="encoder")
    if placed.is_empty():
        return None

    def mean_at(end: str) -> dict[str, float]:
        at = placed.filter(pl.col("layer") == pl.col(end)).group_by("target").agg(pl.col("value").mean())
        found = dict(at.iter_rows())
        return {name: float(found[name]) for name in EARLY_LATE if name in found}

    return Order(early=mean_at("first"), late=mean_at("last"), cells=ends.height)


def _opened(rows: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return dense rows and rows of codes of the layers that have both."""
    codes = rows.filter(pl.col("representation") == "sae")
    both = codes.select("encoder", "layer").unique()
    return rows.filter(pl.col("representation") == "dense").join(both, on=["encoder", "layer"]), codes


def _mean(rows: pl.DataFrame) -> float:
    values: Sequence[float] = rows["value"].to_list()
    return math.fsum(values) / len(values)
