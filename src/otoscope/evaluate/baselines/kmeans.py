"""Clusters: each row becomes its nearest centroid, the sparsest code there is."""

from typing import Any

import numpy as np
from jaxtyping import Float
from sklearn.cluster import MiniBatchKMeans

from otoscope.evaluate.baselines.base import Encode, check_rows


def fit_kmeans(rows: Float[np.ndarray, "rows width"], /, *, latents: int, k: int, seed: int) -> Encode:
    """Return one-hot membership of `latents` clusters (Lloyd 1982, in mini-batches: Sculley, WWW 2010).

    At most half as many clusters as rows; pooled over a clip's frames, the code is a histogram of
    audio words. `k` is not used: one cluster is active.
    """
    del k
    check_rows(rows)
    number = max(min(latents, len(rows) // 2), 1)
    # scikit-learn declares the types of these settings wrongly
    settings: dict[str, Any] = {"n_init": 1, "batch_size": 2048, "max_iter": 20, "random_state": seed}
    model = MiniBatchKMeans(number, init="random", **settings)
    model.fit(rows.astype(np.float32, copy=False))

    def encode(new: Float[np.ndarray, "rows width"]) -> Float[np.ndarray, "rows latents"]:
        codes = np.zeros((len(new), number), dtype=np.float32)
        codes[np.arange(len(new)), model.predict(new.astype(np.float32, copy=False))] = 1
        return codes

    return encode
