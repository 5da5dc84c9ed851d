"""Walks of a LASSO's weights on the features that carry weight: along the path, to the Newton point, off a copy.

Each walk moves many weights at once by means of the factor of `support`, and none raises the objective
but the one along the path, which is for the penalty to come. See `otoscope.evaluate.descent`.
"""

from typing import NamedTuple

import numba
import numpy as np
from jaxtyping import Float, Int

from otoscope.evaluate.blas import solve
from otoscope.evaluate.support import Support, carries

ROUNDING = 1e-13
"""How far a slope must exceed the penalty to let a feature in: a copy of a feature with weight sits at the penalty."""


class State(NamedTuple):
    """Where a path stands; `slope` is c - Gw."""

    weights: Float[np.ndarray, " p"]
    slope: Float[np.ndarray, " p"]
    support: Support


@numba.njit(cache=True, nogil=True)
def follow(routines: Int[np.ndarray, " routines"], gram: Float[np.ndarray, "p p"], fall: float, state: State) -> None:
    """Move along the path as the penalty falls; a weight that would cross zero stops there."""
    weights, support = state.weights, state.support
    if not carries(weights, support):
        return
    chosen = support.order[: support.size[0]]
    step = np.sign(weights[chosen])
    solve(routines, support.factor, len(chosen), step)
    for i in range(len(chosen)):
        old = weights[chosen[i]]
        new = old + fall * step[i]
        weights[chosen[i]] = new if new * old > 0.0 else 0.0
        step[i] = weights[chosen[i]] - old
    subtract_rows(gram, chosen, step, state.slope)


@numba.njit(cache=True, nogil=True)
def shed(routines: Int[np.ndarray, " routines"], gram: Float[np.ndarray, "p p"], feature: int, state: State) -> None:
    """Trade the weight of a feature against those that determine it, which changes no prediction, until one is free.

    The sum of absolute weights is linear on the way and does not rise.
    """
    weights, support = state.weights, state.support
    chosen = np.append(support.order[: support.size[0]], feature)
    trade = gram[feature][chosen]
    solve(routines, support.factor, support.size[0], trade)
    trade[-1] = -1.0
    if weights[feature] < 0.0:
        trade *= -1.0
    # rounding must not turn the walk away from the end that is sure to come: the feature's own zero
    if (trade * np.sign(weights[chosen])).sum() > ROUNDING:
        trade *= -1.0
    first, length = len(chosen) - 1, np.inf
    for i in range(len(chosen)):
        if weights[chosen[i]] * trade[i] < 0.0 and -weights[chosen[i]] / trade[i] < length:
            first, length = i, -weights[chosen[i]] / trade[i]
    if length == np.inf:
        trade[:], length = 0.0, 0.0
    trade *= length
    trade[first] = -weights[chosen[first]]
    for i in range(len(chosen)):
        weights[chosen[i]] += trade[i]
    weights[chosen[first]] = 0.0
    subtract_rows(gram, chosen, trade, state.slope)


@numba.njit(cache=True, nogil=True)
def newton(routines: Int[np.ndarray, " routines"], gram: Float[np.ndarray, "p p"], alpha: float, state: State) -> None:
    """Step towards the minimum on the features of the factor with their signs kept, as far as the objective falls.

    The walk bends where a weight reaches zero: it goes on without that feature. Between bends the
    objective is a parabola, so its minimum along the whole walk is found exactly.
    """
    weights, slope, support = state.weights, state.slope, state.support
    chosen = support.order[: support.size[0]]
    signs = np.sign(weights[chosen])
    step = slope[chosen] - alpha * signs
    solve(routines, support.factor, len(chosen), step)
    curve = np.zeros(len(slope))
    subtract_rows(gram, chosen, -step, curve)
    ends = np.full(len(chosen), np.inf)
    for i in range(len(chosen)):
        if (weights[chosen[i]] + step[i]) * weights[chosen[i]] <= 0.0:
            ends[i] = -weights[chosen[i]] / step[i]
    bends = np.argsort(ends)
    here = 0.0
    for b in range(len(chosen) + 1):
        descent, bow = 0.0, 0.0
        for i in range(len(chosen)):
            descent += step[i] * (slope[chosen[i]] - alpha * signs[i])
            bow += step[i] * curve[chosen[i]]
        if descent <= 0.0 or bow <= 0.0:
            return
        end = min(ends[bends[b]], 1.0) if b < len(chosen) else 1.0
        least = here + descent / bow
        length = min(least, end) - here
        for i in range(len(chosen)):
            weights[chosen[i]] += length * step[i]
        for i in range(len(slope)):
            slope[i] -= length * curve[i]
        here += length
        if least <= end or end == 1.0:
            return
        leaving = bends[b]
        gone, pace = weights[chosen[leaving]], step[leaving]
        weights[chosen[leaving]], step[leaving] = 0.0, 0.0
        row = gram[chosen[leaving]]
        for i in range(len(slope)):
            slope[i] += gone * row[i]
            curve[i] -= pace * row[i]


@numba.njit(cache=True, nogil=True, fastmath=True)
def subtract_rows(
    gram: Float[np.ndarray, "p p"],
    chosen: Int[np.ndarray, " chosen"],
    steps: Float[np.ndarray, " chosen"],
    slope: Float[np.ndarray, " p"],
) -> None:
    """Subtract from the slope what weights that grew by `steps` explain."""
    for a in range(len(chosen)):
        step = steps[a]
        if step != 0.0:
            row = gram[chosen[a]]
            for i in range(len(slope)):
                slope[i] -= step * row[i]
