"""ADMM (alternating direction method of multipliers) for the LASSO of many targets at once.

Used where a factorisation per target would take long. With weights z, slopes y within the penalty and a weight rho on
their agreement (Boyd et al., Foundations and Trends in Machine Learning 3(1), 2011, 6.4),

    x = (G + rho I)^-1 (c - y + rho z),   v = 1.7 x - 0.7 z + y/rho,   z = soft(v, alpha/rho),   y = rho (v - z)

so that one inverse serves all targets, penalties and active sets, and an iteration of all targets is one matrix
product. Products are in single precision and are taken of differences from an anchor, a point with slopes in double
precision; they vanish at the anchor, so the solution keeps double precision. After every `ITERATIONS_PER_ANCHOR`
iterations the point becomes the anchor, and convergence is checked by its duality gap in double precision over all
features. rho is a power of `RHO_RATIO`, chosen so that slopes and weights converge equally fast, from their changes
between the last two penalties (as spectral step sizes; Xu, Figueiredo and Goldstein, AISTATS 2017).
"""

import threading
from typing import NamedTuple

import numba
import numpy as np
from jaxtyping import Float, Float32, Int

from otoscope.linear.lasso_path import relative_gap

ITERATIONS_PER_ANCHOR = 10
"""Iterations between two anchors."""
MAX_ANCHORS = 20
"""Maximum number of anchors per penalty."""
PATIENCE = 5
"""Anchors between checks that abandon a target if its gap, extrapolated to `MAX_ANCHORS`, stays too large."""
RHO_RATIO = 2.5
"""Ratio of neighbouring values of rho."""
MAX_RHO_POWER, MIN_RHO_POWER = 1, -9
"""Largest and smallest power: rho is `RHO_RATIO` to that power."""
SHARE, POWER = 0.5, 0.9
"""rho is `SHARE` times (change of slopes over change of weights along the path) to this power (measured)."""
RELAXATION = 1.7
"""Over-relaxation factor."""


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
        gaps[t] = relative_gap(weights[t], cross[t], slopes[t], square[t], alpha[t])
    return gaps


class AdmmSolver:
    """ADMM for targets that share a Gram matrix; caches one inverse per rho."""

    def __init__(self, gram: Float[np.ndarray, "p p"]) -> None:
        """Set up from X'X/n."""
        self.gram = gram
        self._inverses: dict[int, Float32[np.ndarray, "p p"]] = {}
        self._lock = threading.Lock()

    def solve(
        self,
        problems: LassoProblems,
        point: Iterate,
        gaps: Float[np.ndarray, " targets"],
        open_targets: Int[np.ndarray, " open_targets"],
        rho_power: Int[np.ndarray, " targets"],
        tolerance: float,
    ) -> None:
        """Improve the targets `open_targets` in place, each with its own power of rho.

        A target whose gap falls too slowly to reach `tolerance` within `MAX_ANCHORS` anchors is abandoned early.
        """
        duals = np.clip(point.slopes, -problems.alpha[:, None], problems.alpha[:, None])
        past = gaps.copy()
        for anchor_number in range(1, MAX_ANCHORS + 1):
            if not len(open_targets):
                return
            for power in np.unique(rho_power[open_targets]):
                members = open_targets[rho_power[open_targets] == power]
                anchor = Iterate(point.weights[members], point.slopes[members])
                moved = self._iterate(int(power), anchor, duals[members], problems.alpha[members])
                point.weights[members], duals[members] = moved
            point.slopes[open_targets] = slopes_at(self.gram, problems.cross[open_targets], point.weights[open_targets])
            gaps[open_targets] = duality_gaps(problems, point, open_targets)
            open_targets = open_targets[gaps[open_targets] > tolerance]
            if anchor_number % PATIENCE == 0:
                reached = gaps[open_targets] * (gaps[open_targets] / past[open_targets]) ** (
                    MAX_ANCHORS / PATIENCE - anchor_number / PATIENCE
                )
                past[open_targets] = gaps[open_targets]
                open_targets = open_targets[reached <= tolerance]

    def _iterate(
        self, power: int, anchor: Iterate, duals: Float[np.ndarray, "members p"], alpha: Float[np.ndarray, " members"]
    ) -> Iterate:
        """Return weights and duals after `ITERATIONS_PER_ANCHOR` iterations."""
        rho, inverse = RHO_RATIO**power, self._inverse(power)
        weights = anchor.weights.copy()
        right = (anchor.slopes - duals).astype(np.float32)
        for _ in range(ITERATIONS_PER_ANCHOR):
            _relax(right @ inverse, anchor.weights, anchor.slopes, weights, duals, alpha, rho, right)
        return Iterate(weights, duals)

    def _inverse(self, power: int) -> Float32[np.ndarray, "p p"]:
        """Return (G + rho I)^-1."""
        with self._lock:
            if power not in self._inverses:
                shifted = self.gram.copy()
                shifted.flat[:: len(shifted) + 1] += RHO_RATIO**power
                self._inverses[power] = np.linalg.inv(shifted).astype(np.float32)
            return self._inverses[power]


def choose_rho_powers(current: Iterate, previous: Iterate) -> Int[np.ndarray, " targets"]:
    """Return the power of rho per target from the change of its slopes over the change of its weights."""
    rise = np.linalg.norm(current.slopes - previous.slopes, axis=1)
    run = np.linalg.norm(current.weights - previous.weights, axis=1)
    bend = np.where((rise > 0) & (run > 0), rise / np.where(run > 0, run, 1), 1)
    return np.clip(np.round(np.log(SHARE * bend**POWER) / np.log(RHO_RATIO)), MIN_RHO_POWER, MAX_RHO_POWER).astype(
        np.int64
    )


@numba.njit(cache=True, nogil=True, fastmath=True)
def _relax(
    step: Float32[np.ndarray, "members p"],
    anchor: Float[np.ndarray, "members p"],
    slopes: Float[np.ndarray, "members p"],
    weights: Float[np.ndarray, "members p"],
    duals: Float[np.ndarray, "members p"],
    alpha: Float[np.ndarray, " members"],
    rho: float,
    right: Float32[np.ndarray, "members p"],
) -> None:
    """Update weights, duals and the next right-hand side, in place."""
    for t in range(len(alpha)):
        cut = alpha[t] / rho
        for j in range(weights.shape[1]):
            old = weights[t, j]
            x = anchor[t, j] + step[t, j]
            v = RELAXATION * x - (RELAXATION - 1) * old + duals[t, j] / rho
            new = max(v - cut, 0.0) + min(v + cut, 0.0)
            dual = rho * (v - new)
            weights[t, j] = new
            duals[t, j] = dual
            right[t, j] = slopes[t, j] - dual + rho * (new - anchor[t, j])
