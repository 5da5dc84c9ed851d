"""What must be known of the training rows before the first step: mean, spread, and that all are finite."""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from otoscope.errors import TrainingError
from otoscope.sae.data import Rows, chunks, describe, remedy
from otoscope.sae.resources import one_thread

Scaling: TypeAlias = Literal["none", "rows", "dimensions"]
Wanted: TypeAlias = Literal["none", "rows", "dimensions", "auto"]

OUTLIER_SHARE = 0.5
"""A single dimension with more of the variance than this is an outlier: latents spend themselves on it and die."""

COVARIED_ROWS = 1 << 15
"""The covariance is that of so many rows at most, evenly spread over all."""

CONSTANT = 1e-6
"""A dimension that varies by less than this share of the root mean square spread counts as constant."""


class Axes(NamedTuple):
    """Principal axes, an orthonormal row each, and the variance along each, largest first."""

    directions: Float[Tensor, "axes width"]
    variances: Float[Tensor, " axes"]

    def holding(self, share: float) -> int:
        """Return how many axes hold so large a share of the variance."""
        held = self.variances.clamp_min(0).cumsum(0)
        return int((held < share * held[-1]).sum()) + 1


@dataclass(frozen=True)
class Moments:
    """Mean and variance of each dimension over all training rows, and how dimensions covary, in float64."""

    height: int
    mean: Float[np.ndarray, " width"]
    variance: Float[np.ndarray, " width"]
    covariance: Float[np.ndarray, "width width"]
    _axes: dict[tuple[Scaling, bool], Axes] = field(default_factory=dict[tuple[Scaling, bool], Axes], repr=False)

    @property
    def spread(self) -> float:
        """Root mean square deviation from the mean, over rows and dimensions."""
        return float(np.sqrt(self.variance.mean()))

    @property
    def varying(self) -> Bool[np.ndarray, " width"]:
        """Which dimensions vary."""
        return np.sqrt(self.variance) >= CONSTANT * self.spread

    @property
    def constant(self) -> int:
        """Number of dimensions that do not vary."""
        return int((~self.varying).sum())

    @property
    def largest_share(self) -> float:
        """Share of all variance that the most varying dimension carries (outlier dimensions kill latents)."""
        return float(self.variance.max() / self.variance.sum())

    def settle(self, wanted: Wanted) -> Scaling:
        """Return the scaling that "auto" comes to: by dimension where one is an outlier, else by one number."""
        if wanted != "auto":
            return wanted
        return "dimensions" if self.largest_share > OUTLIER_SHARE else "rows"

    def warnings(self, wanted: Wanted) -> list[str]:
        """Return what a reader of the results should know about these rows, under the scaling they will have."""
        found: list[str] = []
        if self.largest_share > OUTLIER_SHARE and wanted != "dimensions":
            outlier = (
                f"dimension {int(self.variance.argmax())} carries {100 * self.largest_share:.0f} % of the variance"
            )
            found.append(
                f"{outlier}: each dimension is divided by its own spread"
                if wanted == "auto"
                else f"{outlier}: latents that serve it leave the others unexplained; "
                'train with scaling: "dimensions" or "auto"'
            )
        if self.constant:
            found.append(f"{self.constant} of {len(self.mean)} dimensions do not vary; they are centred and no more")
        return found

    def scaling(self, wanted: Wanted, *, centred: bool) -> tuple[Tensor, Tensor]:
        """Return centre `[width]` and scale (`[]`, or `[width]` for "dimensions") for the model.

        A constant dimension is divided by the common spread, never by its own.
        """
        kind = self.settle(wanted)
        centre = self.mean if centred else np.zeros_like(self.mean)
        deviation = np.sqrt(self.variance + (self.mean - centre) ** 2)
        common = np.sqrt(np.mean(deviation**2))
        if kind == "dimensions":
            scale = np.where(deviation < CONSTANT * common, common, deviation)
        else:
            scale = np.asarray(common if kind == "rows" else 1.0)
        return torch.from_numpy(centre).float(), torch.from_numpy(scale).float()

    def axes(self, wanted: Wanted, *, centred: bool) -> Axes:
        """Return the principal axes of the rows as the model will see them."""
        key = self.settle(wanted), centred
        if key not in self._axes:
            centre, scale = (part.double() for part in self.scaling(wanted, centred=centred))
            away = torch.from_numpy(self.mean) - centre
            inner = (torch.from_numpy(self.covariance) + torch.outer(away, away)) / torch.outer(
                scale.expand(len(away)), scale.expand(len(away))
            )
            with one_thread():  # the bytes of a decomposition depend on the number of threads
                found = torch.linalg.eigh(inner)
            self._axes[key] = Axes(found.eigenvectors.flip(1).T.float().contiguous(), found.eigenvalues.flip(0))
        return self._axes[key]


