"""Greedy choice of a few columns for many targets at once, from products of columns alone."""

import numpy as np
from jaxtyping import Float, Int

CHUNK = 32


def pursue(
    gram: Float[np.ndarray, "p p"],
    cross: Float[np.ndarray, "p targets"],
    *,
    size: int,
    ridge: float = 1e-3,
) -> Int[np.ndarray, "targets size"]:
    """Return the columns that orthogonal matching pursuit takes for each target, in order.

    In each step the column with the largest absolute product with what is left of the target joins,
    and all weights are fitted again (Pati et al., Asilomar 1993; from products only, as Rubinstein
    et al., Technion CS-2008-08), with `ridge` on the diagonal so that duplicated columns do no harm.

    Args:
        gram: X'X/n of standardised columns.
        cross: X'Y/n.
        size: how many columns to take, at most p.
        ridge: added to the diagonal of the fits.

    Ties go to the first column.
    """
    chosen = np.empty((cross.shape[1], size), dtype=np.int64)
    for begin in range(0, cross.shape[1], CHUNK):
        chosen[begin : begin + CHUNK] = _pursue(gram, cross[:, begin : begin + CHUNK].T, size, ridge)
    return chosen


def _pursue(
    gram: Float[np.ndarray, "p p"], cross: Float[np.ndarray, "targets p"], size: int, ridge: float
) -> Int[np.ndarray, "targets size"]:
    targets = np.arange(len(cross))
    chosen = np.empty((len(cross), size), dtype=np.int64)
    # row k: products of every column with the k-th taken one, made orthogonal to those before it
    turned = np.empty((len(cross), size, len(gram)))
    left = cross.astype(np.float64).copy()
    free = np.ones(cross.shape, dtype=bool)
    for step in range(size):
        best = np.where(free, np.abs(left), -1.0).argmax(axis=1)
        chosen[:, step] = best
        free[targets, best] = False
        # Gram-Schmidt on products: what the new column adds beyond those taken
        so_far = turned[targets, :step, best]
        fresh = gram[best] - (so_far[:, None] @ turned[:, :step])[:, 0]
        length = np.sqrt(np.maximum(fresh[targets, best] + ridge, ridge))
        fresh /= length[:, None]
        turned[:, step] = fresh
        left -= (left[targets, best] / length)[:, None] * fresh
    return chosen
