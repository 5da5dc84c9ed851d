"""Initialisation of a run: atoms from the data or at random, encoder gain, thresholds."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from otoscope.sae.archetypal import Archetypes, centroids, sample_size
from otoscope.sae.config import TrainConfig
from otoscope.sae.data import RowSource, Shuffle
from otoscope.sae.model import SparseAutoencoder
from otoscope.sae.sparsifiers.base import BiasInitialised, DataInitialised
from otoscope.sae.statistics import RowStatistics

FEW_ROWS_PER_LATENT = 1 / 4
"""Rows per latent below which training hardly improves on held-out groups.

The initial state mostly remains best there, so it must be good: with twice as many signed axes as active latents, no
row is reconstructed worse than from the k leading components (docs/benchmarks.md)."""
FEW_AXES = 64
"""Maximum number of axes when 2k axes are used for few rows; a larger k uses k axes."""
FEW_GAIN = 0.1
"""Factor on the gain of further latents for few rows: unused places must not fill with noise."""


def initialise(
    sae: SparseAutoencoder, config: TrainConfig, rows: RowSource, shuffle: Shuffle, statistics: RowStatistics
) -> None:
    """Initialise a scaled model in place; `shuffle` selects the first batch and seeds random draws."""
    first = sae.normalise(torch.from_numpy(rows.take(shuffle.indices(0))))
    if sae.archetypes is not None:
        _initialise_archetypes(sae, sae.archetypes, rows, shuffle, bound=config.relaxation)
    at_axes = starts_at_axes(sae, config, rows.height)
    if at_axes:
        axes, k, gain = statistics.axes(config.scaling, centred=config.centred), sae.sparsifier.k, config.rest_gain
        # half of a large budget for axes as well: with few rows nothing else generalises as far
        least = k // 2
        if rows.height < FEW_ROWS_PER_LATENT * sae.latents:
            least, gain = min(max(k, min(2 * k, FEW_AXES)), sae.width // 2), FEW_GAIN * gain
        sae.initialise_at_axes(axes.directions[: max(axes.n_axes_for(config.axes_share), least)], gain=gain)
    _initialise_sparsifier(sae, first)
    if config.init != "linear" and not at_axes:
        sae.fit_gain(first)
        _initialise_sparsifier(sae, first)


def starts_at_axes(sae: SparseAutoencoder, config: TrainConfig, height: int) -> bool:
    """Return whether the first atoms are principal axes: `init="principal"` with few training rows.

    Many rows (`axes_rows_per_latent`) determine more atoms from a random start. Sparsifiers whose encoder bias sets the
    sparsity start tied in any case: such a bias silences all latents but the axes, and AuxK then finds only zeros to
    revive.
    """
    few = config.axes_rows_per_latent is None or height < config.axes_rows_per_latent * sae.latents
    return config.init == "principal" and few and not isinstance(sae.sparsifier, BiasInitialised)


def _initialise_archetypes(
    sae: SparseAutoencoder, archetypes: Archetypes, rows: RowSource, shuffle: Shuffle, *, bound: float
) -> None:
    number = len(archetypes.points)
    sample = Shuffle(rows.height, sample_size(number, rows.height), shuffle.seed).indices(0)
    inner = sae.normalise(torch.from_numpy(rows.take(sample)))
    archetypes.bound = bound
    points = centroids(inner, number, seed=shuffle.seed)
    # learning rates suit atoms of length 1; codes then have the size of rows
    archetypes.initialise(points / points.square().sum(dim=1).mean().sqrt(), seed=shuffle.seed)
    sae.initialise_at_points(archetypes)


@torch.no_grad()
def _initialise_sparsifier(sae: SparseAutoencoder, inner: Float[Tensor, "rows width"]) -> None:
    if isinstance(sae.sparsifier, DataInitialised):
        sae.sparsifier.initialise(sae.preactivate(inner))
    if isinstance(sae.sparsifier, BiasInitialised) and sae.encoder_bias is not None:
        sae.encoder_bias.copy_(-sae.sparsifier.initial_threshold(F.linear(inner, sae.encoder)))
