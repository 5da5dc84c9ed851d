"""The real codes, dealt out to the wrong rows."""

import numpy as np
from jaxtyping import Float

from otoscope.resampling.nulls import permute_rows


def permuted(codes: Float[np.ndarray, "rows latents"], *, seed: int) -> Float[np.ndarray, "rows latents"]:
    """Return the codes with their rows in random order: every tie among latents kept, every tie to targets gone."""
    return permute_rows(codes, seed=seed)
