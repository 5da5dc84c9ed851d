"""From pre-activations to sparse, non-negative codes.

Reaching a wanted number of active latents without a sweep.

Where a threshold must lie for rows to keep to their budget.
"""

from collections.abc import Iterable
from operator import index
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from otoscope.errors import ConfigError

Card: TypeAlias = dict[str, str | int | float]


class Chosen(NamedTuple):
    """The latents that may be active in each row, and their non-negative values."""

    values: Float[Tensor, "rows k"]
    indices: Int[Tensor, "rows k"]


@runtime_checkable
class Sparsifier(Protocol):
    """Turns pre-activations into non-negative codes of the same shape, row by row.

    A sparsifier with parameters or buffers is an `nn.Module` too; they then live in the checkpoint.
    """

    @property
    def k(self) -> int:
        """Number of active latents a row: at most, or on average over rows."""
        ...

    def __call__(self, pre: Float[Tensor, "*rows latents"]) -> Float[Tensor, "*rows latents"]:
        """Return the codes of rows; every entry is at least 0."""
        ...

    def card(self) -> Card:
        """Return what `catalog.build_sparsifier` needs to make this sparsifier again."""
        ...


class Seen(NamedTuple):
    """What a sparsifier may judge a batch by, in normalised units."""

    inner: Float[Tensor, "rows width"]
    pre: Float[Tensor, "rows latents"]
    codes: Float[Tensor, "rows latents"]
    decoder: Float[Tensor, "latents width"]
    decoder_bias: Float[Tensor, " width"] | None


@runtime_checkable
class Penalised(Protocol):
    """A sparsifier that adds a term of its own to what training minimises."""

    def penalty(self, seen: Seen) -> Float[Tensor, ""]:
        """Return the term for one batch; called once a training step, after the codes were made."""
        ...


@runtime_checkable
class Starting(Protocol):
    """A sparsifier that sets itself up from the first batch, before the first step."""

    def start(self, pre: Float[Tensor, "rows latents"]) -> None:
        """Take in pre-activations of a dictionary that has learnt nothing yet."""
        ...


@runtime_checkable
class Levelled(Protocol):
    """A sparsifier whose latents are active above 0, so that the encoder's bias says where training begins.

    Begun with half of all latents active, its penalty would be steered far beyond what a budget needs and back.
    """

    def start_level(self, pre: Float[Tensor, "rows latents"]) -> Float[Tensor, ""]:
        """Return what to take off pre-activations that have no bias yet, for rows to have `k` active latents."""
        ...


@runtime_checkable
class Calibrated(Protocol):
    """A sparsifier that keeps rows of unseen groups to its budget, after some that it does not learn from."""

    def calibrate(self, pre: Iterable[Float[Tensor, "rows latents"]]) -> None:
        """Take in the pre-activations of validation rows, part by part; called before every validation."""
        ...


def k_from_sparsity(latents: int, sparsity: float) -> int:
    """Return how many latents may be active: `int((1 - sparsity) * latents)`, in floating point as the paper does.

    Raises `ConfigError` unless the fraction lies in [0, 1) and leaves at least one latent.

    >>> [k_from_sparsity(2048, s) for s in (0.75, 0.80, 0.85, 0.90, 0.95, 0.99)]
    [512, 409, 307, 204, 102, 20]
    """
    if not 0.0 <= sparsity < 1.0:
        raise ConfigError(f"sparsity must be at least 0 and below 1, got {sparsity}; 0.95 keeps 5 % of the latents")
    return check_k(int((1 - sparsity) * latents), latents)


def whole(value: int, *, name: str) -> int:
    """Return a whole number of any library as Python's own; raise `ConfigError` for anything else.

    >>> whole(torch.tensor(3), name="k")
    3
    """
    try:
        return index(value)
    except TypeError as error:
        raise ConfigError(f"{name} must be a whole number, got {value!r}") from error


