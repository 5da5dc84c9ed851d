"""LASSO for many targets at once, where a factorisation for each would be what takes time.

On sparse rows `sweeps` goes first, as long as it is quick. What it leaves, and dense rows, go on here.

Alternating directions (Boyd et al., Foundations and Trends in Machine Learning 3(1), 2011, 6.4): with
weights z, slopes y within the penalty and a weight rho on their agreement,

    x = (G + rho I)^-1 (c - y + rho z),   v = 1.7 x - 0.7 z + y/rho,   z = soft(v, alpha/rho),   y = rho (v - z)

so that one inverse serves every target, penalty and support, and a turn of all targets is one product
of matrices. Products are taken in single precision and are of differences from an anchor, a point whose
slopes are known in double precision; at the anchor they vanish, so the solution is not blurred. After
every `TURNS` turns the point becomes the anchor and its duality gap, in double precision over all
features, says whether it counts. rho comes from a ladder: slopes and weights should settle equally fast,
and what they changed by between the last two penalties tells (the idea of spectral steps; Xu, Figueiredo
and Goldstein, AISTATS 2017). Who does not settle within `ROUNDS` anchors is solved by `descent` from there.
"""

import threading
from typing import NamedTuple

import numba
import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from otoscope.evaluate import descent
from otoscope.evaluate.columns import Columns
from otoscope.evaluate.sweeps import Problems, sweep_together

TURNS = 10
"""Turns between two anchors."""
ROUNDS = 20
"""Most anchors for one penalty."""
PATIENCE = 5
"""Anchors after which a target is given up whose gap, falling as it did, would still be too large after `ROUNDS`."""
RUNG = 2.5
"""Ratio of neighbouring weights on the ladder."""
TOP, BOTTOM = 1, -9
"""Ends of the ladder: rho is `RUNG` to that power."""
SHARE, POWER = 0.5, 0.9
"""rho is `SHARE` times (change of slopes over change of weights along the path) to this power (measured)."""
OVER = 1.7
"""Relaxation."""
FEW = 0.2
"""Share of features with weight below which `descent` takes less time than a round (measured)."""
WIDEST = 3_072
"""Most features for which inverses are kept."""
FEWEST = 32
"""Targets below which the inverses cost more than they save."""


class Point(NamedTuple):
    """Where each target stands, one a row: weights, and the slopes X'(y - Xw)/n there."""

    weights: Float[np.ndarray, "targets p"]
    slopes: Float[np.ndarray, "targets p"]


class Wanted(NamedTuple):
    """The problems: X'y/n, y'y/n and the penalty of each target; for sparse rows also y, over the root of n."""

    cross: Float[np.ndarray, "targets p"]
    square: Float[np.ndarray, " targets"]
    alpha: Float[np.ndarray, " targets"]
    values: Float[np.ndarray, "targets rows"]


class Pace(NamedTuple):
    """What the path so far tells of each target: its place on the ladder, and whether sweeps took too long."""

    rungs: Int[np.ndarray, " targets"]
    slow: Bool[np.ndarray, " targets"]


class Lockstep:
    """Solves for targets that share a Gram matrix; keeps the inverses that were needed."""

    def __init__(
        self, gram: Float[np.ndarray, "p p"], *, rank: int, targets: int, columns: Columns | None = None
    ) -> None:
        """Take X'X/n, the rank it can have, how many targets will be asked for in all, and sparse rows, if they are."""
        self.gram, self.rank = gram, rank
        self.worthwhile = targets >= FEWEST and len(gram) <= WIDEST
        self.columns = columns
        self._inverses: dict[int, Float32[np.ndarray, "p p"]] = {}
        self._lock = threading.Lock()

    def slopes(
        self, cross: Float[np.ndarray, "targets p"], weights: Float[np.ndarray, "targets p"]
    ) -> Float[np.ndarray, "targets p"]:
        """Return X'(y - Xw)/n."""
        return cross - weights @ self.gram

    def solve(
        self, wanted: Wanted, start: Point, pace: Pace, tolerance: float
    ) -> tuple[Point, Float[np.ndarray, " targets"]]:
        """Return solutions near `start` and their relative duality gaps; note in `pace` who is slow."""
        weights, slopes = start.weights.copy(), start.slopes.copy()
        gaps = _gaps(weights, wanted.cross, slopes, wanted.square, wanted.alpha)
        self._sweep(wanted, Point(weights, slopes), gaps, pace, tolerance)
        many = np.count_nonzero(weights, axis=1) >= FEW * weights.shape[1]
        waiting = np.flatnonzero((gaps > tolerance) & many) if self.worthwhile else np.zeros(0, dtype=np.int64)
        duals = np.clip(slopes, -wanted.alpha[:, None], wanted.alpha[:, None])
        past = gaps.copy()
        for turn in range(1, ROUNDS + 1):
            if not len(waiting):
                break
            for rung in np.unique(pace.rungs[waiting]):
                members = waiting[pace.rungs[waiting] == rung]
                moved = Point(weights[members], duals[members])
                self._turn(int(rung), moved, weights[members], slopes[members], wanted.alpha[members])
                weights[members], duals[members] = moved
            slopes[waiting] = self.slopes(wanted.cross[waiting], weights[waiting])
            gaps[waiting] = _gaps(
                weights[waiting], wanted.cross[waiting], slopes[waiting], wanted.square[waiting], wanted.alpha[waiting]
            )
            waiting = waiting[gaps[waiting] > tolerance]
            if turn % PATIENCE == 0:
                reached = gaps[waiting] * (gaps[waiting] / past[waiting]) ** (ROUNDS / PATIENCE - turn / PATIENCE)
                past[waiting] = gaps[waiting]
                waiting = waiting[reached <= tolerance]
        for target in np.flatnonzero(gaps > tolerance):
            found = descent.path(
                self.gram,
                wanted.cross[target],
                wanted.square[target],
                wanted.alpha[target : target + 1],
                tolerance,
                start=weights[target],
                rank=self.rank,
            )
            weights[target], gaps[target] = found.weights[0], found.gaps[0]
            slopes[target] = self.slopes(wanted.cross[target : target + 1], weights[target : target + 1])[0]
        return Point(weights, slopes), gaps

    def _sweep(
        self, wanted: Wanted, moved: Point, gaps: Float[np.ndarray, " targets"], pace: Pace, tolerance: float
    ) -> None:
        """Bring who is not slow to its solution, or nearer, by sweeps over sparse rows, in place."""
        waiting = np.flatnonzero((gaps > tolerance) & ~pace.slow)
        if self.columns is None or not len(waiting):
            return
        problems = Problems(
            np.ascontiguousarray(wanted.values[waiting].T),
            np.ascontiguousarray(wanted.cross[waiting].T),
            wanted.square[waiting],
            wanted.alpha[waiting],
        )
        found, gaps[waiting] = sweep_together(
            self.columns, problems, np.ascontiguousarray(moved.weights[waiting].T), tolerance
        )
        moved.weights[waiting] = found.T
        moved.slopes[waiting] = self.slopes(wanted.cross[waiting], moved.weights[waiting])
        pace.slow[waiting] = gaps[waiting] > tolerance

    def _turn(
        self,
        rung: int,
        moved: Point,
        anchor: Float[np.ndarray, "members p"],
        slopes: Float[np.ndarray, "members p"],
        alpha: Float[np.ndarray, " members"],
    ) -> None:
        """Move weights and duals by `TURNS` turns, in place."""
        rho, inverse = RUNG**rung, self._inverse(rung)
        right = (slopes - moved.slopes).astype(np.float32)
        for _ in range(TURNS):
            _relax(right @ inverse, anchor, slopes, moved.weights, moved.slopes, alpha, rho, right)

    def _inverse(self, rung: int) -> Float32[np.ndarray, "p p"]:
        """Return (G + rho I)^-1."""
        with self._lock:
            if rung not in self._inverses:
                shifted = self.gram.copy()
                shifted.flat[:: len(shifted) + 1] += RUNG**rung
                self._inverses[rung] = np.linalg.inv(shifted).astype(np.float32)
            return self._inverses[rung]


