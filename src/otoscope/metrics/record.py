"""One result is one row: the long table that reports and explorers read."""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from otoscope.metrics.registry import METRICS, find_metric

SCHEMA: dict[str, pl.DataType] = {
    "protocol": pl.String(),
    "encoder": pl.String(),
    "layer": pl.Int64(),
    "representation": pl.String(),
    "sae_id": pl.String(),
    "preset": pl.String(),
    "pooling": pl.String(),
    "latents": pl.Int64(),
    "k": pl.Int64(),
    "sparsity": pl.Float64(),
    "seed": pl.Int64(),
    "metric": pl.String(),
    "target": pl.String(),
    "split": pl.String(),
    "value": pl.Float64(),
    "low": pl.Float64(),
    "high": pl.Float64(),
    "null_mean": pl.Float64(),
    "null_high": pl.Float64(),
    "n": pl.Int64(),
    "groups": pl.Int64(),
    "unit": pl.String(),
    "higher_is_better": pl.Boolean(),
}


@dataclass(frozen=True, kw_only=True)
class Record:
    """One number with everything needed to read it; NaN and None mean "does not apply"."""

    metric: str
    value: float
    split: str
    representation: str
    layer: int
    target: str = ""
    protocol: str = "default"
    encoder: str = ""
    sae_id: str = ""
    preset: str | None = None
    """The recipe of the dictionary."""
    pooling: str = ""
    latents: int | None = None
    k: int | None = None
    sparsity: float | None = None
    seed: int | None = None
    low: float = math.nan
    high: float = math.nan
    null_mean: float = math.nan
    null_high: float = math.nan
    n: int = 0
    groups: int = 0

    def __post_init__(self) -> None:
        find_metric(self.metric)

    def row(self) -> dict[str, Any]:
        """Return the record as a row of `SCHEMA`."""
        metric = METRICS[self.metric]
        return {**asdict(self), "unit": metric.unit, "higher_is_better": metric.higher_is_better}


def to_table(records: Iterable[Record]) -> pl.DataFrame:
    """Return records as one table with the columns of `SCHEMA`, in the order given."""
    return pl.DataFrame([record.row() for record in records], schema=SCHEMA)


def completed(table: pl.DataFrame) -> pl.DataFrame:
    """Return a table of records with the column `preset`, which older tables hold inside `sae_id` only."""
    if "preset" in table.columns or "sae_id" not in table.columns:
        return table
    named = pl.col("sae_id").str.extract(r"^(?:untrained-)?layer\d+-(?:frames|pooled)-(.+)-m\d+-k\d+-seed\d+$")
    wider = table.with_columns(named.alias("preset"))
    return wider.select([name for name in SCHEMA if name in wider.columns])
