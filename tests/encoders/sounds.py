"""Sounds that encoder tests feed in."""

from collections.abc import Sequence

import torch
from torch import Tensor


def noise(*lengths: int, seed: int = 0) -> list[Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(samples, generator=draw) * 0.1 for samples in lengths]


def moved(plain: Tensor, touched: Tensor, *, tolerance: float = 1e-4) -> Sequence[int]:
    """Indices of the frames `[frames, width]` that differ."""
    return torch.nonzero((plain - touched).abs().amax(-1) > tolerance).flatten().tolist()
