"""Where a threshold must lie for rows to keep to their budget."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

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
