"""LASSO problems of many targets over one Gram matrix: what is asked, where each stands, how far from solved."""

from typing import NamedTuple

import numba
import numpy as np
from jaxtyping import Float, Int

from otoscope.linear import lasso_path


class LassoProblems(NamedTuple):
    """The problems: X'y/n, y'y/n and the penalty of each target; for sparse rows also y, over the root of n."""

    cross: Float[np.ndarray, "targets p"]
    square: Float[np.ndarray, " targets"]
    alpha: Float[np.ndarray, " targets"]
    values: Float[np.ndarray, "targets rows"]


class Iterate(NamedTuple):
    """Where each target stands, one a row: weights, and the slopes X'(y - Xw)/n there."""

    weights: Float[np.ndarray, "targets p"]
    slopes: Float[np.ndarray, "targets p"]


def slopes_at(
    gram: Float[np.ndarray, "p p"], cross: Float[np.ndarray, "targets p"], weights: Float[np.ndarray, "targets p"]
) -> Float[np.ndarray, "targets p"]:
    """Return X'(y - Xw)/n, of X'X/n and X'y/n."""
    return cross - weights @ gram


def duality_gaps(
    wanted: LassoProblems, point: Iterate, members: Int[np.ndarray, " members"]
) -> Float[np.ndarray, " members"]:
    """Return the relative duality gaps of some targets, over all features."""
    return _gaps(
        point.weights[members],
        wanted.cross[members],
        point.slopes[members],
        wanted.square[members],
        wanted.alpha[members],
    )


@numba.njit(cache=True, nogil=True)
def _gaps(
    weights: Float[np.ndarray, "targets p"],
    cross: Float[np.ndarray, "targets p"],
    slopes: Float[np.ndarray, "targets p"],
    square: Float[np.ndarray, " targets"],
    alpha: Float[np.ndarray, " targets"],
) -> Float[np.ndarray, " targets"]:
    gaps = np.empty(len(alpha))
    for t in range(len(alpha)):
        gaps[t] = lasso_path.relative_gap(weights[t], cross[t], slopes[t], square[t], alpha[t])
    return gaps
