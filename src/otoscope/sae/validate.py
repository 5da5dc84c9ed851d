"""How well a model rebuilds rows that it was not trained on."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from otoscope.sae.losses import gathered, gathers
from otoscope.sae.model import SparseAutoencoder
from otoscope.sae.moments import Moments, require_finite
from otoscope.sae.rows import Rows, chunks

AT_ONCE = 1024
"""Rows that are validated together."""


class Validation(NamedTuple):
    """The model on all validation rows, in the encoder's own units."""

    mse: float
    explained_variance: float
    l0: float
    dead_fraction: float


class _Rebuilt(NamedTuple):
    rows: Float[Tensor, "rows width"]
    fired: Int[Tensor, " latents"]


@torch.no_grad()
def validate(sae: SparseAutoencoder, rows: Rows, moments: Moments) -> Validation:
    """Score a model on all rows: `1 - sum |x - rebuilt|^2 / sum |x - training mean|^2` and companions."""
    training = sae.training
    sae.eval()
    mean = torch.from_numpy(moments.mean)
    residual = total = 0.0
    fired = torch.zeros(sae.latents, dtype=torch.int64)
    for start, chunk in chunks(rows, AT_ONCE):
        require_finite(rows, chunk, start, "validation")
        batch = torch.from_numpy(chunk)
        seen = _rebuild(sae, sae.normalise(batch))
        rebuilt = seen.rows * sae.scale + sae.centre
        residual += float((batch - rebuilt).square().sum(dtype=torch.float64))
        total += float((batch - mean).square().sum())
        fired += seen.fired
    sae.train(training)
    return Validation(
        mse=residual / (rows.height * rows.width),
        explained_variance=1.0 - residual / total if total > 0 else float("nan"),
        l0=float(fired.sum()) / rows.height,
        dead_fraction=1.0 - float((fired > 0).float().mean()),
    )


def _rebuild(sae: SparseAutoencoder, inner: Float[Tensor, "rows width"]) -> _Rebuilt:
    sparsifier = gathers(sae)
    if sparsifier is not None:
        seen = gathered(sae, sparsifier, inner)
        return _Rebuilt(seen.rebuilt, seen.fired)
    codes = sae.sparsifier(sae.preactivate(inner))
    return _Rebuilt(sae.rebuild(codes), (codes > 0).sum(dim=0))
