"""One path decides whether a latent is active, another how much."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from otoscope.sae.sparsifiers.base import Card, Seen, Strength, lowest_level


class Gated(nn.Module):
    """Gate and magnitude share the encoder's weights (Rajamanoharan et al. 2024, arXiv 2404.16014).

    `gate = pre; magnitude = exp(stretch) * pre + shift; codes = [gate > 0] * relu(magnitude)`.
    The penalty is an L1 norm on the gate, plus the error with which the gate alone rebuilds the
    rows through a frozen decoder, without which it would learn nothing. The weight of the L1 norm
    is steered until rows have `k` active latents on average. In eval mode gates open at a level that `calibrate` sets,
    so that unseen rows keep to `k` as well.
    """

    level: Float[Tensor, ""]

    def __init__(self, k: int, latents: int) -> None:
        super().__init__()
        self.k = k
        self.register_buffer("level", torch.zeros(()))
        self.stretch = nn.Parameter(torch.zeros(latents))
        self.shift = nn.Parameter(torch.zeros(latents))
        self.strength = Strength(k, start=1e-3)

    def forward(self, pre: Float[Tensor, "*rows latents"]) -> Float[Tensor, "*rows latents"]:
        """Return the rectified magnitudes of the latents whose gate is open."""
        return torch.where(pre > (0 if self.training else self.level), self._magnitude(pre).relu(), 0.0)

    def _magnitude(self, pre: Float[Tensor, "*rows latents"]) -> Float[Tensor, "*rows latents"]:
        return self.stretch.exp() * pre + self.shift

    @torch.no_grad()
    def start_level(self, pre: Float[Tensor, "rows latents"]) -> Float[Tensor, ""]:
        """Return the level at which gates open for these rows' budget; magnitudes start as if nothing was taken off."""
        opening = lowest_level([pre], k=self.k)
        self.shift.fill_(opening)
        return opening

    def calibrate(self, pre: Iterable[Float[Tensor, "rows latents"]]) -> None:
        """Set the level of gates at which rows, given in parts, have at most `k` active latents on average."""
        self.level.copy_(lowest_level((torch.where(self._magnitude(part) > 0, part, 0.0) for part in pre), k=self.k))

    def penalty(self, seen: Seen) -> Float[Tensor, ""]:
        """Return `weight * mean sum relu(gate) |atom| + mean squared error of the gate's own reconstruction`."""
        self.strength.observe(seen.codes)
        decoder, gate = seen.decoder.detach(), seen.pre.relu()
        rebuilt = gate @ decoder
        if seen.decoder_bias is not None:
            rebuilt = rebuilt + seen.decoder_bias.detach()
        return self.strength.weight * (gate @ decoder.norm(dim=1)).mean() + F.mse_loss(rebuilt, seen.inner)

    def card(self) -> Card:
        """Return the kind and the budget."""
        return {"kind": "gated", "k": self.k}
