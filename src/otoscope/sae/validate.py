"""How well a model rebuilds rows that it was not trained on."""

from typing import NamedTuple

import torch

from otoscope.sae.model import SparseAutoencoder
from otoscope.sae.moments import Moments, require_finite
from otoscope.sae.rows import Rows, chunks


class Validation(NamedTuple):
    """The model on all validation rows, in the encoder's own units."""

    mse: float
    explained_variance: float
    l0: float
    dead_fraction: float


@torch.no_grad()
def validate(sae: SparseAutoencoder, rows: Rows, moments: Moments) -> Validation:
    """Score a model on all rows: `1 - sum |x - rebuilt|^2 / sum |x - training mean|^2` and companions."""
    training = sae.training
    sae.eval()
    mean = torch.from_numpy(moments.mean)
    residual = total = active = 0.0
    fired = torch.zeros(sae.latents, dtype=torch.bool)
    for start, chunk in chunks(rows, 1024):
        require_finite(rows, chunk, start, "validation")
        batch = torch.from_numpy(chunk)
        codes = sae.sparsifier(sae.preactivate(sae.normalise(batch)))
        rebuilt = sae.rebuild(codes) * sae.scale + sae.centre
        residual += float((batch - rebuilt).square().sum(dtype=torch.float64))
        total += float((batch - mean).square().sum())
        alive = codes > 0
        active += float(alive.sum())
        fired |= alive.any(dim=0)
    sae.train(training)
    return Validation(
        mse=residual / (rows.height * rows.width),
        explained_variance=1.0 - residual / total if total > 0 else float("nan"),
        l0=active / rows.height,
        dead_fraction=1.0 - float(fired.float().mean()),
    )
