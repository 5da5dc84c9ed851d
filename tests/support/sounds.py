"""Sounds that encoder tests feed in."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def noise(*lengths: int, seed: int = 0) -> list[Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(samples, generator=draw) * 0.1 for samples in lengths]


def moved(plain: Tensor, touched: Tensor, *, tolerance: float = 1e-4) -> Sequence[int]:
    """Indices of the frames `[frames, width]` that differ."""
    return torch.nonzero((plain - touched).abs().amax(-1) > tolerance).flatten().tolist()


def assert_near(found: Tensor | np.ndarray, expected: Tensor | np.ndarray, *, relative: float = 1e-5) -> None:
    """Hold the norm of the difference to a share of the norm of what is expected."""
    one, other = (torch.as_tensor(given).detach().double() for given in (found, expected))
    assert one.shape == other.shape
    off = float((one - other).norm() / other.norm())
    assert off <= relative, f"off by {off:.2g} of the norm, allowed {relative:g}"
