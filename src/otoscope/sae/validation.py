"""How well a model rebuilds rows that it was not trained on.

What a reader of a dictionary should know of how it came about: too few rows, or nothing learned.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from otoscope.sae.data import Rows, chunks
from otoscope.sae.initialise import FEW_ROWS
from otoscope.sae.losses import gathered, gathers
from otoscope.sae.model import SparseAutoencoder
from otoscope.sae.sparsifiers.base import Calibrated, Sparsifier, TopK
from otoscope.sae.sparsifiers.batch_topk import BatchTopK
from otoscope.sae.statistics import Moments, require_finite

AT_ONCE = 1024
"""Rows that are validated together."""


class Validation(NamedTuple):
    """The model on all validation rows: errors in the encoder's own units but for two.

    `inner_mse` is in the units that training sees; `standardised_explained_variance` counts every dimension
    that varies alike, however large it is.
    """

    mse: float
    inner_mse: float
    explained_variance: float
    standardised_explained_variance: float
    l0: float
    dead_fraction: float


class _Rebuilt(NamedTuple):
    rows: Float[Tensor, "rows width"]
    fired: Int[Tensor, " latents"]


@torch.no_grad()
def calibrate(sae: SparseAutoencoder, rows: Rows) -> None:
    """Let a sparsifier that wants to set its threshold by these rows; others are left as they are."""
    if isinstance(sae.sparsifier, Calibrated):
        sae.sparsifier.calibrate(_preactivations(sae, rows))


def _preactivations(sae: SparseAutoencoder, rows: Rows) -> Iterator[Float[Tensor, "rows latents"]]:
    for start, chunk in chunks(rows, AT_ONCE):
        require_finite(rows, chunk, start, "validation")
        yield sae.preactivate(sae.normalise(torch.from_numpy(chunk).to(sae.device)))


@torch.no_grad()
def validate(sae: SparseAutoencoder, rows: Rows, moments: Moments) -> Validation:
    """Score a model on all rows: `1 - sum |x - rebuilt|^2 / sum |x - training mean|^2` and companions."""
    training = sae.training
    sae.eval()
    mean = torch.from_numpy(moments.mean).to(sae.device)
    residual, total = mean.new_zeros(sae.width), mean.new_zeros(sae.width)
    fired = torch.zeros(sae.latents, dtype=torch.int64, device=sae.device)
    for start, chunk in chunks(rows, AT_ONCE):
        require_finite(rows, chunk, start, "validation")
        batch = torch.from_numpy(chunk).to(sae.device)
        seen = _rebuild(sae, sae.normalise(batch))
        rebuilt = seen.rows * sae.scale + sae.centre
        residual += (batch - rebuilt).square().sum(dim=0, dtype=torch.float64)
        total += (batch - mean).square().sum(dim=0)
        fired += seen.fired
    sae.train(training)
    entries = rows.height * rows.width
    varying = torch.from_numpy(moments.varying).to(sae.device)
    own = torch.from_numpy(moments.variance).to(sae.device)[varying]
    return Validation(
        mse=residual.sum().item() / entries,
        inner_mse=(residual / sae.scale.double().square()).sum().item() / entries,
        explained_variance=_explained(residual, total),
        standardised_explained_variance=_explained(residual[varying] / own, total[varying] / own),
        l0=float(fired.sum()) / rows.height,
        dead_fraction=1.0 - float((fired > 0).float().mean()),
    )


def _explained(residual: Float[Tensor, " width"], total: Float[Tensor, " width"]) -> float:
    return 1.0 - (residual.sum() / total.sum()).item() if total.any() else float("nan")


def _rebuild(sae: SparseAutoencoder, inner: Float[Tensor, "rows width"]) -> _Rebuilt:
    sparsifier = gathers(sae)
    if sparsifier is not None:
        seen = gathered(sae, sparsifier, inner)
        return _Rebuilt(seen.rebuilt, seen.fired)
    codes = sae.sparsifier(sae.preactivate(inner))
    return _Rebuilt(sae.rebuild(codes), (codes > 0).sum(dim=0))


OVERSPEND = 1.05
"""Active latents a row, over k, up to which a state may be chosen as best by its error alone."""


def of_rows(height: int, valid_height: int, *, latents: int) -> list[str]:
    """Return what is to be said of so many rows before so many latents learn from them.

    >>> of_rows(300, 40, latents=200)
    []
    """
    found: list[str] = []
    if height < latents:
        found.append(
            f"{height} training rows for {latents} latents: learning on means memorising them; "
            "judge by unseen groups alone, and take more rows or fewer latents"
        )
    if valid_height == 1:
        found.append(
            "1 validation row: the choice of the best state and all valid_* rest on it; give more, of whole groups"
        )
    return found


def of_start(sparsifier: Sparsifier, *, height: int, latents: int, steps: int, l0: float) -> list[str]:
    """Return what is to be said where training brought nothing better than its start; `l0` is that of its last state.

    Nothing of the k largest from very few rows: principal axes are meant to be kept there (docs/benchmarks.md).
    """
    if isinstance(sparsifier, TopK | BatchTopK) and height < FEW_ROWS * latents:
        return []
    k = sparsifier.k
    remedy = "take more rows or a lower learning rate"
    if l0 > OVERSPEND * k:
        remedy = f'{l0:.1f} latents a row are active in the last for k={k}: take sparsifier="topk" or "batch_topk"'
    return [
        f"best_step 0: {steps} steps brought no better state on the validation rows, so this is the untrained start; "
        f"{remedy}"
    ]
