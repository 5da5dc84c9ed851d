"""Reconstruction figures of rows that fit in memory."""

from jaxtyping import Float, Shaped
from numpy import ndarray

from otoscope.metrics.reconstruction import Reconstruction, ReconstructionMeter


def measure_reconstruction(
    rows: Float[ndarray, "rows width"],
    reconstructed: Float[ndarray, "rows width"],
    codes: Float[ndarray, "rows latents"],
    groups: Shaped[ndarray, " rows"],
    *,
    mean_train: Float[ndarray, " width"],
) -> Reconstruction:
    """Return the figures of one batch."""
    meter = ReconstructionMeter(mean_train)
    meter.update(rows, reconstructed, codes, groups)
    return meter.result()
