"""ReLU codes held sparse by an L1 penalty."""

from jaxtyping import Float
from torch import Tensor, nn

from otoscope.sae.sparsifiers.base import Card, Seen, Strength, lowest_level


class ReLU(nn.Module):
    """Rectify; a penalty on `sum of codes * atom length` keeps codes sparse (Bricken et al. 2023).

    The weight of the penalty is steered until rows have `k` active latents on average.
    """

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k
        self.strength = Strength(k, start=1e-3)

    def forward(self, pre: Float[Tensor, "*rows latents"]) -> Float[Tensor, "*rows latents"]:
        """Return the positive pre-activations."""
        return pre.relu()

    def start_level(self, pre: Float[Tensor, "rows latents"]) -> Float[Tensor, ""]:
        """Return the level beyond which these rows have `k` pre-activations on average."""
        return lowest_level([pre], k=self.k)

    def penalty(self, seen: Seen) -> Float[Tensor, ""]:
        """Return `weight * mean over rows of sum_i code_i |atom_i|`."""
        self.strength.observe(seen.codes)
        lengths = seen.decoder.norm(dim=1)
        return self.strength.weight * (seen.codes @ lengths).mean()

    def card(self) -> Card:
        """Return the kind and the budget."""
        return {"kind": "relu", "k": self.k}
