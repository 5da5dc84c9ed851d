"""What callers hand to a dictionary: real numbers as tensors, taken over in the dictionary's own precision."""

import numpy as np
import torch
from jaxtyping import Float, Real
from torch import Tensor

from otoscope.errors import TrainingError


def as_reals(given: object, like: Tensor, *, name: str, shape: str) -> Tensor:
    """Return a tensor of real numbers in the precision of `like`: itself where it has that already.

    Raises `TrainingError` for no tensor, a single number, and what is neither floating point nor whole numbers.

    >>> as_reals(torch.tensor([1, 2]), torch.zeros(1), name="rows", shape="[rows, width]")
    tensor([1., 2.])
    """
    if not isinstance(given, Tensor):
        raise TrainingError(f"{name} are a {type(given).__name__}; give a tensor {shape}: torch.as_tensor(array)")
    if not given.ndim:
        raise TrainingError(f"{name} are a single number; give a tensor {shape}")
    if given.is_complex() or given.dtype == torch.bool:
        kind = str(given.dtype).removeprefix("torch.")
        raise TrainingError(f"{name} are {kind}; give real numbers, floating point or whole")
    return given.to(like.dtype)


def require_finite_rows(rows: Float[Tensor, "*rows width"], given: Real[Tensor, "*rows width"]) -> None:
    """Raise `TrainingError` naming the first of the `given` rows that, taken over as `rows`, holds NaN or Inf."""
    if torch.isfinite(rows.detach().sum()):  # tells nearly always, at the cost of a sum; what overflows is looked at
        return
    bad = ~torch.isfinite(rows.detach()).reshape(-1, rows.shape[-1]).all(dim=1)
    if not bad.any():
        return
    place = [int(at) for at in np.unravel_index(int(bad.int().argmax()), rows.shape[:-1])]
    row = f"row {place[0] if len(place) == 1 else place}" if place else "the row"
    kind = str(rows.dtype).removeprefix("torch.")
    what = "NaN or Inf" if not torch.isfinite(given).all() else f"a number too large for {kind}"
    raise TrainingError(
        f"{row} holds {what} ({int(bad.sum())} such row(s) of {len(bad)}); remove it or mend its source"
    )
