"""A budget for the batch in training, a threshold for every row afterwards."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from otoscope.sae.sparsifiers.base import Card, lowest_level

MOMENTUM = 0.05
"""Share of the newest batch in the running threshold."""


class BatchTopK(nn.Module):
    """Keep the `k * rows` largest pre-activations of a training batch (Bussmann et al. 2024, arXiv 2412.06410).

    Rows with more to say get more latents. In eval mode a threshold decides, so that a row means the same in any
    batch: the smallest value that was kept, averaged over training batches, until `calibrate` sets it. Rows of groups
    that were never seen lift many more latents over the former (20 of a row become 37 on spoken digits), so a
    trainer calibrates on its validation rows.
    """

    threshold: Float[Tensor, ""]

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k
        self.register_buffer("threshold", torch.tensor(-1.0))

    def forward(self, pre: Float[Tensor, "*rows latents"]) -> Float[Tensor, "*rows latents"]:
        """Return the codes; in training mode they depend on the whole batch."""
        positive = pre.relu()
        if not self.training:
            return positive * (positive > self.threshold)
        flat = positive.flatten()
        values, indices = flat.topk(min(self.k * (flat.numel() // pre.shape[-1]), flat.numel()), sorted=False)
        self._follow(values.detach())
        return torch.zeros_like(flat).scatter(0, indices, values).reshape(pre.shape)

    def calibrate(self, pre: Iterable[Float[Tensor, "rows latents"]]) -> None:
        """Set the lowest threshold at which rows, given in parts, keep to `k` active latents on average."""
        self.threshold.copy_(lowest_level(pre, k=self.k))

    @torch.no_grad()
    def _follow(self, kept: Float[Tensor, " kept"]) -> None:
        smallest = kept.min()
        followed = self.threshold.lerp(smallest, MOMENTUM)
        self.threshold.copy_(torch.where(self.threshold < 0, smallest, followed))

    def card(self) -> Card:
        """Return the kind and the budget."""
        return {"kind": "batch_topk", "k": self.k}
