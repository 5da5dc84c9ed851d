"""One result is one row: the long table that reports and explorers read."""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from otoscope.errors import EvaluationError

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

METRICS: dict[str, tuple[str, bool | None]] = {
    "explained_variance": ("fraction", True),
    "mse": ("squared activation", False),
    "cosine": ("cosine", True),
    "l0": ("latents", None),
    "dead_fraction": ("fraction", False),
    "always_on_fraction": ("fraction", False),
    "probe_accuracy": ("fraction", True),
    "probe_balanced_accuracy": ("fraction", True),
    "probe_macro_f1": ("fraction", True),
    "factor_r2": ("fraction", True),
    "completeness": ("fraction", True),
    "effective_latents": ("dimensions", False),
    "disentanglement": ("fraction", True),
    "factor_r2_in_sample": ("fraction", True),
    "top_r2_in_sample": ("fraction", True),
    "top_completeness": ("fraction", True),
    "category_count": ("factors", None),
    "factor_entropy": ("bits", None),
    "completeness_against_entropy": ("correlation", None),
    "mig": ("fraction", True),
    "sap": ("fraction", True),
    "modularity": ("fraction", True),
    "infom": ("fraction", True),
    "infoc": ("fraction", True),
    "infoe": ("fraction", True),
    "explicitness": ("fraction", True),
    "relative_size": ("fraction", True),
    "predicted_share": ("fraction", True),
    "effective_rank": ("dimensions", None),
    "sparse_r2": ("fraction", True),
    "sparse_probe_balanced_accuracy": ("fraction", True),
    "sparse_detection_balanced_accuracy": ("fraction", True),
    "mean_max_cosine": ("cosine", True),
    "matched_correlation": ("correlation", True),
    "reappearing_share": ("fraction", True),
    "category_r2": ("fraction", True),
    "centre_layer": ("layers", None),
    "earliest_layer": ("layers", None),
    "layer_lead": ("layers", None),
    "layer_lead_of_blocks": ("layers", None),
    "sparsity_limit": ("fraction", True),
    "sparsity_knee": ("fraction", True),
    "task_balanced_accuracy": ("fraction", True),
    "task_r2": ("fraction", True),
    "mean_factor_r2": ("fraction", True),
}
"""Fixed metric identifiers, each with its unit and whether higher is better (None: neither)."""


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
        if self.metric not in METRICS:
            raise EvaluationError(f"unknown metric {self.metric!r}; known: {', '.join(METRICS)}")

    def row(self) -> dict[str, Any]:
        """Return the record as a row of `SCHEMA`."""
        unit, higher = METRICS[self.metric]
        return {**asdict(self), "unit": unit, "higher_is_better": higher}


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
