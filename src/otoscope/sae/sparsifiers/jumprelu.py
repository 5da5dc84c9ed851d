"""A learned threshold for every latent."""

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from otoscope.sae.sparsifiers.base import Card, Seen, Strength, lowest_level

BANDWIDTH = 0.5
"""Width of the window around a threshold, as a difference of logarithms, within which it feels a gradient."""


class JumpReLU(nn.Module):
    """Pass a pre-activation on where it exceeds its latent's threshold (Rajamanoharan et al. 2024, arXiv 2407.14435).

    The step has no useful gradient, so the logarithm of each threshold learns through a rectangular
    window of width `BANDWIDTH` (straight-through estimator): with `u = log(pre / threshold)`,
    `d codes / d log threshold = -threshold [|u| < BANDWIDTH / 2] / BANDWIDTH`, whatever the units.
    The penalty is the number of active latents itself; its weight is steered until rows have `k`.
    In eval mode one factor, set by `calibrate`, lifts all thresholds so far that unseen rows keep to `k` as well.
    """

    lift: Float[Tensor, ""]

    def __init__(self, k: int, latents: int) -> None:
        super().__init__()
        self.k = k
        self.register_buffer("lift", torch.ones(()))
        self.log_threshold = nn.Parameter(torch.full((latents,), -2.0))
        self.strength = Strength(k, start=1e-2)

    @torch.no_grad()
    def start(self, pre: Float[Tensor, "rows latents"]) -> None:
        """Begin with one threshold for all latents, at which these rows have `k` active latents on average."""
        share = 1.0 - self.k / pre.shape[-1]
        ranked = pre.flatten().sort().values
        level = ranked[min(int(share * len(ranked)), len(ranked) - 1)]
        self.log_threshold.fill_(float(level.clamp_min(1e-3).log()))

    def forward(self, pre: Float[Tensor, "*rows latents"]) -> Float[Tensor, "*rows latents"]:
        """Return pre-activations above their thresholds, zero elsewhere."""
        if not self.training:
            return torch.where(pre > self.lift * self.log_threshold.exp(), pre, 0.0)
        return _Jump.apply(pre, self.log_threshold)  # pyright: ignore[reportReturnType]

    def calibrate(self, pre: Iterable[Float[Tensor, "rows latents"]]) -> None:
        """Set the factor at which rows, given in parts, have at most `k` active latents on average."""
        threshold = self.log_threshold.detach().exp()
        self.lift.copy_(lowest_level((part / threshold for part in pre), k=self.k))

    def penalty(self, seen: Seen) -> Float[Tensor, ""]:
        """Return `weight * mean number of active latents`."""
        self.strength.observe(seen.codes)
        active: Tensor = _Active.apply(seen.pre, self.log_threshold)  # pyright: ignore[reportAssignmentType]
        return self.strength.weight * active.sum(dim=-1).mean()

    def card(self) -> Card:
        """Return the kind and the budget."""
        return {"kind": "jumprelu", "k": self.k}


def _window(pre: Tensor, log_threshold: Tensor) -> Tensor:
    """Return `[|log(pre / threshold)| < BANDWIDTH / 2] / BANDWIDTH`."""
    half = BANDWIDTH / 2
    near = (pre > (log_threshold - half).exp()) & (pre < (log_threshold + half).exp())
    return near.to(pre.dtype) / BANDWIDTH


def _over_rows(values: Tensor) -> Tensor:
    return values.sum(dim=tuple(range(values.ndim - 1)))


class _Jump(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pre: Tensor, log_threshold: Tensor) -> Tensor:
        ctx.save_for_backward(pre, log_threshold)
        return torch.where(pre > log_threshold.exp(), pre, 0.0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        pre, log_threshold = ctx.saved_tensors
        slope = -log_threshold.exp() * _window(pre, log_threshold)
        return torch.where(pre > log_threshold.exp(), grad, 0.0), _over_rows(grad * slope)


class _Active(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pre: Tensor, log_threshold: Tensor) -> Tensor:
        ctx.save_for_backward(pre, log_threshold)
        return (pre > log_threshold.exp()).to(pre.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        pre, log_threshold = ctx.saved_tensors
        return None, _over_rows(-grad * _window(pre, log_threshold))
