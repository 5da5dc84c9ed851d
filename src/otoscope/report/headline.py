"""Which of all numbers the page's first screen is about."""

from typing import Any

import polars as pl

from otoscope.report.results import Results

HEADLINE_SPARSITIES = (0.9, 0.95)

Row = dict[str, Any]


def headline_sparsities(results: Results) -> list[float]:
    """Return 90 % and 95 % where there are such dictionaries, else the reference sparsity."""
    found = [s for s in results.sparsities if any(abs(s - wanted) < 1e-9 for wanted in HEADLINE_SPARSITIES)]
    return found or ([results.reference_sparsity] if results.reference_sparsity is not None else [])


def codes_of(results: Results, label: str, at: float | None) -> Row | None:
    """Return a label's row from codes of a sparsity, at the codes' layer."""
    return at_codes_layer(results.of("probe_accuracy", "sae", target=label, sparsity=at), results)


def at_codes_layer(rows: pl.DataFrame, results: Results) -> Row | None:
    """Return the row of the codes' layer, or of the layer nearest to it."""
    layer = results.codes_layer.layer or 0
    near = rows.filter(pl.col("value").is_not_nan()).sort((pl.col("layer") - layer).abs(), "layer")
    return near.row(0, named=True) if near.height else None


def median_of(rows: pl.DataFrame, column: str) -> float | None:
    """Return the median of a column's known values."""
    median = rows[column].fill_nan(None).median()
    return median if isinstance(median, float) else None
