"""Reaching a wanted number of active latents without a sweep."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


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
