"""ReLU codes with an L1 penalty."""

from jaxtyping import Float
from torch import Tensor, nn

from otoscope.sae.sparsifiers.base import BatchState, PenaltyController, threshold_for_l0


class ReLU(nn.Module):
    """Rectify; a penalty on `sum of codes * atom length` keeps codes sparse (Bricken et al. 2023).

    The weight of the penalty starts at `penalty_weight` and is adjusted at `penalty_rate` until rows have `k` active
    latents on average (see `PenaltyController`).
    """

    def __init__(self, k: int, *, penalty_weight: float = 1e-3, penalty_rate: float = 0.05) -> None:
        super().__init__()
        self.k, self.penalty_weight, self.penalty_rate = k, penalty_weight, penalty_rate
        self.strength = PenaltyController(k, start=penalty_weight, rate=penalty_rate)

    def forward(self, pre: Float[Tensor, "*rows latents"]) -> Float[Tensor, "*rows latents"]:
        """Return the positive pre-activations."""
        return pre.relu()

    def initial_threshold(self, pre: Float[Tensor, "rows latents"]) -> Float[Tensor, ""]:
        """Return the threshold above which these rows have `k` pre-activations on average."""
        return threshold_for_l0([pre], k=self.k)

    def penalty(self, batch: BatchState) -> Float[Tensor, ""]:
        """Return `weight * mean over rows of sum_i code_i |atom_i|`."""
        self.strength.update(batch.codes)
        lengths = batch.decoder.norm(dim=1)
        return self.strength.weight * (batch.codes @ lengths).mean()
