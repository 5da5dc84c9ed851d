"""Results of the strict protocol: the representations compared, layer leads, and sparsity limits."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

import polars as pl

from otoscope.metrics.registry import METRICS
from otoscope.metrics.representation import CODES, DENSE, REPRESENTATIONS
from otoscope.metrics.results import ResultsTable, Row
from otoscope.protocols.comparison import (
    UNMEASURED,
    Comparison,
    Estimate,
    Relation,
    compare,
    mean_over_seeds,
    page_order,
    relation,
    same_but_seed,
)
from otoscope.protocols.strict import NAME
from otoscope.protocols.strict.layers_and_limits import MARGINS

SAE_MARKERS = ("reappearing_share", "mig", "sparse_r2", "sparse_probe_balanced_accuracy", "explained_variance")
"""Metrics that only the SAE compared in full has; every SAE has the last, the fallback."""

FEW = 8
"""Largest number of dimensions that counts as few."""

EQUAL_R2 = 0.005
"""Difference of two R² up to which neither counts as higher."""

ROUNDING = 1e-12
"""Excess over a margin up to which it is not exceeded."""

LABELS = {entry.name: entry.label for entry in REPRESENTATIONS.values()}


LAYER_MARGIN = 0.5
"""Layers by which one category must precede another: half the distance between two layers."""

LEVEL = 0.05
"""Probability of a lead by chance up to which it counts, over all leads together."""


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Return p values adjusted for their number (Holm, Scandinavian Journal of Statistics 6, 1979).

    >>> holm({"a": 0.01, "b": 0.03, "c": 0.04})
    {'a': 0.03, 'b': 0.06, 'c': 0.06}
    """
    adjusted: dict[str, float] = {}
    largest = 0.0
    for rank, name in enumerate(sorted(p, key=lambda name: p[name])):
        largest = max(largest, min((len(p) - rank) * p[name], 1.0))
        adjusted[name] = largest
    return adjusted


class LeadDecision(Enum):
    """Decision on the order of two categories over the layers."""

    DECIDED = "beyond half a layer, and beyond chance"
    UNDECIDED = "not beyond half a layer, or not beyond chance"
    TOO_FEW_GROUPS = "too few groups"


@dataclass(frozen=True)
class LayerLead:
    """Layers by which the centre of one category precedes that of another, over all layers and without layer 0."""

    first: str
    second: str
    estimate: Estimate
    blocks: Estimate | None = None
    """Over the outputs of blocks alone; None where layer 0 is not among the layers."""
    p: float = math.nan
    """Probability of a lead as large by chance, adjusted for the number of leads (Holm)."""
    alone: float = math.nan
    """The same, of this lead by itself."""
    family: int = 1
    """Number of leads in the adjustment."""

    def beyond(self, sign: float) -> bool:
        """Return whether the whole interval is beyond half a layer in this direction, and the lead beyond chance."""
        lead = self.estimate
        near = lead.low if sign > 0 else -lead.high
        by_chance = self.p > LEVEL if math.isfinite(self.p) else abs(lead.value) <= lead.null_high
        return near > LAYER_MARGIN and not by_chance

    @property
    def decision(self) -> LeadDecision:
        """Decision over all layers."""
        lead = self.estimate
        if lead.too_few_groups:
            return LeadDecision.TOO_FEW_GROUPS
        return LeadDecision.DECIDED if self.beyond(1.0) or self.beyond(-1.0) else LeadDecision.UNDECIDED

    @property
    def rests_on_input(self) -> bool:
        """True if the lead does not exceed chance without layer 0, the input of the first block."""
        return self.blocks is not None and abs(self.blocks.value) <= self.blocks.null_high

    def stands(self, sign: float) -> bool:
        """Return whether the lead exceeds chance in this direction without layer 0, too, if that was measured."""
        blocks = self.blocks
        if blocks is None or not math.isfinite(blocks.value):
            return True
        return sign * blocks.value > abs(blocks.null_high)


class FewDimensions(Enum):
    """Comparison of codes and layer over the first points of their curves of R² by number of dimensions."""

    HIGHER = "higher beyond the intervals"
    LOWER = "lower beyond the intervals"
    HIGHER_WITHIN_INTERVALS = "higher within the intervals"
    NOT_HIGHER = "not higher"
    MIXED = "mixed"
    TOO_FEW_GROUPS = "too few groups"


