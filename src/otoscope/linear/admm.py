"""LASSO for many targets at once by alternating directions, where a factorisation for each would take long.

With weights z, slopes y within the penalty and a weight rho on their agreement (Boyd et al., Foundations
and Trends in Machine Learning 3(1), 2011, 6.4),

    x = (G + rho I)^-1 (c - y + rho z),   v = 1.7 x - 0.7 z + y/rho,   z = soft(v, alpha/rho),   y = rho (v - z)

so that one inverse serves every target, penalty and support, and a turn of all targets is one product
of matrices. Products are taken in single precision and are of differences from an anchor, a point whose
slopes are known in double precision; at the anchor they vanish, so the solution is not blurred. After
every `ITERATIONS_PER_ANCHOR` turns the point becomes the anchor and its duality gap, in double precision over all
features, says whether it counts. rho comes from a ladder: slopes and weights should settle equally fast,
and what they changed by between the last two penalties tells (the idea of spectral steps; Xu, Figueiredo
and Goldstein, AISTATS 2017).
"""

import threading

import numba
import numpy as np
from jaxtyping import Float, Float32, Int

from otoscope.linear.lasso_problem import Iterate, LassoProblems, duality_gaps, slopes_at

ITERATIONS_PER_ANCHOR = 10
"""Turns between two anchors."""
MAX_ANCHORS = 20
"""Most anchors for one penalty."""
PATIENCE = 5
"""Anchors after which a target is given up whose gap, falling as it did, would still be too large after `MAX_ANCHORS`."""
RHO_RATIO = 2.5
"""Ratio of neighbouring weights on the ladder."""
MAX_RHO_POWER, MIN_RHO_POWER = 1, -9
"""Ends of the ladder: rho is `RHO_RATIO` to that power."""
SHARE, POWER = 0.5, 0.9
"""rho is `SHARE` times (change of slopes over change of weights along the path) to this power (measured)."""
RELAXATION = 1.7
"""Relaxation."""


class AdmmSolver:
    """Solves for targets that share a Gram matrix; keeps the inverses that were needed."""

    def __init__(self, gram: Float[np.ndarray, "p p"]) -> None:
        """Take X'X/n."""
        self.gram = gram
        self._inverses: dict[int, Float32[np.ndarray, "p p"]] = {}
        self._lock = threading.Lock()

    def solve(
        self,
        wanted: LassoProblems,
        point: Iterate,
        gaps: Float[np.ndarray, " targets"],
        waiting: Int[np.ndarray, " waiting"],
        rungs: Int[np.ndarray, " targets"],
        tolerance: float,
    ) -> None:
        """Bring those who wait to their solutions, or nearer, in place; `rungs` is each target's place on the ladder.

        Whose gap falls too slowly to be within `tolerance` after `MAX_ANCHORS` anchors is left where it is.
        """
        duals = np.clip(point.slopes, -wanted.alpha[:, None], wanted.alpha[:, None])
        past = gaps.copy()
        for turn in range(1, MAX_ANCHORS + 1):
            if not len(waiting):
                return
            for rung in np.unique(rungs[waiting]):
                members = waiting[rungs[waiting] == rung]
                anchor = Iterate(point.weights[members], point.slopes[members])
                moved = self._turn(int(rung), anchor, duals[members], wanted.alpha[members])
                point.weights[members], duals[members] = moved
            point.slopes[waiting] = slopes_at(self.gram, wanted.cross[waiting], point.weights[waiting])
            gaps[waiting] = duality_gaps(wanted, point, waiting)
            waiting = waiting[gaps[waiting] > tolerance]
            if turn % PATIENCE == 0:
                reached = gaps[waiting] * (gaps[waiting] / past[waiting]) ** (MAX_ANCHORS / PATIENCE - turn / PATIENCE)
                past[waiting] = gaps[waiting]
                waiting = waiting[reached <= tolerance]

    def _turn(
        self,
        rung: int,
        anchor: Iterate,
        duals: Float[np.ndarray, "members p"],
        alpha: Float[np.ndarray, " members"],
    ) -> Iterate:
        """Return weights and duals after `ITERATIONS_PER_ANCHOR` turns."""
        rho, inverse = RHO_RATIO**rung, self._inverse(rung)
        weights = anchor.weights.copy()
        right = (anchor.slopes - duals).astype(np.float32)
        for _ in range(ITERATIONS_PER_ANCHOR):
            _relax(right @ inverse, anchor.weights, anchor.slopes, weights, duals, alpha, rho, right)
        return Iterate(weights, duals)

    def _inverse(self, rung: int) -> Float32[np.ndarray, "p p"]:
        """Return (G + rho I)^-1."""
        with self._lock:
            if rung not in self._inverses:
                shifted = self.gram.copy()
                shifted.flat[:: len(shifted) + 1] += RHO_RATIO**rung
                self._inverses[rung] = np.linalg.inv(shifted).astype(np.float32)
            return self._inverses[rung]


def rho_powers(here: Iterate, before: Iterate) -> Int[np.ndarray, " targets"]:
    """Return the place on the ladder that suits a path: what slopes changed by, over what weights changed by."""
    rise = np.linalg.norm(here.slopes - before.slopes, axis=1)
    run = np.linalg.norm(here.weights - before.weights, axis=1)
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
    """Bring weights, duals and the next right-hand side up to date, in place."""
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
