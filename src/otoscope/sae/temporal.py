"""Neighbouring frames should share what is general."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F  # noqa: N812


def contrast(
    codes: Float[Tensor, "rows some"], beside: Float[Tensor, "rows some"], *, temperature: float = 0.1
) -> Float[Tensor, ""]:
    """Return how badly rows are told from others by the codes of their neighbours in time, in nats.

    `-mean_i log(exp(s_ii) / sum_j exp(s_ij))` and the same from neighbour to row, halved, with `s_ij`
    the cosine between row i and the neighbour of row j, over `temperature` (InfoNCE, van den Oord et al.
    2018, arXiv 1807.03748; on codes of neighbouring tokens: arXiv 2511.05541). It is `log(rows)` where
    codes tell nothing, and 0 where each row is like its neighbour and like no other.

    >>> contrast(torch.eye(4), torch.eye(4), temperature=0.01).item()
    0.0
    """
    similar = F.normalize(codes, dim=1) @ F.normalize(beside, dim=1).T / temperature
    own = torch.arange(len(codes), device=codes.device)
    return (F.cross_entropy(similar, own) + F.cross_entropy(similar.T, own)) / 2
