"""Cholesky factor of a Gram matrix on the features that carry weight, kept up to date as they change.

The factor G[order, order] = L L' stays valid up to the first feature that leaves. What follows is
factored again: rows that stay are moved up, new ones are appended, and only the block of the
features behind that place is decomposed. Features likely to leave should therefore stand last.
"""

from typing import NamedTuple

import numba
import numpy as np
from jaxtyping import Float, Int

from otoscope.evaluate.blas import cholesky, solve_rows, subtract_squares

DEPENDENT = 1e-10
"""A feature of which less than this share of variance is new beside those before it is left out of the factor."""


class Support(NamedTuple):
    """Room for a factor of at most `most` features; `size[0]` of them are in it."""

    factor: Float[np.ndarray, "most most"]
    order: Int[np.ndarray, " most"]
    size: Int[np.ndarray, " one"]


@numba.njit(cache=True, nogil=True)
def empty_support(most: int) -> Support:
    """Return room for `most` features, none in it."""
    return Support(np.empty((most, most)), np.zeros(most, dtype=np.int64), np.zeros(1, dtype=np.int64))


@numba.njit(cache=True, nogil=True)
def begin(
    routines: Int[np.ndarray, " routines"],
    gram: Float[np.ndarray, "p p"],
    weights: Float[np.ndarray, " p"],
    support: Support,
) -> None:
    """Factor the features that carry weight, the heaviest first: small weights are the next to vanish."""
    chosen = np.flatnonzero(weights)
    sizes = np.argsort(-np.abs(weights[chosen]), kind="mergesort")
    stop = min(len(chosen), len(support.order))
    for i in range(stop):
        support.order[i] = chosen[sizes[i]]
    _factor_tail(routines, gram, support, 0, stop)


@numba.njit(cache=True, nogil=True)
def update(
    routines: Int[np.ndarray, " routines"],
    gram: Float[np.ndarray, "p p"],
    weights: Float[np.ndarray, " p"],
    support: Support,
) -> None:
    """Bring the factor to the features that carry weight now."""
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
    stayed = stop
    for j in range(len(weights)):
        if weights[j] != 0.0 and not inside[j] and stop < len(order):
            order[stop] = j
            stop += 1
    if stop > stayed and solid > 0:
        _append(routines, gram, support, solid, stayed, stop)
    _factor_tail(routines, gram, support, solid, stop)


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
) -> None:
    """Decompose what stands behind the first `solid` features, leaving out what depends on those before it."""
    factor, order = support.factor, support.order
    while stop > solid:
        for i in range(solid, stop):
            row = gram[order[i]]
            for k in range(solid, i + 1):
                factor[i, k] = row[order[k]]
        if solid > 0:
            subtract_squares(routines, factor, solid, stop)
        bad = solid + cholesky(routines, factor, solid, stop - solid) - 1
        if bad < solid:
            bad = _dependent(gram, support, solid, stop)
            if bad < 0:
                break
        for i in range(bad, stop - 1):
            order[i] = order[i + 1]
            factor[i, :solid] = factor[i + 1, :solid]
        stop -= 1
    support.size[0] = stop


@numba.njit(cache=True, nogil=True)
def _dependent(gram: Float[np.ndarray, "p p"], support: Support, solid: int, stop: int) -> int:
    for i in range(solid, stop):
        pivot = support.factor[i, i]
        if pivot * pivot < DEPENDENT * gram[support.order[i], support.order[i]]:
            return i
    return -1


@numba.njit(cache=True, nogil=True)
def carries(weights: Float[np.ndarray, " p"], support: Support) -> bool:
    """Say whether every feature of the factor carries weight."""
    for i in range(support.size[0]):
        if weights[support.order[i]] == 0.0:
            return False
    return support.size[0] > 0
