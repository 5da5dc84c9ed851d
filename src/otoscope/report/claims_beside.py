"""What stands beside the first target of claim 1: every other target, and the best of what codes must beat."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from otoscope.config.strict import CODES, DENSE
from otoscope.protocols.comparing import Number, alike, difference, mean_of, number_of
from otoscope.report.baselines import Baseline, best_baseline

MARGIN = 0.02
"""Loss that still counts as none, as in the strict protocol's limits: 2 points of accuracy or of R²."""


@dataclass(frozen=True)
class Beside:
    """How many other targets were asked, the losses beyond the margin among them, and the best baseline."""

    asked: int
    lost: Mapping[str, Number]
    best: Baseline | None


def beside_codes(tasks: pl.DataFrame, codes: Mapping[str, Any]) -> Beside:
    """Look beside codes, given by one of their rows: `tasks` holds the test rows of every target and representation.

    A target that the layer does not tell better than its null is not asked: nothing can be lost of it.
    """
    of_layer = tasks.filter(pl.col("layer") == codes["layer"])
    same = (pl.col("target") == codes["target"]) & (pl.col("metric") == codes["metric"])
    asked, lost = 0, dict[str, Number]()
    for target, metric in of_layer.filter(~same).select("target", "metric").unique(maintain_order=True).rows():
        rows = of_layer.filter((pl.col("target") == target) & (pl.col("metric") == metric))
        dense = rows.filter(pl.col("representation") == DENSE)
        found = alike(rows.filter(pl.col("representation") == CODES), codes["sae_id"])
        if dense.is_empty() or found.is_empty():
            continue
        base = number_of(dense.row(0, named=True))
        if base.value <= base.null_high:
            continue
        asked += 1
        change = difference(number_of(mean_of(found)), base)
        if change.value < -MARGIN:
            lost[f"{target} (R²)" if metric == "task_r2" else target] = change
    return Beside(asked, lost, best_baseline(of_layer.filter(same)))