def compare_few_dimensions(comparisons: list[Comparison]) -> FewDimensions:
    """Decide whether few dimensions of the codes predict more than few dimensions of the layer."""
    relations = {comparison.relation for comparison in comparisons}
    if Relation.TOO_FEW_GROUPS in relations:
        return FewDimensions.TOO_FEW_GROUPS
    if relations == {Relation.HIGHER}:
        return FewDimensions.HIGHER
    if relations == {Relation.LOWER}:
        return FewDimensions.LOWER
    changes = [comparison.codes.value - comparison.dense.value for comparison in comparisons]
    if all(change > EQUAL_R2 for change in changes):
        return FewDimensions.HIGHER_WITHIN_INTERVALS
    return FewDimensions.MIXED if Relation.HIGHER in relations else FewDimensions.NOT_HIGHER


@dataclass(frozen=True)
class PresetLimit:
    """Sparsest level of a preset that loses no more than the margin against its densest level, for one quantity."""

    preset: str
    quantity: str
    estimate: Estimate
    levels: Mapping[float, float]
    """Value by sparsity."""

    @property
    def better_sparsity(self) -> float | None:
        """Sparsity that exceeds the densest level by more than the margin: then no limit can be determined."""
        return better_than_densest(self.levels, MARGINS[self.quantity])

    @property
    def first_loss(self) -> float | None:
        """Lowest sparsity that loses more than the margin against the densest level; None if none does."""
        densest = self.levels[min(self.levels)] if self.levels else math.nan
        lost = (s for s, value in self.levels.items() if densest - value > MARGINS[self.quantity] + ROUNDING)
        return min(lost, default=None)


def better_than_densest(levels: Mapping[float, float], margin: float) -> float | None:
    """Return the best sparsity if it exceeds the densest by more than the margin, else None.

    A limit measures the loss against the densest codes; it says nothing where these are the worse ones.

    >>> better_than_densest({0.75: 0.3, 0.9: 0.6, 0.99: 0.2}, 0.02), better_than_densest({0.75: 0.6, 0.9: 0.61}, 0.02)
    (0.9, None)
    """
    if not levels:
        return None
    best = max(levels, key=lambda sparsity: levels[sparsity])
    return best if levels[best] - levels[min(levels)] > margin else None


