"""Statistics of the training rows: mean, variance, covariance, principal axes, and a check that all are finite."""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from otoscope.errors import TrainingError
from otoscope.hardware import one_thread
from otoscope.sae.data import RowSource, chunks, describe_row, row_remedy

Scaling: TypeAlias = Literal["none", "rows", "dimensions"]
ScalingName: TypeAlias = Literal["none", "rows", "dimensions", "auto"]

OUTLIER_SHARE = 0.5
"""A dimension with a larger share of the variance is an outlier: most latents serve it, and others die."""

COVARIANCE_ROWS = 1 << 15
"""Maximum number of rows for the covariance, evenly spaced over all rows."""

CONSTANT_SHARE = 1e-6
"""A dimension with a smaller standard deviation, relative to the root mean square over dimensions, is constant."""


class Axes(NamedTuple):
    """Principal axes, one orthonormal row each, and their variances in decreasing order."""

    directions: Float[Tensor, "axes width"]
    variances: Float[Tensor, " axes"]

    def n_axes_for(self, share: float) -> int:
        """Return the number of leading axes that hold this share of the variance."""
        cumulative = self.variances.clamp_min(0).cumsum(0)
        return int((cumulative < share * cumulative[-1]).sum()) + 1


@dataclass(frozen=True)
class RowStatistics:
    """Mean and variance of each dimension over all training rows, and their covariance, in float64."""

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
        """Mask of the dimensions that vary."""
        return np.sqrt(self.variance) >= CONSTANT_SHARE * self.spread

    @property
    def n_constant(self) -> int:
        """Number of constant dimensions."""
        return int((~self.varying).sum())

    @property
    def largest_variance_share(self) -> float:
        """Share of the total variance in the most varying dimension."""
        return float(self.variance.max() / self.variance.sum())

    def resolve_scaling(self, name: ScalingName) -> Scaling:
        """Return the scaling for "auto": per dimension if one is an outlier, else one number; others unchanged."""
        if name != "auto":
            return name
        return "dimensions" if self.largest_variance_share > OUTLIER_SHARE else "rows"

    def warnings(self, name: ScalingName) -> list[str]:
        """Return warnings about outlier and constant dimensions under a scaling."""
        lines: list[str] = []
        if self.largest_variance_share > OUTLIER_SHARE and name != "dimensions":
            share = f"{100 * self.largest_variance_share:.0f} % of the variance"
            outlier = f"dimension {int(self.variance.argmax())} carries {share}"
            lines.append(
                f"{outlier}: each dimension is divided by its own standard deviation"
                if name == "auto"
                else f"{outlier}: latents that serve it leave the other dimensions unexplained; "
                'train with scaling: "dimensions" or "auto"'
            )
        if self.n_constant:
            lines.append(f"{self.n_constant} of {len(self.mean)} dimensions do not vary; they are centred only")
        return lines

    def scaling(self, name: ScalingName, *, centred: bool) -> tuple[Tensor, Tensor]:
        """Return centre `[width]` and scale (`[]`, or `[width]` for "dimensions") for the model.

        A constant dimension is divided by the common root mean square instead of its own.
        """
        kind = self.resolve_scaling(name)
        centre = self.mean if centred else np.zeros_like(self.mean)
        deviation = np.sqrt(self.variance + (self.mean - centre) ** 2)
        common = np.sqrt(np.mean(deviation**2))
        if kind == "dimensions":
            scale = np.where(deviation < CONSTANT_SHARE * common, common, deviation)
        else:
            scale = np.asarray(common if kind == "rows" else 1.0)
        return torch.from_numpy(centre).float(), torch.from_numpy(scale).float()

    def axes(self, name: ScalingName, *, centred: bool) -> Axes:
        """Return the principal axes of the normalised rows."""
        key = self.resolve_scaling(name), centred
        if key not in self._axes:
            centre, scale = (part.double() for part in self.scaling(name, centred=centred))
            offset = torch.from_numpy(self.mean) - centre
            normalised = (torch.from_numpy(self.covariance) + torch.outer(offset, offset)) / torch.outer(
                scale.expand(len(offset)), scale.expand(len(offset))
            )
            with one_thread():  # the bytes of a decomposition depend on the number of threads
                values, vectors = torch.linalg.eigh(normalised)
            self._axes[key] = Axes(vectors.flip(1).T.float().contiguous(), values.flip(0))
        return self._axes[key]


def compute_statistics(rows: RowSource) -> RowStatistics:
    """Read all rows once; raise `TrainingError` for NaN or Inf (naming the row) and for rows that never vary."""
    if rows.height < 2:
        raise TrainingError(f"{rows.height} training row(s): an SAE needs at least 2, better thousands")
    count, mean, squares = 0, np.zeros(rows.width), np.zeros(rows.width)
    covariance = _Covariance(every=-(-rows.height // COVARIANCE_ROWS))
    for start, chunk in chunks(rows):
        require_finite(rows, chunk, start, "training")
        values = chunk.astype(np.float64)
        size, chunk_mean = len(values), values.mean(axis=0)
        # pooled update (Chan, Golub and LeVeque 1979): sums of raw squares lose small variances next to large means
        gap = chunk_mean - mean
        squares += ((values - chunk_mean) ** 2).sum(axis=0) + gap**2 * (count * size / (count + size))
        mean += gap * (size / (count + size))
        count += size
        covariance.add(chunk[-start % covariance.every :: covariance.every])
    if not squares.any():
        first = describe_row(rows, 0, name="training")
        raise TrainingError(f"all {count} training rows equal {first}; an SAE needs rows that differ")
    return RowStatistics(count, mean, squares / count, covariance.result())


class _Covariance:
    """Running covariance about the mean of the first rows: sums of nearly centred values lose little precision."""

    def __init__(self, *, every: int) -> None:
        self.every, self.count = every, 0
        self.origin: Tensor | None = None

    def add(self, chunk: Float[np.ndarray, "rows width"]) -> None:
        if not len(chunk):
            return
        rows = torch.from_numpy(chunk).double()
        if self.origin is None:
            self.origin = rows.mean(dim=0)
            self.sum = torch.zeros_like(self.origin)
            self.products = torch.zeros(rows.shape[1], rows.shape[1]).double()
        centred = rows - self.origin
        with one_thread():
            self.products += centred.T @ centred
        self.sum += centred.sum(dim=0)
        self.count += len(rows)

    def result(self) -> Float[np.ndarray, "width width"]:
        offset = self.sum / self.count
        return (self.products / self.count - torch.outer(offset, offset)).numpy()


def require_all_finite(rows: RowSource, *, name: str) -> None:
    """Read all rows once; raise `TrainingError` naming the first that holds NaN or Inf."""
    for start, chunk in chunks(rows):
        require_finite(rows, chunk, start, name)


def require_finite(rows: RowSource, chunk: Float[np.ndarray, "rows width"], start: int, name: str) -> None:
    """Raise `TrainingError` naming the first row that holds NaN or Inf, with its label if it has one."""
    bad = ~np.isfinite(chunk).all(axis=1)
    if bad.any():
        first = start + int(bad.argmax())
        raise TrainingError(
            f"{describe_row(rows, first, name=name)} holds NaN or Inf ({int(bad.sum())} such row(s) "
            f"among the rows from {start} to {start + len(chunk) - 1}); {row_remedy(rows, first)}"
        )
