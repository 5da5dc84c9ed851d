"""What stands beside the first target of claim 1: every other target, and the best of what codes must beat."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from otoscope.protocols.strict.names import CODES, DENSE, KNOWS_NOTHING
from otoscope.report.intervals import Number, apart, difference, number_of
from otoscope.report.strict_rows import WORDS

MARGIN = 0.02
"""Loss that still counts as none, as in the strict protocol's limits: 2 points of accuracy or of R²."""


@dataclass(frozen=True)
class Baseline:
    """The best of what codes must beat, where it beats them; `clear` says that the intervals lie apart."""

    name: str
    number: Number
    sparsity: float | None
    clear: bool


@dataclass(frozen=True)
class Beside:
    """How many other targets were asked, the losses beyond the margin among them, and a baseline that beats codes."""

    asked: int
    lost: Mapping[str, Number]
    better: Baseline | None


def beside_codes(tasks: pl.DataFrame, codes: Mapping[str, Any]) -> Beside:
    """Look beside one row of codes: `tasks` holds the test rows of every target and representation.

    A target that the layer does not tell better than its null is not asked: nothing can be lost of it.
    """
    of_layer = tasks.filter(pl.col("layer") == codes["layer"])
    same = (pl.col("target") == codes["target"]) & (pl.col("metric") == codes["metric"])
    asked, lost = 0, dict[str, Number]()
    for target, metric in of_layer.filter(~same).select("target", "metric").unique(maintain_order=True).rows():
        rows = of_layer.filter((pl.col("target") == target) & (pl.col("metric") == metric))
        dense = rows.filter(pl.col("representation") == DENSE)
        found = rows.filter((pl.col("representation") == CODES) & (pl.col("sae_id") == codes["sae_id"]))
        if dense.is_empty() or found.is_empty():
            continue
        base = number_of(dense.row(0, named=True))
        if base.value <= base.null_high:
            continue
        asked += 1
        change = difference(number_of(found.row(0, named=True)), base)
        if change.value < -MARGIN:
            lost[f"{target} (R²)" if metric == "task_r2" else target] = change
    return Beside(asked, lost, _better(of_layer.filter(same), number_of(codes)))


def _better(rows: pl.DataFrame, codes: Number) -> Baseline | None:
    others = rows.filter(~pl.col("representation").is_in([DENSE, CODES, *KNOWS_NOTHING]))
    if others.is_empty():
        return None
    best = others.sort("value", descending=True, maintain_order=True).row(0, named=True)
    number = number_of(best)
    if number.value <= codes.value:
        return None
    name = WORDS.get(str(best["representation"]), str(best["representation"]))
    return Baseline(name, number, best["sparsity"], apart(codes, number))
