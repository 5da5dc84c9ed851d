"""What must be known of the training rows before the first step: mean, spread, and that all are finite."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from otoscope.errors import TrainingError
from otoscope.sae.capabilities import describe
from otoscope.sae.rows import Rows, chunks

Scaling: TypeAlias = Literal["none", "rows", "dimensions"]

OUTLIER_SHARE = 0.5
"""A single dimension with more of the variance than this is an outlier: latents spend themselves on it and die."""

CONSTANT = 1e-6
"""A dimension that varies by less than this share of the root mean square spread counts as constant."""


@dataclass(frozen=True)
class Moments:
    """Mean and variance of each dimension over all training rows, in float64."""

    height: int
    mean: Float[np.ndarray, " width"]
    variance: Float[np.ndarray, " width"]

    @property
    def spread(self) -> float:
        """Root mean square deviation from the mean, over rows and dimensions."""
        return float(np.sqrt(self.variance.mean()))

    @property
    def constant(self) -> int:
        """Number of dimensions that do not vary."""
        return int((np.sqrt(self.variance) < CONSTANT * self.spread).sum())

    @property
    def largest_share(self) -> float:
        """Share of all variance that the most varying dimension carries (outlier dimensions kill latents)."""
        return float(self.variance.max() / self.variance.sum())

    def warnings(self, kind: Scaling) -> list[str]:
        """Return what a reader of the results should know about these rows, under the scaling they will have."""
        found: list[str] = []
        if self.largest_share > OUTLIER_SHARE and kind != "dimensions":
            found.append(
                f"dimension {int(self.variance.argmax())} carries {100 * self.largest_share:.0f} % of the variance: "
                'latents that serve it leave the others unexplained; train with scaling: "dimensions"'
            )
        if self.constant:
            found.append(f"{self.constant} of {len(self.mean)} dimensions do not vary; they are centred and no more")
        return found

    def scaling(self, kind: Scaling, *, centred: bool) -> tuple[Tensor, Tensor]:
        """Return centre `[width]` and scale (`[]`, or `[width]` for "dimensions") for the model.

        A constant dimension is divided by the common spread, never by its own.
        """
        centre = self.mean if centred else np.zeros_like(self.mean)
        deviation = np.sqrt(self.variance + (self.mean - centre) ** 2)
        common = np.sqrt(np.mean(deviation**2))
        if kind == "dimensions":
            scale = np.where(deviation < CONSTANT * common, common, deviation)
        else:
            scale = np.asarray(common if kind == "rows" else 1.0)
        return torch.from_numpy(centre).float(), torch.from_numpy(scale).float()


def measure(rows: Rows, *, name: str = "training") -> Moments:
    """Read all rows once; raise `TrainingError` for NaN or Inf (naming the row), or rows that never vary."""
    if rows.height < 2:
        raise TrainingError(f"{rows.height} {name} row(s): a dictionary needs at least 2, better thousands")
    count, mean, squares = 0, np.zeros(rows.width), np.zeros(rows.width)
    for start, chunk in chunks(rows):
        require_finite(rows, chunk, start, name)
        values = chunk.astype(np.float64)
        size, chunk_mean = len(values), values.mean(axis=0)
        # pooled update (Chan, Golub and LeVeque 1979): sums of raw squares lose small spreads beside large means
        gap = chunk_mean - mean
        squares += ((values - chunk_mean) ** 2).sum(axis=0) + gap**2 * (count * size / (count + size))
        mean += gap * (size / (count + size))
        count += size
    if not squares.any():
        raise TrainingError(f"all {count} {name} rows are equal: there is nothing to learn from them")
    return Moments(count, mean, squares / count)


def require_finite(rows: Rows, chunk: Float[np.ndarray, "rows width"], start: int, name: str) -> None:
    """Raise `TrainingError` naming the first row, and its clip where that is known, that holds NaN or Inf."""
    bad = ~np.isfinite(chunk).all(axis=1)
    if bad.any():
        raise TrainingError(
            f"{describe(rows, start + int(bad.argmax()), name=name)} holds NaN or Inf ({int(bad.sum())} such row(s) "
            f"among the rows from {start} to {start + len(chunk) - 1}); set its clip aside and extract again"
        )
