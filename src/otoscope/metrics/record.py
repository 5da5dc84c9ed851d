"""Rows of the results table: one number with its interval, null and origin."""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol, runtime_checkable

import polars as pl

from otoscope.metrics.registry import METRICS, find_metric
from otoscope.resampling.intervals import Score, fold_overlap, widen

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
    "dimensions": pl.Int64(),
    "seed": pl.Int64(),
    "metric": pl.String(),
    "target": pl.String(),
    "split": pl.String(),
    "reader": pl.String(),
    "value": pl.Float64(),
    "low": pl.Float64(),
    "high": pl.Float64(),
    "null_mean": pl.Float64(),
    "null_high": pl.Float64(),
    "p_value": pl.Float64(),
    "n": pl.Int64(),
    "groups": pl.Int64(),
    "unit": pl.String(),
    "higher_is_better": pl.Boolean(),
}


@runtime_checkable
class Bounded(Protocol):
    """A value with its interval; `Score` has a null too."""

    @property
    def value(self) -> float:
        """The value."""
        ...

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        ...

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        ...


@dataclass(frozen=True, kw_only=True)
class Record:
    """One row of the results table; NaN and None mean "not applicable"."""

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
    """Training preset of the SAE."""
    pooling: str = ""
    latents: int | None = None
    k: int | None = None
    sparsity: float | None = None
    dimensions: int | None = None
    """Number of dimensions that a regression or probe used, of metrics that begin with `sparse_`."""
    seed: int | None = None
    reader: str = ""
    """Linear reader of a task, or dimensions that a probe reads, chosen on groups left out; empty for other metrics."""
    low: float = math.nan
    high: float = math.nan
    null_mean: float = math.nan
    null_high: float = math.nan
    p_value: float = math.nan
    n: int = 0
    groups: int = 0

    def __post_init__(self) -> None:
        find_metric(self.metric)

    def with_score(self, metric: str, score: Bounded, **changes: Any) -> "Record":
        """Return a copy that holds a value of a metric, its interval and, if `score` has one, its null.

        >>> about = Record(metric="l0", value=0.0, split="test", representation="dense", layer=3)
        >>> about.with_score("mig", Score(0.5, 0.4, 0.6, 0.1, 0.2), n=40).null_high
        0.2
        """
        numbers = {name: float(getattr(score, name)) for name in Score._fields if hasattr(score, name)}
        return replace(self, metric=metric, **numbers, **changes)

    def widened(self, folds: int) -> "Record":
        """Return a copy whose interval allows for the folds of a cross-fit (`fold_overlap`), the same for one split."""
        factor, bounds = fold_overlap(folds), METRICS[self.metric].bounds
        low, high = widen(self.value, self.low, self.high, factor=factor, bounds=bounds)
        return replace(self, low=float(low), high=float(high))

    def row(self) -> dict[str, Any]:
        """Return the record as a row with the columns of `SCHEMA`."""
        metric = METRICS[self.metric]
        return {**asdict(self), "unit": metric.unit, "higher_is_better": metric.higher_is_better}


def to_table(records: Iterable[Record]) -> pl.DataFrame:
    """Return records as one table with the columns of `SCHEMA`, in the given order."""
    return pl.DataFrame([record.row() for record in records], schema=SCHEMA)
