"""Audit of the metrics: how far each follows the truth on synthetic dictionaries, and its smallest difference.

The table is measured by `benchmarks/audit.py` (`make audit`) and stored beside this module.
"""

import json
import math
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

AUDIT_FILE = Path(__file__).with_name("audit.json")


class Audited(NamedTuple):
    """One metric: `seeds` and `difference` in its unit, the others rank correlations, positive where better is more.

    `protocol` names where the value comes from, with the number of dimensions of `sparse_` metrics. `seeds` is the
    standard deviation over seeds, `checkpoints` the correlation with the training step, `truth` the correlation with
    the share of recovered true features over `dictionaries`, `difference` the smallest difference of two dictionaries
    that the variation over seeds does not explain. NaN where undefined.
    """

    metric: str
    protocol: str
    seeds: float
    checkpoints: float
    truth: float
    difference: float
    dictionaries: int

    def to_json(self) -> dict[str, Any]:
        """Return the row with None instead of NaN, and four digits."""
        numbers = {name: x for name, x in self._asdict().items() if isinstance(x, float)}
        return self._asdict() | {name: None if math.isnan(x) else float(f"{x:.4g}") for name, x in numbers.items()}


@cache
def audited_metrics() -> tuple[Audited, ...]:
    """Return the stored table, the metrics that follow the truth first."""
    rows: list[dict[str, Any]] = json.loads(AUDIT_FILE.read_text(encoding="utf-8"))
    return tuple(Audited(**_without_none(row)) for row in rows)


def _without_none(row: dict[str, Any]) -> dict[str, Any]:
    return {name: math.nan if value is None else value for name, value in row.items()}


def order_by_truth(metrics: Iterable[str]) -> list[str]:
    """Return metrics in the order in which they follow the truth; those without an audit come last, in their order.

    >>> order_by_truth(["explained_variance", "sap", "unknown"])
    ['sap', 'explained_variance', 'unknown']
    """
    truth: dict[str, float] = {}
    for row in audited_metrics():
        truth[row.metric] = max(truth.get(row.metric, -math.inf), -math.inf if math.isnan(row.truth) else row.truth)
    return sorted(metrics, key=lambda name: -truth.get(name, -math.inf))


def smallest_difference(metric: str) -> float:
    """Return the smallest difference that seeds do not explain, the largest of all protocols; NaN without an audit."""
    found = [row.difference for row in audited_metrics() if row.metric == metric and not math.isnan(row.difference)]
    return max(found, default=math.nan)
