"""Sparsifiers with a fixed budget: k latents per row, or k per row on average over a batch."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from otoscope.sae.sparsifiers.base import ActiveLatents, check_k, check_positive, threshold_for_l0


class TopK:
    """Rectify, then keep the k largest of each row (Makhzani and Frey 2013; Gao et al. 2024, arXiv 2406.04093).

    Of equal values at the border only as many are kept as fit, so a row never has more than k active latents.

    >>> TopK(2)(torch.tensor([[3.0, -1.0, 1.0, 2.0]]))
    tensor([[3., 0., 0., 2.]])
    """

    def __init__(self, k: int) -> None:
        self.k = check_k(k, max(k, 1))

    def select(self, pre: Float[Tensor, "*rows latents"]) -> ActiveLatents:
        """Return the k largest pre-activations of each row, rectified, in any order."""
        check_k(self.k, pre.shape[-1])
        values, indices = pre.topk(self.k, dim=-1, sorted=False)
        return ActiveLatents(values.relu(), indices)

    def __call__(self, pre: Float[Tensor, "*rows latents"]) -> Float[Tensor, "*rows latents"]:
        """Return the codes: the k largest positive pre-activations of each row, and zeros."""
        values, indices = self.select(pre)
        return torch.zeros_like(pre).scatter(-1, indices, values)

    def __repr__(self) -> str:
        return f"TopK(k={self.k})"


class BatchTopK(nn.Module):
    """Keep the `k * rows` largest pre-activations of a training batch (Bussmann et al. 2024, arXiv 2412.06410).

    The number of active latents varies between rows. In eval mode a threshold decides, so that the codes of a row do
    not depend on its batch. During training the threshold is the smallest value that was kept, as a running mean over
    batches; `calibrate` then sets it from validation rows. Without calibration, rows of unseen groups activate many
    more latents (37 per row at k=20 on spoken digits).

    `momentum` is the weight of the newest batch in the running threshold.
    """

    threshold: Float[Tensor, ""]

    def __init__(self, k: int, *, momentum: float = 0.05) -> None:
        super().__init__()
        self.k, self.momentum = k, check_positive(momentum, name="momentum", below=1.0)
        self.register_buffer("threshold", torch.tensor(-1.0))

    def forward(self, pre: Float[Tensor, "*rows latents"]) -> Float[Tensor, "*rows latents"]:
        """Return the codes; in training mode they depend on the whole batch."""
        positive = pre.relu()
        if not self.training:
            return positive * (positive > self.threshold)
        flat = positive.flatten()
        values, indices = flat.topk(min(self.k * (flat.numel() // pre.shape[-1]), flat.numel()), sorted=False)
        self.update_threshold(values.detach().min())
        return torch.zeros_like(flat).scatter(0, indices, values).reshape(pre.shape)

    def calibrate(self, pre: Iterable[Float[Tensor, "rows latents"]]) -> None:
        """Set the lowest threshold at which rows have at most `k` active latents on average."""
        self.threshold.copy_(threshold_for_l0(pre, k=self.k))

    @torch.no_grad()
    def update_threshold(self, smallest: Float[Tensor, ""]) -> None:
        """Move the running threshold towards the smallest value that a training batch kept."""
        updated = self.threshold.lerp(smallest, self.momentum)
        self.threshold.copy_(torch.where(self.threshold < 0, smallest, updated))
