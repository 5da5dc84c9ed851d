"""Which factors were measured on the test clips: what has no value there counts neither as predicted nor as missed."""

import polars as pl

from otoscope.report import words
from otoscope.report.results import Results


def measured(rows: pl.DataFrame, results: Results) -> pl.DataFrame:
    """Keep the rows of factors that have a held-out R² from some representation."""
    return rows.filter(~pl.col("target").is_in(without_value(results)))


def without_value(results: Results) -> list[str]:
    """Return the factors without a held-out R² from any representation: unknown or constant on the test clips."""
    rows = results.shown.filter(pl.col("metric") == "factor_r2")
    known = rows.filter(pl.col("value").fill_nan(None).is_not_null())["target"]
    return [name for name in results.factors if name not in set(known)]


def left_out(results: Results) -> str | None:
    """Say how many factors no count is about; None where all were measured.

    The sentence ends without a full stop.
    """
    missing = len(without_value(results))
    if not missing:
        return None
    verb, counts = ("has", "is") if missing == 1 else ("have", "are")
    return f"{words.count(missing, 'further factor')} {verb} no value on the test clips and {counts} not counted"
