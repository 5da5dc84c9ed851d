"""What codes must beat: how the pages name it, and which of it does best."""

import math
from dataclasses import dataclass, replace

import polars as pl

from otoscope.formatting import comma_list
from otoscope.metrics.representation import CODES, DENSE, REPRESENTATIONS, UNINFORMATIVE, representation_label
from otoscope.protocols.comparing import Number, number_of

TIE = 1e-9
"""Values nearer to one another than this are the same: the same clips were named rightly."""


@dataclass(frozen=True)
class Baseline:
    """The best of what codes must beat: every name that reaches as much, its number, and the sparsity it was set to."""

    names: tuple[str, ...]
    number: Number
    sparsity: float | None = None

    @property
    def told(self) -> str:
        """The names as in a sentence."""
        return comma_list(self.names)


def place() -> pl.Expr:
    """Return each row's place in the order in which the page shows representations; unknown ones come last."""
    order = {name: at for at, name in enumerate(REPRESENTATIONS)}
    return pl.col("representation").replace_strict(order, default=len(order), return_dtype=pl.Int64)


def best_baseline(rows: pl.DataFrame) -> Baseline | None:
    """Return the best of what codes must beat, ties together; None where the rows hold no baseline with a value."""
    others = rows.filter(~pl.col("representation").is_in([DENSE, CODES, *UNINFORMATIVE]) & pl.col("value").is_not_nan())
    if others.is_empty():
        return None
    ranked = others.sort("value", place(), descending=[True, False], maintain_order=True)
    best = ranked.row(0, named=True)
    tied = ranked.filter((pl.col("value") - best["value"]).abs() < TIE)["representation"].unique(maintain_order=True)
    named = tuple(representation_label(str(name)) for name in tied)
    if len(named) > 1:  # their intervals differ, so none stands for all
        return Baseline(named, replace(number_of(best), low=math.nan, high=math.nan))
    return Baseline(named, number_of(best), best["sparsity"])
