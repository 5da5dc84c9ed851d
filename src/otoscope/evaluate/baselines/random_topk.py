"""A dictionary that learned nothing: random directions, the k strongest kept."""

import numpy as np
from jaxtyping import Float

from otoscope.evaluate.baselines.base import Encode, check_rows
from otoscope.resampling.nulls import random_dictionary


def fit_random_topk(rows: Float[np.ndarray, "rows width"], /, *, latents: int, k: int, seed: int) -> Encode:
    """Return the k largest positive projections on `latents` random unit directions, the others 0.

    Only the mean of the training rows is learned: rows are centred by it.
    """
    check_rows(rows)
    directions = random_dictionary(latents, rows.shape[1], seed=seed)
    mean = rows.mean(axis=0, dtype=np.float64).astype(np.float32)

    def encode(new: Float[np.ndarray, "rows width"]) -> Float[np.ndarray, "rows latents"]:
        codes = np.maximum((new.astype(np.float32, copy=False) - mean) @ directions.T, 0)
        if k < latents:
            weak = np.argpartition(codes, latents - k, axis=1)[:, : latents - k]
            np.put_along_axis(codes, weak, 0, axis=1)
        return codes

    return encode