def measure(rows: Rows, *, name: str = "training") -> Moments:
    """Read all rows once; raise `TrainingError` for NaN or Inf (naming the row), or rows that never vary."""
    if rows.height < 2:
        raise TrainingError(f"{rows.height} {name} row(s): a dictionary needs at least 2, better thousands")
    count, mean, squares = 0, np.zeros(rows.width), np.zeros(rows.width)
    spread = _Covariance(every=-(-rows.height // COVARIED_ROWS))
    for start, chunk in chunks(rows):
        require_finite(rows, chunk, start, name)
        values = chunk.astype(np.float64)
        size, chunk_mean = len(values), values.mean(axis=0)
        # pooled update (Chan, Golub and LeVeque 1979): sums of raw squares lose small spreads beside large means
        gap = chunk_mean - mean
        squares += ((values - chunk_mean) ** 2).sum(axis=0) + gap**2 * (count * size / (count + size))
        mean += gap * (size / (count + size))
        count += size
        spread.add(chunk[-start % spread.every :: spread.every])
    if not squares.any():
        first = describe(rows, 0, name=name)
        raise TrainingError(f"all {count} {name} rows equal {first}: there is nothing to learn from them")
    return Moments(count, mean, squares / count, spread.result())


class _Covariance:
    """Adds up how dimensions covary, about the mean of the first rows: nearly centred sums lose little."""

    def __init__(self, *, every: int) -> None:
        self.every, self.count = every, 0
        self.near: Tensor | None = None

    def add(self, chunk: Float[np.ndarray, "rows width"]) -> None:
        if not len(chunk):
            return
        rows = torch.from_numpy(chunk).double()
        if self.near is None:
            self.near = rows.mean(dim=0)
            self.sum, self.products = torch.zeros_like(self.near), torch.zeros(rows.shape[1], rows.shape[1]).double()
        away = rows - self.near
        with one_thread():
            self.products += away.T @ away
        self.sum += away.sum(dim=0)
        self.count += len(rows)

    def result(self) -> Float[np.ndarray, "width width"]:
        offset = self.sum / self.count
        return (self.products / self.count - torch.outer(offset, offset)).numpy()


def require_all_finite(rows: Rows, *, name: str) -> None:
    """Read all rows once; raise `TrainingError` naming the first that holds NaN or Inf."""
    for start, chunk in chunks(rows):
        require_finite(rows, chunk, start, name)


def require_finite(rows: Rows, chunk: Float[np.ndarray, "rows width"], start: int, name: str) -> None:
    """Raise `TrainingError` naming the first row, and its clip where that is known, that holds NaN or Inf."""
    bad = ~np.isfinite(chunk).all(axis=1)
    if bad.any():
        first = start + int(bad.argmax())
        raise TrainingError(
            f"{describe(rows, first, name=name)} holds NaN or Inf ({int(bad.sum())} such row(s) "
            f"among the rows from {start} to {start + len(chunk) - 1}); {remedy(rows, first)}"
        )
