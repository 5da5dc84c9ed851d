"""Non-negative parts: rows, shifted to be non-negative, as sums of non-negative atoms."""

from typing import Any

import numpy as np
from jaxtyping import Float
from sklearn.decomposition import NMF

from otoscope.evaluate.baselines.base import Encode, check_rows
from otoscope.evaluate.baselines.ica import MOST_COMPONENTS

ITERATIONS = 100
"""Updates, of the fit and of each later code: always so many, so that a code does not depend on its neighbours."""


def fit_nmf(rows: Float[np.ndarray, "rows width"], /, *, latents: int, k: int, seed: int) -> Encode:
    """Return the weights of the parts that non-negative matrix factorisation finds (Lee and Seung, Nature 401, 1999).

    Activations have either sign: each dimension is shifted by its smallest training value first,
    and what other rows have below that counts as 0. Multiplicative updates, started by singular
    vectors; `k` is not used.
    """
    del k
    check_rows(rows)
    least = rows.min(axis=0)
    number = min(latents, rows.shape[1], len(rows), MOST_COMPONENTS)
    # scikit-learn declares the type of the number wrongly
    size: dict[str, Any] = {"n_components": number}
    model = NMF(**size, init="nndsvda", solver="mu", max_iter=ITERATIONS, tol=0, random_state=seed)
    model.fit(_shifted(rows, least))

    def encode(new: Float[np.ndarray, "rows width"]) -> Float[np.ndarray, "rows latents"]:
        return np.asarray(model.transform(_shifted(new, least)), dtype=np.float32)

    return encode


def _shifted(rows: Float[np.ndarray, "rows width"], least: Float[np.ndarray, " width"]) -> np.ndarray:
    return np.maximum(rows.astype(np.float32, copy=False) - least, 0)
