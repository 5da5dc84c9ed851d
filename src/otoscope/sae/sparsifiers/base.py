"""Interface of sparsifiers, and the tools that sparsifiers share.

A sparsifier needs `k` and a call. It may implement further protocols of this module: `SelectsLatents`, `Penalised`,
`DataInitialised`, `BiasInitialised`, `Calibrated`. A sparsifier with parameters or buffers is an `nn.Module`; these
are then part of the checkpoint.
"""

import math
from collections.abc import Iterable
from operator import index
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from otoscope.errors import ConfigError


@runtime_checkable
class Sparsifier(Protocol):
    """Map from pre-activations to non-negative codes of the same shape, row by row.

    Store each constructor argument under its own name, as scikit-learn's estimators do: the card and the `repr` are
    made from them. `k`, `latents` and hyper-parameters with a default are the arguments of the built-in sparsifiers.
    """

    @property
    def k(self) -> int:
        """Number of active latents per row: the maximum, or the mean over rows."""
        ...

    def __call__(self, pre: Float[Tensor, "*rows latents"]) -> Float[Tensor, "*rows latents"]:
        """Return the codes of rows; every entry is at least 0."""
        ...


class ActiveLatents(NamedTuple):
    """Latents that may be active in each row, and their non-negative values."""

    values: Float[Tensor, "rows k"]
    indices: Int[Tensor, "rows k"]


@runtime_checkable
class SelectsLatents(Protocol):
    """A sparsifier that selects exactly `k` latents per row.

    The codes are the rectified pre-activations of the selected latents. Decoding then needs only `k` atoms per row.
    """

    @property
    def k(self) -> int:
        """Number of selected latents per row."""
        ...

    def select(self, pre: Float[Tensor, "rows latents"]) -> ActiveLatents:
        """Return the selected latents of each row, in any order."""
        ...


class BatchState(NamedTuple):
    """One training batch as a penalty sees it, in normalised units."""

    inner: Float[Tensor, "rows width"]
    pre: Float[Tensor, "rows latents"]
    codes: Float[Tensor, "rows latents"]
    decoder: Float[Tensor, "latents width"]
    decoder_bias: Float[Tensor, " width"] | None


@runtime_checkable
class Penalised(Protocol):
    """A sparsifier that adds a term to the training loss."""

    def penalty(self, batch: BatchState) -> Float[Tensor, ""]:
        """Return the term for one batch; called once per training step, after the codes are computed."""
        ...


@runtime_checkable
class DataInitialised(Protocol):
    """A sparsifier whose parameters are initialised from the first batch."""

    def initialise(self, pre: Float[Tensor, "rows latents"]) -> None:
        """Set parameters from the pre-activations of the untrained model."""
        ...


@runtime_checkable
class BiasInitialised(Protocol):
    """A sparsifier with latents active above 0, so that the encoder bias sets the initial L0.

    Without it half of all latents are active in the first step, and the penalty controller overshoots.
    """

    def initial_threshold(self, pre: Float[Tensor, "rows latents"]) -> Float[Tensor, ""]:
        """Return the value to subtract from pre-activations without bias, so that rows have `k` active latents."""
        ...


@runtime_checkable
class Calibrated(Protocol):
    """A sparsifier whose threshold is calibrated on validation rows so that held-out L0 <= k."""

    def calibrate(self, pre: Iterable[Float[Tensor, "rows latents"]]) -> None:
        """Set the threshold from batches of validation pre-activations; called before every validation."""
        ...


def max_active(sparsifier: Sparsifier, latents: int) -> int:
    """Return the largest number of active latents in any row."""
    return sparsifier.k if isinstance(sparsifier, SelectsLatents) else latents


def k_from_sparsity(latents: int, sparsity: float) -> int:
    """Return the number of active latents, `int((1 - sparsity) * latents)` in floating point as in arXiv 2509.24793.

    Raises `ConfigError` unless the fraction is in [0, 1) and leaves at least one latent.

    >>> [k_from_sparsity(2048, s) for s in (0.75, 0.80, 0.85, 0.90, 0.95, 0.99)]
    [512, 409, 307, 204, 102, 20]
    """
    if not 0.0 <= sparsity < 1.0:
        raise ConfigError(f"sparsity must be at least 0 and below 1, got {sparsity}; 0.95 keeps 5 % of the latents")
    return check_k(int((1 - sparsity) * latents), latents)


