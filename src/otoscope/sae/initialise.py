"""Where training begins: atoms from the data or at random, an encoder of the right size, first thresholds."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from otoscope.sae.archetypal import Archetypes, centroids, sample_size
from otoscope.sae.config import TrainConfig
from otoscope.sae.data import Order, Rows
from otoscope.sae.model import SparseAutoencoder
from otoscope.sae.sparsifiers.base import Levelled, Starting
from otoscope.sae.statistics import Moments

FEW_ROWS = 1 / 4
"""Rows a latent below which next to nothing is learned that unseen groups bear out.

The start is mostly kept there, so it must do by itself: with twice as many axes as may be active, both ways, no row is
rebuilt worse than from the k leading components (docs/benchmarks.md)."""
FEW_AXES = 64
"""Axes up to which twice the budget begins there; a larger budget has as many axes as it has places."""
FEW_GAIN = 0.1
"""What is left there of the gain of further latents: places that no axis takes must not fill with noise."""


def start(sae: SparseAutoencoder, config: TrainConfig, rows: Rows, order: Order, moments: Moments) -> None:
    """Move a scaled model to where the recipe begins; `order` says which rows come first, and seeds what is drawn."""
    first = sae.normalise(torch.from_numpy(rows.take(order.indices(0))))
    if sae.archetypes is not None:
        _mix_points(sae, sae.archetypes, rows, order, bound=config.relaxation)
    if config.init == "principal":
        axes, k, gain = moments.axes(config.scaling, centred=config.centred), sae.sparsifier.k, config.rest_gain
        # half of a generous budget for axes as well: from few rows nothing else is learned that generalises as far
        least = k // 2
        if rows.height < FEW_ROWS * sae.latents:
            least, gain = min(max(k, min(2 * k, FEW_AXES)), sae.width // 2), FEW_GAIN * gain
        sae.start_at_axes(axes.directions[: max(axes.holding(config.axes_share), least)], gain=gain)
    _start_sparsifier(sae, first)
    if config.init in ("tied", "points"):
        sae.fit_gain(first)
        _start_sparsifier(sae, first)


def _mix_points(sae: SparseAutoencoder, archetypes: Archetypes, rows: Rows, order: Order, *, bound: float) -> None:
    number = len(archetypes.points)
    sample = Order(rows.height, sample_size(number, rows.height), order.seed).indices(0)
    inner = sae.normalise(torch.from_numpy(rows.take(sample)))
    archetypes.bound = bound
    points = centroids(inner, number, seed=order.seed)
    # free atoms have length 1 and learning rates are made for encoders that go with it; codes carry the size of rows
    archetypes.start(points / points.square().sum(dim=1).mean().sqrt(), seed=order.seed)
    sae.start_at_points(archetypes)


@torch.no_grad()
def _start_sparsifier(sae: SparseAutoencoder, inner: Float[Tensor, "rows width"]) -> None:
    if isinstance(sae.sparsifier, Starting):
        sae.sparsifier.start(sae.preactivate(inner))
    if isinstance(sae.sparsifier, Levelled) and sae.encoder_bias is not None:
        sae.encoder_bias.copy_(-sae.sparsifier.start_level(F.linear(inner, sae.encoder)))
