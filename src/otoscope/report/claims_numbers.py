"""What the study published, what its own way gives here, and what held-out groups say: the numbers of three claims."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import polars as pl

from otoscope.protocols.mariotte2025 import NAME as COMPAT
from otoscope.protocols.mariotte2025.published import published
from otoscope.protocols.strict import NAME as STRICT
from otoscope.report.claims_beside import Beside, beside_codes
from otoscope.report.intervals import Number, number_of

HIGH_SPARSITY = 0.95
"""The sparsity at which the study's text reads its figures; the nearest that was trained stands for it."""

FEW = 4
"""Dimensions that stand for few: the nearest number of the k-sparse curves."""

EARLY_LATE = ("pitch", "formants", "mfcc")
"""Categories of the third claim: the first early, the others late."""


@dataclass(frozen=True)
class Kept:
    """Claim 1: what a probe reads from a layer and from codes, by sparsity; `cells` says over how many layers.

    `beside` holds what else decides whether a task is kept: other targets, and what codes must beat.
    """

    dense: Number
    codes: Mapping[float, Number]
    target: str
    cells: int = 1
    limit: Number | None = None
    beside: Beside | None = None

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


UNLEARNED = {
    "frozen_decoder": "codes over frozen random atoms",
    "untrained_sae": "codes of an untrained encoder",
}
"""What is sparse as well, and learned less or nothing."""


@dataclass(frozen=True)
class Compact:
    """Claim 2: completeness; on held-out groups also what a factor takes, and what `few_k` dimensions tell.

    `unlearned` holds the dimensions that a factor takes of what learned nothing, by its words.
    """

    completeness: Sides
    cells: int = 1
    dimensions: Sides | None = None
    few: Sides | None = None
    few_k: int = FEW
    factors: int = 0
    unlearned: Mapping[str, Number] = field(default_factory=dict[str, Number])


@dataclass(frozen=True)
class Order:
    """Claim 3: what is read early and late; counts by category, or the lead of one category over others in layers."""

    early: Mapping[str, float] = field(default_factory=dict[str, float])
    late: Mapping[str, float] = field(default_factory=dict[str, float])
    leads: Mapping[str, Number] = field(default_factory=dict[str, Number])
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


def strict_claims(results: pl.DataFrame) -> Claims:
    """Return what held-out groups say: each number with its interval over groups and its null."""
    rows = results.filter((pl.col("protocol") == STRICT) & (pl.col("split") == "test"))
    return Claims(_kept_strictly(rows), _compact_strictly(rows), _order_strictly(rows))


def _kept_strictly(rows: pl.DataFrame) -> Kept | None:
    tasks = rows.filter(pl.col("metric").is_in(["task_balanced_accuracy", "task_r2"]) & pl.col("value").is_not_nan())
    codes = tasks.filter(pl.col("representation") == "sae")
    if codes.is_empty():
        return None
    target, metric = codes.sort(pl.col("metric") == "task_r2", maintain_order=True).select("target", "metric").row(0)
    same = (pl.col("target") == target) & (pl.col("metric") == metric)
    codes = _one_of_each(codes.filter(same))
    layer = codes["layer"][0]
    dense = tasks.filter(same & (pl.col("representation") == "dense") & (pl.col("layer") == layer))
    if dense.is_empty():
        return None
    limits = rows.filter((pl.col("metric") == "sparsity_limit") & pl.col("target").str.ends_with(": task"))
    own = limits.filter(pl.col("target") == f"{codes['preset'][0]}: task")
    limit = next((number_of(row) for row in (own if own.height else limits.tail(1)).iter_rows(named=True)), None)
    found = {float(row["sparsity"]): number_of(row) for row in codes.iter_rows(named=True)}
    kept = Kept(number_of(dense.row(0, named=True)), found, target, limit=limit)
    shown = codes.filter(pl.col("sparsity") == kept.sparsity).row(0, named=True)
    return replace(kept, beside=beside_codes(tasks, shown))


def _one_of_each(codes: pl.DataFrame) -> pl.DataFrame:
    """Keep one dictionary a sparsity: of the layer, recipe and size with most sparsities, the first seed."""
    stem = pl.col("sae_id").str.replace(r"-k\d+-seed\d+$", "")
    codes = codes.with_columns(stem.alias("stem"))
    best = codes.group_by("stem", maintain_order=True).agg(pl.col("sparsity").n_unique().alias("sparsities"))
    chosen = best.sort("sparsities", descending=True, maintain_order=True)["stem"][0]
    return codes.filter(pl.col("stem") == chosen).sort("sparsity", "seed").unique("sparsity", maintain_order=True)


def _compact_strictly(rows: pl.DataFrame) -> Compact | None:
    completeness, dimensions = (
        _sides(rows.filter(pl.col("metric") == m)) for m in ("completeness", "effective_latents")
    )
    if completeness is None:
        return None
    curve = rows.filter(pl.col("metric") == "sparse_r2")
    few_k = min(curve["k"].drop_nulls(), key=lambda k: (abs(k - FEW), k), default=FEW)
    few = _sides(curve.filter(pl.col("k") == few_k))
    taken = rows.filter((pl.col("metric") == "effective_latents") & (pl.col("target") == ""))
    unlearned = {
        UNLEARNED[row["representation"]]: number_of(row)
        for row in taken.filter(pl.col("value").is_not_nan()).sort("seed", maintain_order=True).rows(named=True)
        if row["representation"] in UNLEARNED
    }
    return Compact(completeness, 1, dimensions, few, few_k, completeness.codes.n, unlearned)


def _sides(rows: pl.DataFrame) -> Sides | None:
    """Return a quantity over all factors together, of codes that of the first seed."""
    found = [
        rows.filter((pl.col("target") == "") & (pl.col("representation") == side)).sort("seed", maintain_order=True)
        for side in ("dense", "sae")
    ]
    if any(side.is_empty() for side in found):
        return None
    return Sides(*(number_of(side.row(0, named=True)) for side in found))


def _order_strictly(rows: pl.DataFrame) -> Order | None:
    leads = rows.filter(pl.col("metric") == "layer_lead")
    if leads.is_empty():
        return None
    curves = rows.filter((pl.col("metric") == "category_r2") & pl.col("target").is_in(EARLY_LATE))
    return Order(leads={row["target"]: number_of(row) for row in leads.iter_rows(named=True)}, by_layer=curves)


def _mean(rows: pl.DataFrame) -> float:
    values: Sequence[float] = rows["value"].to_list()
    return math.fsum(values) / len(values)