def check_k(k: int, latents: int) -> int:
    """Return `k`; raise `ConfigError` unless it is a whole number between 1 and `latents`."""
    k = whole(k, name="k")
    if k < 1:
        raise ConfigError(f"k must be at least 1, got {k} of {latents} latents; lower the sparsity or add latents")
    if k > latents:
        raise ConfigError(f"k={k} exceeds latents={latents}; lower k or add latents")
    return k


class TopK:
    """Rectify, then keep the k largest of each row (Makhzani and Frey 2013; Gao et al. 2024, arXiv 2406.04093).

    Of equal values at the border only as many are kept as fit, so a row never holds more than k.

    >>> TopK(2)(torch.tensor([[3.0, -1.0, 1.0, 2.0]]))
    tensor([[3., 0., 0., 2.]])
    """

    def __init__(self, k: int) -> None:
        self.k = check_k(k, max(k, 1))

    def choose(self, pre: Float[Tensor, "*rows latents"]) -> Chosen:
        """Return the k largest pre-activations of each row, rectified, in no particular order."""
        check_k(self.k, pre.shape[-1])
        values, indices = pre.topk(self.k, dim=-1, sorted=False)
        return Chosen(values.relu(), indices)

    def __call__(self, pre: Float[Tensor, "*rows latents"]) -> Float[Tensor, "*rows latents"]:
        """Return the codes: zero but for the k largest positive pre-activations of each row."""
        values, indices = self.choose(pre)
        return torch.zeros_like(pre).scatter(-1, indices, values)

    def card(self) -> Card:
        """Return the kind and the budget."""
        return {"kind": "topk", "k": self.k}

    def __repr__(self) -> str:
        return f"TopK(k={self.k})"


class Strength(nn.Module):
    """The weight of a sparsity penalty, steered so that a row has `target` active latents on average.

    After every training batch `log weight += rate * clip(log(l0 / target), ±1)`: an integral
    controller on a logarithmic scale. The weight is a buffer, so checkpoints and resumed runs keep it.
    """

    weight: Float[Tensor, ""]

    def __init__(self, target: float, *, start: float, rate: float = 0.05) -> None:
        super().__init__()
        self.target, self.rate = target, rate
        self.register_buffer("weight", torch.tensor(start))

    @torch.no_grad()
    def observe(self, codes: Float[Tensor, "rows latents"]) -> None:
        """Take in the codes of one training batch."""
        l0 = (codes > 0).sum().to(self.weight) / len(codes)
        error = torch.log(l0.clamp_min(0.1) / self.target).clamp(-1.0, 1.0)
        self.weight.mul_(torch.exp(self.rate * error))


COARSE_BITS = 12
"""Low bits of a float32 that are left out of the count: levels lie within 2**-11 of the lowest one."""


@torch.no_grad()
def lowest_level(parts: Iterable[Float[Tensor, "rows latents"]], *, k: int) -> Float[Tensor, ""]:
    """Return the lowest level, at least 0, above which rows have at most `k` entries on average.

    Rows are given in parts and seen once. The bits of floats that are not negative rise with them, so that counting
    how often each pattern of high bits occurs ranks all entries, however many.

    >>> lowest_level([torch.tensor([[5.0, 1.0, -2.0]]), torch.tensor([[4.0, 3.0, 0.5]])], k=1) < 4
    tensor(True)
    """
    counts, rows = torch.zeros(1 << (31 - COARSE_BITS), dtype=torch.int64), 0
    for part in parts:
        keys = part.relu().float().view(torch.int32) >> COARSE_BITS
        counts += keys.flatten().bincount(minlength=len(counts)).cpu()
        rows += len(part)
    beyond = counts.sum() - counts.cumsum(0)
    lowest = int((beyond <= k * rows).nonzero()[0])
    last_of_its_bin = torch.tensor(((lowest + 1) << COARSE_BITS) - 1, dtype=torch.int32)
    return last_of_its_bin.view(torch.float32) if lowest else torch.zeros(())
