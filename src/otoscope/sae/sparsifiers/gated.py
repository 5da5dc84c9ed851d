"""Gated codes: one path decides which latents are active, another their magnitudes."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from otoscope.sae.sparsifiers.base import BatchState, PenaltyController, threshold_for_l0


class Gated(nn.Module):
    """Gate and magnitude share the encoder's weights (Rajamanoharan et al. 2024, arXiv 2404.16014).

    `gate = pre; magnitude = exp(stretch) * pre + shift; codes = [gate > 0] * relu(magnitude)`.
    The penalty is an L1 norm on the gate, plus the error of a reconstruction from the gate alone through a frozen
    decoder, which is the gate's only other gradient. The weight of the L1 norm starts at `penalty_weight` and is
    adjusted at `penalty_rate` until rows have `k` active latents on average. In eval mode the gate's threshold is
    `level`, calibrated on validation rows so that held-out L0 <= k.
    """

    level: Float[Tensor, ""]

    def __init__(self, k: int, latents: int, *, penalty_weight: float = 1e-3, penalty_rate: float = 0.05) -> None:
        super().__init__()
        self.k, self.penalty_weight, self.penalty_rate = k, penalty_weight, penalty_rate
        self.register_buffer("level", torch.zeros(()))
        self.stretch = nn.Parameter(torch.zeros(latents))
        self.shift = nn.Parameter(torch.zeros(latents))
        self.strength = PenaltyController(k, start=penalty_weight, rate=penalty_rate)

    def forward(self, pre: Float[Tensor, "*rows latents"]) -> Float[Tensor, "*rows latents"]:
        """Return the rectified magnitudes of the latents with an open gate."""
        return torch.where(pre > (0 if self.training else self.level), self._magnitude(pre).relu(), 0.0)

    def _magnitude(self, pre: Float[Tensor, "*rows latents"]) -> Float[Tensor, "*rows latents"]:
        return self.stretch.exp() * pre + self.shift

    @torch.no_grad()
    def initial_threshold(self, pre: Float[Tensor, "rows latents"]) -> Float[Tensor, ""]:
        """Return the threshold at which these rows have `k` open gates; `shift` undoes it for the magnitudes."""
        threshold = threshold_for_l0([pre], k=self.k)
        self.shift.fill_(threshold)
        return threshold

    def calibrate(self, pre: Iterable[Float[Tensor, "rows latents"]]) -> None:
        """Set the gate's threshold at which rows have at most `k` active latents on average."""
        active = (torch.where(self._magnitude(batch) > 0, batch, 0.0) for batch in pre)
        self.level.copy_(threshold_for_l0(active, k=self.k))

    def penalty(self, batch: BatchState) -> Float[Tensor, ""]:
        """Return `weight * mean sum relu(gate) |atom| + mean squared error of the gate's own reconstruction`."""
        self.strength.update(batch.codes)
        decoder, gate = batch.decoder.detach(), batch.pre.relu()
        rebuilt = gate @ decoder
        if batch.decoder_bias is not None:
            rebuilt = rebuilt + batch.decoder_bias.detach()
        return self.strength.weight * (gate @ decoder.norm(dim=1)).mean() + F.mse_loss(rebuilt, batch.inner)
