"""Rank of a clip's factor value among all clips."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from otoscope.artifacts import read_table
from otoscope.formatting import percent
from otoscope.report.run_data import RunData


@dataclass(frozen=True)
class FactorRanks:
    """Known values of each factor over the clips of a corpus."""

    values: dict[str, Float[np.ndarray, " clips"]]

    def span(self, factor: str) -> str | None:
        """Return minimum, median and maximum as a phrase; None for a factor without values."""
        known = self.values.get(factor)
        if known is None:
            return None
        low, middle, high = (short(float(v)) for v in np.quantile(known, [0.0, 0.5, 1.0]))
        return f"over all clips the factor ranges from {low} to {high}, median {middle}"

    def rank(self, factor: str, value: float) -> str | None:
        r"""Return the share of clips with a lower value, or with a higher value if that share is larger.

        >>> Places({"f0": np.array([100.0, 200.0, 300.0, 400.0])}).rank("f0", 390.0)
        'higher than in 75\xa0% of all clips'
        """
        known = self.values.get(factor)
        if known is None:
            return None
        below, above = float((known < value).mean()), float((known > value).mean())
        share, way = (below, "higher") if below >= above else (above, "lower")
        return f"{way} than in {percent(share, 0)} of all clips"


def factor_ranks(run: RunData) -> FactorRanks:
    """Load the factor values of a run's clips; empty if the run folder has none."""
    path = run.folder / "factors.parquet"
    if not path.is_file():
        return FactorRanks({})
    table = read_table(path).drop("clip_id")
    known = {name: column[np.isfinite(column)] for name in table.columns for column in [table[name].to_numpy()]}
    return FactorRanks({name: values for name, values in known.items() if values.size})


def short(value: float) -> str:
    """Return a value with four digits and a true minus sign.

    >>> short(-12.3456)
    '−12.35'
    """
    return f"{value:.4g}".replace("-", "−")
