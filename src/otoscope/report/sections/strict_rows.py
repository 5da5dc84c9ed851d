"""Which rows of a results table the strict protocol's part of the page is about."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import polars as pl

from otoscope.metrics.representation import CODES, REPRESENTATIONS
from otoscope.protocols.comparing import alike, mean_of
from otoscope.protocols.strict import NAME
from otoscope.report import tables
from otoscope.report.baselines import Baseline, best_baseline, place

LABELS = {r.name: r.label for r in REPRESENTATIONS.values()}

COMPARED = ("reappearing_share", "mig", "sparse_r2", "sparse_probe_balanced_accuracy", "explained_variance")
"""Metrics of codes that the dictionary compared in full alone has; all have the last, for want of any other."""


@dataclass(frozen=True)
class StrictRows:
    """The rows of the protocol, and what was compared."""

    rows: pl.DataFrame

    @property
    def present(self) -> bool:
        """Whether the protocol was asked for."""
        return not self.rows.is_empty()

    @cached_property
    def main(self) -> dict[str, Any] | None:
        """A row of the dictionary compared, that of the first seed: only it has structure, seeds or codes at all."""
        codes = self.rows.filter(pl.col("representation") == CODES)
        for metric in COMPARED:
            found = codes.filter(pl.col("metric") == metric).sort("seed", maintain_order=True)
            if found.height:
                return found.row(0, named=True)
        return None

    @property
    def layer(self) -> int:
        """The layer compared."""
        return int(self.main["layer"]) if self.main else 0

    @cached_property
    def seeds(self) -> list[str]:
        """The dictionaries trained alike but for their seed, the first one first."""
        main = self.main
        if main is None:
            return []
        same = [pl.col(name).eq_missing(pl.lit(main[name])) for name in ("layer", "pooling", "latents")]
        near = (pl.col("sparsity") - main["sparsity"]).abs() < 1e-9
        rows = self.rows.filter((pl.col("representation") == CODES) & near & pl.all_horizontal(same))
        return alike(rows, main["sae_id"])["sae_id"].unique(maintain_order=True).to_list()

    def beside(
        self, metric: str, target: str = "", *, split: str = "test", dimensions: int | None = None
    ) -> pl.DataFrame:
        """Return one row a representation (for codes one a seed), in page order, with `series` its name."""
        rows = self.rows.filter(
            (pl.col("metric") == metric) & (pl.col("target") == target) & (pl.col("split") == split)
        )
        if dimensions is not None:
            rows = rows.filter(pl.col("dimensions") == dimensions)
        compared = (pl.col("representation") != CODES) | pl.col("sae_id").is_in(self.seeds)
        rows = rows.filter(compared & (pl.col("layer") == self.layer))
        series = pl.col("representation").replace_strict(LABELS, default=pl.col("representation"))
        return rows.with_columns(series.alias("series"), place().alias("place")).sort(
            "place", "seed", maintain_order=True
        )

    def one(self, metric: str, representation: str, target: str = "") -> dict[str, Any] | None:
        """Return the row of a representation (of codes the mean over seeds), or None."""
        rows = self.beside(metric, target).filter(pl.col("representation") == representation)
        if rows.is_empty():
            return None
        return mean_of(rows) if representation == CODES else rows.row(0, named=True)

    def over_seeds(self, metric: str, target: str = "") -> list[float]:
        """Return what the codes of every seed reach."""
        rows = self.beside(metric, target).filter((pl.col("representation") == CODES) & pl.col("value").is_not_nan())
        return rows["value"].to_list()

    def best(self, metric: str, target: str = "") -> Baseline | None:
        """Return the best of what codes must beat."""
        return best_baseline(self.beside(metric, target))

    @cached_property
    def tasks(self) -> list[tuple[str, str]]:
        """Metric and target of every task, those that name one label first, then several, then values."""
        found = self.rows.filter(pl.col("metric").is_in(["task_balanced_accuracy", "task_r2"]))
        pairs = found.select("metric", "target").unique(maintain_order=True).rows()
        return sorted(pairs, key=lambda pair: (pair[0] == "task_r2", " + " in pair[1]))

    @cached_property
    def labels(self) -> list[str]:
        """Labels that were read from few dimensions."""
        return self.targets("sparse_probe_balanced_accuracy")

    @property
    def sizes(self) -> list[int]:
        """Numbers of dimensions of the curves."""
        return self.rows["dimensions"].drop_nulls().unique().sort().to_list()

    def targets(self, metric: str) -> list[str]:
        """Return the targets of a metric, in the order of the table."""
        return self.rows.filter(pl.col("metric") == metric)["target"].unique(maintain_order=True).to_list()

    def of(self, metrics: str | Sequence[str]) -> pl.DataFrame:
        """Return the rows of some metrics on test groups."""
        wanted = [metrics] if isinstance(metrics, str) else list(metrics)
        return self.rows.filter(pl.col("metric").is_in(wanted) & (pl.col("split") == "test"))


def strict_rows(rows: pl.DataFrame) -> StrictRows:
    """Return the strict protocol's view of a results table."""
    return StrictRows(rows.filter(pl.col("protocol") == NAME))


def listed(rows: pl.DataFrame) -> pl.DataFrame:
    """Return rows as a figure's table shows them."""
    return tables.result_rows(rows.drop([c for c in ("series", "place") if c in rows.columns]))
