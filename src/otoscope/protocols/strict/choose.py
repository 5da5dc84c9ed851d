"""Layer and sparsity, chosen on groups that the fits left out; test groups are never asked."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Held(NamedTuple):
    """What one representation reads of fitted groups that were left out: R2 of factors, scores of tasks."""

    factors: Float[np.ndarray, " factors"]
    tasks: Float[np.ndarray, " tasks"]

    @property
    def scores(self) -> Float[np.ndarray, " asked"]:
        """One score a question, at least 0: the factors, or the tasks where there are no factors."""
        asked = self.factors if len(self.factors) else self.tasks
        return np.nan_to_num(np.maximum(asked, 0))


def best_layer(found: Mapping[int, Held]) -> int:
    """Return the layer whose dense activations read most on average; the lowest of equals.

    >>> best_layer({1: Held(np.array([0.2, 0.4]), np.array([])), 2: Held(np.array([0.5, 0.3]), np.array([]))})
    2
    """
    return max(sorted(found), key=lambda layer: float(found[layer].scores.mean()))


def sparsest_good(found: Mapping[float, Held], *, independent: float) -> float:
    """Return the highest sparsity that reads as much as the best one, up to one standard error.

    The error is that of the mean difference to the best sparsity over the questions asked, of which
    only `independent` count as such (the effective rank of the factors): the one-standard-error rule
    (Breiman et al. 1984; Hastie, Tibshirani and Friedman 2009, section 7.10).
    """
    mean = {sparsity: float(held.scores.mean()) for sparsity, held in found.items()}
    best = max(sorted(found, reverse=True), key=lambda sparsity: mean[sparsity])

    def loses(sparsity: float) -> bool:
        lost = found[best].scores - found[sparsity].scores
        error = lost.std(ddof=1) / np.sqrt(max(independent, 1.0)) if len(lost) > 1 else 0.0
        return bool(lost.mean() > error)

    return max(sparsity for sparsity in found if not loses(sparsity))
