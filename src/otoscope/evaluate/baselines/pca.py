"""Principal components: the directions of most variance."""

import numpy as np
from jaxtyping import Float

from otoscope.evaluate.baselines.base import Encode, check_rows


def fit_pca(rows: Float[np.ndarray, "rows width"], /, *, latents: int, k: int, seed: int) -> Encode:
    """Return the scores on the principal components, strongest first: a rotation, dense and signed.

    As many components as width, rows and `latents` allow (Jolliffe, *Principal Component Analysis*,
    2002). Nothing is drawn at random; `k` and `seed` are not used.
    """
    del k, seed
    check_rows(rows)
    mean = rows.mean(axis=0, dtype=np.float64)
    centred = rows.astype(np.float64) - mean
    variance, directions = np.linalg.eigh(centred.T @ centred / len(rows))
    number = min(latents, rows.shape[1], len(rows) - 1)
    kept = directions[:, ::-1][:, :number]
    kept = kept * np.where(kept[np.abs(kept).argmax(axis=0), np.arange(number)] < 0, -1.0, 1.0)
    known = variance[::-1][:number] > 1e-12 * max(variance[-1], 1e-300)
    basis, origin = kept[:, known].astype(np.float32), (mean @ kept[:, known]).astype(np.float32)
    return lambda new: new.astype(np.float32, copy=False) @ basis - origin
