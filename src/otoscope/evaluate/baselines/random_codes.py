"""Codes as sparse as the real ones that know nothing of the rows."""

import numpy as np
from jaxtyping import Float

from otoscope.resampling.nulls import random_sparse_codes


def random_codes(codes: Float[np.ndarray, "rows latents"], *, seed: int) -> Float[np.ndarray, "rows latents"]:
    """Return random codes with each row's L0 and each latent's values kept; see `random_sparse_codes`."""
    return random_sparse_codes(codes, seed=seed)