@dataclass(frozen=True, repr=False)
class StrictResults(ResultsTable):
    """Rows of the strict protocol."""

    @classmethod
    def of(cls, rows: pl.DataFrame) -> "StrictResults":
        """Select the strict protocol's rows from all results."""
        return cls(rows.filter(pl.col("protocol") == NAME))

    @cached_property
    def main(self) -> Row | None:
        """Row of the SAE compared in full, first seed; None without codes."""
        codes = self.where(representation=CODES)
        for metric in SAE_MARKERS:
            marked = codes.where(metric=metric).rows.sort("seed", maintain_order=True)
            if marked.height:
                return marked.row(0, named=True)
        return None

    @property
    def layer(self) -> int:
        """Layer compared."""
        return int(self.main["layer"]) if self.main else 0

    @cached_property
    def sae_ids(self) -> list[str]:
        """Names of the SAEs that differ from the one compared only in their seed, that one first."""
        main = self.main
        if main is None:
            return []
        same = [pl.col(name).eq_missing(pl.lit(main[name])) for name in ("layer", "pooling", "latents")]
        rows = self.where(representation=CODES, sparsity=main["sparsity"]).rows.filter(pl.all_horizontal(same))
        return same_but_seed(rows, main["sae_id"])["sae_id"].unique(maintain_order=True).to_list()

    def compared(
        self, metric: str, target: str = "", *, split: str = "test", dimensions: int | None = None
    ) -> pl.DataFrame:
        """Return one row per representation (of codes one per seed) in page order; `series` holds the label."""
        table = self.where(metric=metric, target=target, split=split, layer=self.layer)
        rows = (table if dimensions is None else table.where(dimensions=dimensions)).rows
        rows = rows.filter((pl.col("representation") != CODES) | pl.col("sae_id").is_in(self.sae_ids))
        series = pl.col("representation").replace_strict(LABELS, default=pl.col("representation"))
        rows = rows.with_columns(series.alias("series"), page_order().alias("place"))
        return rows.sort("place", "seed", maintain_order=True)

    def comparison(self, metric: str, target: str = "", *, dimensions: int | None = None) -> Comparison | None:
        """Compare all representations on one question; None where the layer or its codes are missing."""
        rows = self.compared(metric, target, dimensions=dimensions)
        found = self.where(metric=METRICS[metric].difference or (), target=target, sae_id=self.sae_ids[:1])
        differences = found if dimensions is None else found.where(dimensions=dimensions)
        return compare(rows, metric, target, differences=differences.rows)

    def difference(self, metric: str, target: str, sae_id: str, representation: str = DENSE) -> Estimate:
        """Return the codes of an SAE (mean over seeds) minus a representation on the same clips, if measured."""
        row = self.where(
            metric=METRICS[metric].difference or (), target=target, sae_id=sae_id, representation=representation
        ).first()
        return UNMEASURED if row is None else Estimate.from_row(row)

    @cached_property
    def task_comparisons(self) -> list[Comparison]:
        """Comparisons on every task."""
        compared = (self.comparison(metric, target) for metric, target in self.tasks)
        return [comparison for comparison in compared if comparison is not None]

    @cached_property
    def few_dimensions(self) -> dict[int, Comparison]:
        """Comparisons of the mean R² from few dimensions, by their number."""
        compared = {size: self.comparison("sparse_r2", dimensions=size) for size in self.sizes if size <= FEW}
        return {size: comparison for size, comparison in compared.items() if comparison is not None}

    @cached_property
    def lower_from(self) -> list[int]:
        """Numbers of dimensions, few or many, from which the codes predict less than the layer beyond the interval."""
        rows = self.where(metric=METRICS["sparse_r2"].difference, representation=DENSE, sae_id=self.sae_ids[:1])
        return sorted(row["dimensions"] for row in rows if relation(Estimate.from_row(row)) is Relation.LOWER)

    def one(self, metric: str, representation: str, target: str = "") -> Row | None:
        """Return the row of a representation (of codes the mean over seeds), or None."""
        rows = self.compared(metric, target).filter(pl.col("representation") == representation)
        if rows.is_empty():
            return None
        return mean_over_seeds(rows) if representation == CODES else rows.row(0, named=True)

    def first_codes(self, metric: str, target: str = "") -> Row | None:
        """Return the row of the SAE compared in full, of its first seed, or None."""
        return self.where(metric=metric, target=target, split="test", sae_id=self.sae_ids[:1]).first()

    @cached_property
    def tasks(self) -> list[tuple[str, str]]:
        """Metric and target of every task: single labels first, then several labels, then values."""
        rows = self.where(metric=("task_balanced_accuracy", "task_r2")).rows
        pairs = rows.select("metric", "target").unique(maintain_order=True).rows()
        return sorted(pairs, key=lambda pair: (pair[0] == "task_r2", " + " in pair[1]))

    @property
    def sizes(self) -> list[int]:
        """Numbers of dimensions of the curves."""
        return sorted(self.unique("dimensions"))

    def targets(self, metric: str) -> list[str]:
        """Return the targets of a metric, in the order of the table."""
        return self.where(metric=metric).unique("target")

    @cached_property
    def leads(self) -> list[LayerLead]:
        """Leads of one category over another, in layers."""
        blocks = {row["target"]: Estimate.from_row(row) for row in self.where(metric="layer_lead_of_blocks")}
        found = {row["target"]: row["value"] for row in self.where(metric="layer_lead_p").measured}
        p, leads = holm(found), list[LayerLead]()
        for row in self.where(metric="layer_lead", split="test"):
            first, _, second = row["target"].partition(" before ")
            by_chance = (p.get(row["target"], math.nan), found.get(row["target"], math.nan), len(found))
            leads.append(LayerLead(first, second, Estimate.from_row(row), blocks.get(row["target"]), *by_chance))
        return leads

    @cached_property
    def limit_questions(self) -> dict[str, tuple[str, str]]:
        """Metric and target of each quantity with a sparsity limit."""
        questions = {"explained variance": ("explained_variance", ""), "factors": ("mean_factor_r2", "")}
        return questions | ({"task": self.tasks[0]} if self.tasks else {})

    @cached_property
    def limits(self) -> list[PresetLimit]:
        """Sparsity limits in the order of the table."""
        limits: list[PresetLimit] = []
        for row in self.where(metric="sparsity_limit", split="test"):
            preset, quantity = row["target"].split(": ")
            levels: dict[float, float] = {}
            if quantity in self.limit_questions:
                metric, target = self.limit_questions[quantity]
                codes = ResultsTable(self.first_seed_codes).where(preset=preset, metric=metric, target=target).measured
                levels = dict(codes.rows.select("sparsity", "value").iter_rows())
            limits.append(PresetLimit(preset, quantity, Estimate.from_row(row), levels))
        return limits

    @cached_property
    def first_seed_codes(self) -> pl.DataFrame:
        """Test rows of the codes of the compared layer, first seed."""
        codes = self.where(representation=CODES, split="test").rows
        first = pl.col("seed").eq_missing(pl.lit(codes["seed"].min()))
        return codes.filter((pl.col("layer") == self.layer) & first)
