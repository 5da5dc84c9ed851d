"""State of a batched LASSO: problems, iterates, duality gaps."""

from typing import NamedTuple

import numba
import numpy as np
from jaxtyping import Float, Int

from otoscope.linear import lasso_path


class LassoProblems(NamedTuple):
    """Problems per target: X'y/n, y'y/n, the penalty, and y / sqrt(n) for sparse columns."""

    cross: Float[np.ndarray, "targets p"]
    square: Float[np.ndarray, " targets"]
    alpha: Float[np.ndarray, " targets"]
    values: Float[np.ndarray, "targets rows"]


class Iterate(NamedTuple):
    """Weights per target and their slopes X'(y - Xw)/n."""

    weights: Float[np.ndarray, "targets p"]
    slopes: Float[np.ndarray, "targets p"]


def slopes_at(
    gram: Float[np.ndarray, "p p"], cross: Float[np.ndarray, "targets p"], weights: Float[np.ndarray, "targets p"]
) -> Float[np.ndarray, "targets p"]:
    """Return X'(y - Xw)/n from X'X/n and X'y/n."""
    return cross - weights @ gram


def duality_gaps(
    problems: LassoProblems, point: Iterate, members: Int[np.ndarray, " members"]
) -> Float[np.ndarray, " members"]:
    """Return the relative duality gaps of `members`, over all features."""
    return _gaps(
        point.weights[members],
        problems.cross[members],
        point.slopes[members],
        problems.square[members],
        problems.alpha[members],
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
