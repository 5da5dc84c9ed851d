"""Baselines by name."""

from typing import Protocol

import numpy as np
from jaxtyping import Float

from otoscope.errors import EvaluationError, suggest
from otoscope.evaluate.baselines.base import Fit
from otoscope.evaluate.baselines.ica import fit_ica
from otoscope.evaluate.baselines.kmeans import fit_kmeans
from otoscope.evaluate.baselines.nmf import fit_nmf
from otoscope.evaluate.baselines.pca import fit_pca
from otoscope.evaluate.baselines.permuted import permuted
from otoscope.evaluate.baselines.random_codes import random_codes
from otoscope.evaluate.baselines.random_topk import fit_random_topk

FITTED: dict[str, Fit] = {
    "pca": fit_pca,
    "ica": fit_ica,
    "nmf": fit_nmf,
    "kmeans": fit_kmeans,
    "random_topk": fit_random_topk,
}
"""Codes that are learned from the training rows of a layer."""


class OfCodes(Protocol):
    """Makes codes that know nothing out of a dictionary's."""

    def __call__(self, codes: Float[np.ndarray, "rows latents"], /, *, seed: int) -> Float[np.ndarray, "rows latents"]:
        """Return other codes of the same shape."""
        ...


OF_CODES: dict[str, OfCodes] = {"random_codes": random_codes, "permuted": permuted}
"""Codes that are made from a dictionary's own."""


def find_fitted(name: str) -> Fit:
    """Return a baseline by name; raise `EvaluationError` with the nearest name if there is none."""
    if name not in FITTED:
        raise EvaluationError(f"no baseline {name!r}; {suggest(name, FITTED)}")
    return FITTED[name]
