"""Cholesky factor of a Gram matrix on the features that carry weight, kept up to date as they change.

The factor G[order, order] = L L' stays valid up to the first feature that leaves. What follows is
factored again: rows that stay are moved up, new ones are appended, and only the block of the
features behind that place is decomposed. Features likely to leave should therefore stand last.
Sparse codes hold many features that others determine (latents that fire on the same single row):
the factor ends before the first such feature and names it.
"""

from typing import NamedTuple

import numba
import numpy as np
from jaxtyping import Float, Int

from otoscope.evaluate.blas import cholesky, solve_rows, subtract_squares

DEPENDENT = 1e-10
"""Share of a feature's variance that must be new beside the features before it."""
NONE = -1
"""No feature."""


class Support(NamedTuple):
    """Room for a factor of at most `most` features; `size[0]` of them are in it."""

    factor: Float[np.ndarray, "most most"]
    order: Int[np.ndarray, " most"]
    size: Int[np.ndarray, " one"]


@numba.njit(cache=True, nogil=True)
def empty_support(most: int) -> Support:
    """Return room for `most` features, none in it; more than `most` must determine each other."""
    return Support(np.empty((most, most)), np.zeros(most, dtype=np.int64), np.zeros(1, dtype=np.int64))


@numba.njit(cache=True, nogil=True)
def update(
    routines: Int[np.ndarray, " routines"],
    gram: Float[np.ndarray, "p p"],
    weights: Float[np.ndarray, " p"],
    support: Support,
) -> int:
    """Bring the factor to the features that carry weight now.

    An empty factor begins with the heaviest features: small weights are the next to vanish. Returns
    a feature that those before it determine, at which the factor ends, or one for which there is no
    room, or NONE.
    """
    if support.size[0] == 0:
        chosen = np.flatnonzero(weights)
        heaviest = chosen[np.argsort(-np.abs(weights[chosen]), kind="mergesort")]
        stop = min(len(chosen), len(support.order))
        support.order[:stop] = heaviest[:stop]
        determined = _factor_tail(routines, gram, support, 0, stop)
        return heaviest[stop] if determined == NONE and stop < len(heaviest) else determined
    factor, order, size = support.factor, support.order, support.size[0]
    inside = np.zeros(len(weights), dtype=np.bool_)
    solid = 0
    while solid < size and weights[order[solid]] != 0.0:
        inside[order[solid]] = True
        solid += 1
    stop = solid
    for i in range(solid, size):
        if weights[order[i]] != 0.0:
            if stop != i:
                factor[stop, :solid] = factor[i, :solid]
            order[stop] = order[i]
            inside[order[i]] = True
            stop += 1
    stayed, beyond = stop, NONE
    for j in range(len(weights)):
        if weights[j] != 0.0 and not inside[j]:
            if stop == len(order):
                beyond = j
                break
            order[stop] = j
            stop += 1
    if stop > stayed and solid > 0:
        _append(routines, gram, support, solid, stayed, stop)
    determined = _factor_tail(routines, gram, support, solid, stop)
    return beyond if determined == NONE else determined


@numba.njit(cache=True, nogil=True)
def _append(
    routines: Int[np.ndarray, " routines"],
    gram: Float[np.ndarray, "p p"],
    support: Support,
    solid: int,
    stayed: int,
    stop: int,
) -> None:
    """Fill the first `solid` columns of the new rows."""
    factor, order = support.factor, support.order
    for i in range(stayed, stop):
        row = gram[order[i]]
        for k in range(solid):
            factor[i, k] = row[order[k]]
    solve_rows(routines, factor, solid, stayed, stop)


@numba.njit(cache=True, nogil=True)
def _factor_tail(
    routines: Int[np.ndarray, " routines"], gram: Float[np.ndarray, "p p"], support: Support, solid: int, stop: int
) -> int:
    """Decompose what stands behind the first `solid` features."""
    factor, order = support.factor, support.order
    support.size[0] = stop
    if stop == solid:
        return NONE
    for i in range(solid, stop):
        row = gram[order[i]]
        for k in range(solid, i + 1):
            factor[i, k] = row[order[k]]
    if solid > 0:
        subtract_squares(routines, factor, solid, stop)
    failed = cholesky(routines, factor, solid, stop - solid)
    whole = stop if failed == 0 else solid + failed - 1
    for i in range(solid, whole):
        if factor[i, i] ** 2 < DEPENDENT * gram[order[i], order[i]]:
            whole = i
            break
    support.size[0] = whole
    return order[whole] if whole < stop else NONE


@numba.njit(cache=True, nogil=True)
def carries(weights: Float[np.ndarray, " p"], support: Support) -> bool:
    """Say whether every feature of the factor carries weight."""
    for i in range(support.size[0]):
        if weights[support.order[i]] == 0.0:
            return False
    return support.size[0] > 0