def as_integer(value: int, *, name: str) -> int:
    """Return an integer of any library as a Python int; raise `ConfigError` for anything else.

    >>> as_integer(torch.tensor(3), name="k")
    3
    """
    try:
        return index(value)
    except TypeError as error:
        raise ConfigError(f"{name} must be a whole number, got {value!r}") from error


def check_k(k: int, latents: int) -> int:
    """Return `k`; raise `ConfigError` unless it is an integer between 1 and `latents`."""
    k = as_integer(k, name="k")
    if k < 1:
        raise ConfigError(f"k must be at least 1, got {k} of {latents} latents; lower the sparsity or add latents")
    if k > latents:
        raise ConfigError(f"k={k} exceeds latents={latents}; lower k or add latents")
    return k


def check_positive(value: object, *, name: str, below: float = math.inf) -> float:
    """Return a hyper-parameter; raise `ConfigError` unless it is a number above 0 and at most `below`.

    >>> check_positive(0.5, name="bandwidth")
    0.5
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not (0 < value <= below and value < math.inf):
        most = "" if below == math.inf else f" and at most {below:g}"
        raise ConfigError(f"{name} must be a number above 0{most}, got {value!r}")
    return float(value)


class PenaltyController(nn.Module):
    """Weight of a sparsity penalty, adjusted until rows have `target` active latents on average.

    After every training batch `log weight += rate * clip(log(l0 / target), ±1)`: an integral
    controller on a logarithmic scale. The weight is a buffer, so checkpoints and resumed runs keep it.
    """

    weight: Float[Tensor, ""]

    def __init__(self, target: float, *, start: float, rate: float) -> None:
        super().__init__()
        self.target, self.rate = target, check_positive(rate, name="penalty_rate")
        self.register_buffer("weight", torch.tensor(check_positive(start, name="penalty_weight")))

    @torch.no_grad()
    def update(self, codes: Float[Tensor, "rows latents"]) -> None:
        """Adjust the weight to the codes of one training batch."""
        self.adjust((codes > 0).sum().to(self.weight) / len(codes))

    @torch.no_grad()
    def adjust(self, l0: Float[Tensor, ""]) -> None:
        """Adjust the weight to the mean number of active latents in one training batch."""
        error = torch.log(l0.to(self.weight).clamp_min(0.1) / self.target).clamp(-1.0, 1.0)
        self.weight.mul_(torch.exp(self.rate * error))


COARSE_BITS = 12
"""Low bits of a float32 that the histogram drops: thresholds are within a factor `1 + 2**-11` of the lowest one."""


@torch.no_grad()
def threshold_for_l0(batches: Iterable[Float[Tensor, "rows latents"]], *, k: int) -> Float[Tensor, ""]:
    """Return the lowest threshold, at least 0, above which rows have at most `k` entries on average.

    Each batch is read once. The bit patterns of non-negative floats increase with their values, so a histogram of the
    high bits ranks any number of entries.

    >>> threshold_for_l0([torch.tensor([[5.0, 1.0, -2.0]]), torch.tensor([[4.0, 3.0, 0.5]])], k=1) < 4
    tensor(True)
    """
    counts, rows = torch.zeros(1 << (31 - COARSE_BITS), dtype=torch.int64), 0
    for batch in batches:
        keys = batch.relu().float().view(torch.int32) >> COARSE_BITS
        counts += keys.flatten().bincount(minlength=len(counts)).cpu()
        rows += len(batch)
    above = counts.sum() - counts.cumsum(0)
    lowest_bin = int((above <= k * rows).nonzero()[0])
    last_of_bin = torch.tensor(((lowest_bin + 1) << COARSE_BITS) - 1, dtype=torch.int32)
    return last_of_bin.view(torch.float32) if lowest_bin else torch.zeros(())
