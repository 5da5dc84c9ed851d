"""Erasure of a concept from a layer, and the effect of erasing each concept on the readout of every other."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from otoscope.errors import EvaluationError


class Eraser(NamedTuple):
    r"""Affine map $x - L R (x - \mu)$ of frames."""

    centre: Float[np.ndarray, " width"]
    left: Float[np.ndarray, "width rank"]
    right: Float[np.ndarray, "rank width"]

    def __call__(self, rows: Float[Tensor, "frames width"]) -> Float[Tensor, "frames width"]:
        """Return the frames without the concept."""
        centre, left, right = (torch.from_numpy(a).to(rows) for a in self)
        return rows - (rows - centre) @ right.T @ left.T

    def shift(self, rows: Float[Tensor, "frames width"]) -> Float[Tensor, "frames width"]:
        """Return the difference that erasing makes."""
        return self(rows) - rows


def leace(rows: Float[np.ndarray, "rows width"], values: Float[np.ndarray, "rows columns"]) -> Eraser:
    r"""Return the least change of rows after which they do not correlate with the values (LEACE).

    With $W = \Sigma_{xx}^{-1/2}$ (pseudo-inverse) and $P$ the orthogonal projection on the columns of
    $W \Sigma_{xz}$, it is $x - W^+ P W (x - \mu)$ (Belrose et al., arXiv 2306.03819, theorem 4.2): no linear readout
    fitted by least squares predicts the values any more. Raises `EvaluationError` if no row varies with the values.

    >>> rng = np.random.default_rng(0)
    >>> z = rng.normal(size=(500, 1))
    >>> x = np.concatenate([z + rng.normal(size=(500, 1)), rng.normal(size=(500, 1))], axis=1)
    >>> erased = leace(x, z)(torch.from_numpy(x)).numpy()
    >>> bool(abs(np.corrcoef(erased[:, 0], z[:, 0])[0, 1]) < 1e-5)
    True
    """
    known = np.isfinite(values).all(axis=1)
    x, z = rows[known].astype(np.float64), values[known].astype(np.float64)
    centre = x.mean(axis=0)
    x, z = x - centre, z - z.mean(axis=0)
    variance, axes = np.linalg.eigh(x.T @ x / len(x))
    kept = variance > 1e-9 * max(float(variance.max(initial=0.0)), 1e-300)
    axes, deviation = axes[:, kept], np.sqrt(variance[kept])
    whiten, unwhiten = axes / deviation @ axes.T, axes * deviation @ axes.T
    vectors, sizes, _ = np.linalg.svd(whiten @ (x.T @ z / len(x)), full_matrices=False)
    vectors = vectors[:, sizes > 1e-7 * max(float(sizes.max(initial=0.0)), 1e-300)]
    if not vectors.shape[1] or not sizes.max(initial=0.0) > 0:
        raise EvaluationError("the rows do not vary with the values; there is nothing to erase")
    return Eraser(centre, unwhiten @ vectors, vectors.T @ whiten)