class Trail:
    """Targets on their way down the penalties, each step begun where the last two lead."""

    def __init__(
        self,
        solver: Lockstep,
        cross: Float[np.ndarray, "targets p"],
        square: Float[np.ndarray, " targets"],
        values: Float[np.ndarray, "targets rows"],
        tolerance: float,
    ) -> None:
        """Begin without weights."""
        self.solver, self.tolerance = solver, tolerance
        self.cross, self.square, self.values = cross, square, values
        self.weights, self.slopes = np.zeros_like(cross), cross.copy()
        self.pace = Pace(np.zeros(len(cross), dtype=np.int64), np.zeros(len(cross), dtype=bool))
        self._before, self._alphas = Point(self.weights.copy(), cross.copy()), list[Float[np.ndarray, " targets"]]()

    def follow(
        self, members: Int[np.ndarray, " members"], alphas: Float[np.ndarray, " targets"]
    ) -> Float[np.ndarray, " members"]:
        """Solve for smaller penalties; return the relative duality gaps of `members`, whom every later call holds."""
        here = Point(self.weights[members], self.slopes[members])
        cross, alpha, start = self.cross[members], alphas[members], here
        if len(self._alphas) > 1:
            before = Point(self._before.weights[members], self._before.slopes[members])
            last, first = self._alphas[-1][members], self._alphas[-2][members]
            fall = (last - alpha) / np.where(first > last, first - last, 1)
            ahead = here.weights + fall[:, None] * (here.weights - before.weights)
            ahead[ahead * here.weights <= 0] = 0
            start = Point(ahead, self.solver.slopes(cross, ahead))
            self.pace.rungs[members] = rungs_of(here, before)
        self._alphas.append(alphas)
        self._before.weights[members], self._before.slopes[members] = here
        wanted = Wanted(cross, self.square[members], alpha, self.values[members])
        pace = Pace(*(field[members] for field in self.pace))
        found, gaps = self.solver.solve(wanted, start, pace, self.tolerance)
        self.weights[members], self.slopes[members] = found
        self.pace.slow[members] = pace.slow
        return gaps


def rungs_of(here: Point, before: Point) -> Int[np.ndarray, " targets"]:
    """Return the place on the ladder that suits a path: what slopes changed by, over what weights changed by."""
    rise = np.linalg.norm(here.slopes - before.slopes, axis=1)
    run = np.linalg.norm(here.weights - before.weights, axis=1)
    bend = np.where((rise > 0) & (run > 0), rise / np.where(run > 0, run, 1), 1)
    return np.clip(np.round(np.log(SHARE * bend**POWER) / np.log(RUNG)), BOTTOM, TOP).astype(np.int64)


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
            v = OVER * x - (OVER - 1) * old + duals[t, j] / rho
            new = max(v - cut, 0.0) + min(v + cut, 0.0)
            dual = rho * (v - new)
            weights[t, j] = new
            duals[t, j] = dual
            right[t, j] = slopes[t, j] - dual + rho * (new - anchor[t, j])


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
        gaps[t] = descent.relative_gap(weights[t], cross[t], slopes[t], square[t], alpha[t])
    return gaps
