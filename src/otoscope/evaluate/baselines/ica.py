"""Independent components: a rotation of the whitened rows to directions that are as far from normal as they can be."""

import warnings

import numpy as np
from jaxtyping import Float
from sklearn.decomposition import FastICA
from sklearn.exceptions import ConvergenceWarning

from otoscope.evaluate.baselines.base import Encode, check_rows

MOST_COMPONENTS = 128
"""Independent components looked for at most: beyond it the search takes minutes and no longer settles."""

ITERATIONS = 100


def fit_ica(rows: Float[np.ndarray, "rows width"], /, *, latents: int, k: int, seed: int) -> Encode:
    """Return the sources that FastICA finds (Hyvärinen and Oja, Neural Networks 13, 2000): dense and signed.

    The search may end unsettled after `ITERATIONS`; what it found by then is the baseline. `k` is not used.
    """
    del k
    check_rows(rows)
    number = min(latents, rows.shape[1], len(rows) - 1, MOST_COMPONENTS)
    model = FastICA(number, whiten="unit-variance", max_iter=ITERATIONS, tol=1e-3, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(rows.astype(np.float64))
    basis = np.asarray(model.components_, dtype=np.float64).T
    origin = np.asarray(model.mean_, dtype=np.float64) @ basis
    turned, shift = basis.astype(np.float32), origin.astype(np.float32)
    return lambda new: new.astype(np.float32, copy=False) @ turned - shift
