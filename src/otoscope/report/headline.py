"""Which of all numbers the page's first screen is about.

Which factors were measured on the test clips: what has no value there counts neither as predicted nor as missed.
"""

from typing import Any

import polars as pl

from otoscope.formatting import count
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


def with_test_values(rows: pl.DataFrame, results: Results) -> pl.DataFrame:
    """Keep the rows of factors that have a held-out R² from some representation."""
    return rows.filter(~pl.col("target").is_in(unmeasured_factors(results)))


def unmeasured_factors(results: Results) -> list[str]:
    """Return the factors without a held-out R² from any representation: unknown or constant on the test clips."""
    rows = results.shown.filter(pl.col("metric") == "factor_r2")
    known = rows.filter(pl.col("value").fill_nan(None).is_not_null())["target"]
    return [name for name in results.factors if name not in set(known)]


def unmeasured_note(results: Results) -> str | None:
    """Say how many factors no count is about; None where all were measured.

    The sentence ends without a full stop.
    """
    missing = len(unmeasured_factors(results))
    if not missing:
        return None
    verb, counts = ("has", "is") if missing == 1 else ("have", "are")
    return f"{count(missing, 'further factor')} {verb} no value on the test clips and {counts} not counted"
