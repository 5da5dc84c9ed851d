"""Where training begins: atoms from the data or at random, an encoder of the right size, first thresholds."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from otoscope.sae.archetypal import Archetypes, centroids, sample_size
from otoscope.sae.model import SparseAutoencoder
from otoscope.sae.moments import Moments
from otoscope.sae.presets import TrainConfig
from otoscope.sae.rows import Order, Rows
from otoscope.sae.sparsifiers import Levelled, Starting


def start(sae: SparseAutoencoder, config: TrainConfig, rows: Rows, order: Order, moments: Moments) -> None:
    """Move a scaled model to where the recipe begins; `order` says which rows come first, and seeds what is drawn."""
    first = sae.normalise(torch.from_numpy(rows.take(order.indices(0))))
    if sae.archetypes is not None:
        _mix_points(sae, sae.archetypes, rows, order, bound=config.relaxation)
    if config.init == "principal":
        axes = moments.axes(config.scaling, centred=config.centred)
        # half of a generous budget for axes as well: from few rows nothing else is learned that generalises as far
        number = max(axes.holding(config.axes_share), sae.sparsifier.k // 2)
        sae.start_at_axes(axes.directions[:number], gain=config.rest_gain)
    _start_sparsifier(sae, first)
    if config.init in ("tied", "points"):
        sae.fit_gain(first)
        _start_sparsifier(sae, first)


def _mix_points(sae: SparseAutoencoder, archetypes: Archetypes, rows: Rows, order: Order, *, bound: float) -> None:
    number = len(archetypes.points)
    sample = Order(rows.height, sample_size(number, rows.height), order.seed).indices(0)
    inner = sae.normalise(torch.from_numpy(rows.take(sample)))
    archetypes.bound = bound
    archetypes.start(centroids(inner, number, seed=order.seed), seed=order.seed)
    sae.start_at_points(archetypes)


@torch.no_grad()
def _start_sparsifier(sae: SparseAutoencoder, inner: Float[Tensor, "rows width"]) -> None:
    if isinstance(sae.sparsifier, Starting):
        sae.sparsifier.start(sae.preactivate(inner))
    if isinstance(sae.sparsifier, Levelled) and sae.encoder_bias is not None:
        sae.encoder_bias.copy_(-sae.sparsifier.start_level(F.linear(inner, sae.encoder)))
