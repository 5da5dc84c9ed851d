"""Batched LASSO: solve many targets together along falling penalties.

Three solvers, each for the targets that the one before did not solve: coordinate descent on sparse columns
(`sparse_descent`) while it converges fast; ADMM (alternating direction method of multipliers) for targets with many
nonzero weights, all at once; and the active-set path solver (`lasso_path`), one target at a time.

ADMM is used where a factorisation per target would take long. With weights z, slopes y within the penalty and a weight
rho on their agreement (Boyd et al., Foundations and Trends in Machine Learning 3(1), 2011, 6.4),

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
from jaxtyping import Bool, Float, Float32, Int

from otoscope.linear import lasso_path
from otoscope.linear.lasso_path import relative_gap
from otoscope.linear.sparse_descent import SparseColumns, SparseProblems, solve_sparse

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


MAX_PATH_DENSITY = 0.2
"""Share of nonzero weights below which `lasso_path` is faster than ADMM (measured)."""
MAX_ADMM_FEATURES = 3_072
"""Maximum number of features for ADMM, which keeps p x p inverses."""
MIN_ADMM_TARGETS = 32
"""Minimum number of targets for ADMM: with fewer, the inverses cost more than they save."""


class SolverHints(NamedTuple):
    """Solver choices per target, learned along the path: power of rho, and whether sparse descent was too slow."""

    rho_power: Int[np.ndarray, " targets"]
    slow: Bool[np.ndarray, " targets"]


class BatchedLasso:
    """Solver for targets that share a Gram matrix."""

    def __init__(
        self, gram: Float[np.ndarray, "p p"], *, rank: int, targets: int, columns: SparseColumns | None = None
    ) -> None:
        """Set up from X'X/n, an upper bound of its rank, the total number of targets, and sparse columns if any."""
        self.gram, self.rank, self.columns = gram, rank, columns
        self._admm = AdmmSolver(gram) if targets >= MIN_ADMM_TARGETS and len(gram) <= MAX_ADMM_FEATURES else None

    def slopes(
        self, cross: Float[np.ndarray, "targets p"], weights: Float[np.ndarray, "targets p"]
    ) -> Float[np.ndarray, "targets p"]:
        """Return X'(y - Xw)/n."""
        return slopes_at(self.gram, cross, weights)

    def solve(
        self, problems: LassoProblems, start: Iterate, hints: SolverHints, tolerance: float
    ) -> tuple[Iterate, Float[np.ndarray, " targets"]]:
        """Return solutions, started from `start`, and their relative duality gaps; mark slow targets in `hints`."""
        point = Iterate(start.weights.copy(), start.slopes.copy())
        gaps = duality_gaps(problems, point, np.arange(len(problems.alpha)))
        self._solve_sparse(problems, point, gaps, hints, tolerance)
        self._solve_dense(problems, point, gaps, hints, tolerance)
        self._solve_each(problems, point, gaps, tolerance)
        return point, gaps

    def _solve_sparse(
        self,
        problems: LassoProblems,
        point: Iterate,
        gaps: Float[np.ndarray, " targets"],
        hints: SolverHints,
        tolerance: float,
    ) -> None:
        """Improve targets that are not slow by sweeps over sparse columns, in place."""
        waiting = np.flatnonzero((gaps > tolerance) & ~hints.slow)
        if self.columns is None or not len(waiting):
            return
        sparse = SparseProblems(
            np.ascontiguousarray(problems.values[waiting].T),
            np.ascontiguousarray(problems.cross[waiting].T),
            problems.square[waiting],
            problems.alpha[waiting],
        )
        found, gaps[waiting] = solve_sparse(
            self.columns, sparse, np.ascontiguousarray(point.weights[waiting].T), tolerance
        )
        point.weights[waiting] = found.T
        point.slopes[waiting] = self.slopes(problems.cross[waiting], point.weights[waiting])
        hints.slow[waiting] = gaps[waiting] > tolerance

    def _solve_dense(
        self,
        problems: LassoProblems,
        point: Iterate,
        gaps: Float[np.ndarray, " targets"],
        hints: SolverHints,
        tolerance: float,
    ) -> None:
        """Improve targets with many nonzero weights by ADMM, in place."""
        many = np.count_nonzero(point.weights, axis=1) >= MAX_PATH_DENSITY * point.weights.shape[1]
        if self._admm is not None:
            waiting = np.flatnonzero((gaps > tolerance) & many)
            self._admm.solve(problems, point, gaps, waiting, hints.rho_power, tolerance)

    def _solve_each(
        self, problems: LassoProblems, point: Iterate, gaps: Float[np.ndarray, " targets"], tolerance: float
    ) -> None:
        """Solve all remaining targets one at a time, in place."""
        for target in np.flatnonzero(gaps > tolerance):
            found = lasso_path.solve_path(
                self.gram,
                problems.cross[target],
                problems.square[target],
                problems.alpha[target : target + 1],
                tolerance,
                start=point.weights[target],
                rank=self.rank,
            )
            one = slice(target, target + 1)
            point.weights[target], gaps[target] = found.weights[0], found.gaps[0]
            point.slopes[one] = self.slopes(problems.cross[one], point.weights[one])


class BatchedPath:
    """Solutions of many targets along falling penalties; each start is extrapolated from the last two."""

    def __init__(
        self,
        solver: BatchedLasso,
        cross: Float[np.ndarray, "targets p"],
        square: Float[np.ndarray, " targets"],
        values: Float[np.ndarray, "targets rows"],
        tolerance: float,
    ) -> None:
        """Start from zero weights."""
        self.solver, self.tolerance = solver, tolerance
        self.cross, self.square, self.values = cross, square, values
        self.weights, self.slopes = np.zeros_like(cross), cross.copy()
        self.hints = SolverHints(np.zeros(len(cross), dtype=np.int64), np.zeros(len(cross), dtype=bool))
        self._previous, self._alphas = Iterate(self.weights.copy(), cross.copy()), list[Float[np.ndarray, " targets"]]()

    def solve_at(
        self, members: Int[np.ndarray, " members"], alphas: Float[np.ndarray, " targets"]
    ) -> Float[np.ndarray, " members"]:
        """Solve for smaller penalties; return the duality gaps of `members`, a superset of those of later calls."""
        current = Iterate(self.weights[members], self.slopes[members])
        cross, alpha, start = self.cross[members], alphas[members], current
        if len(self._alphas) > 1:
            before = Iterate(self._previous.weights[members], self._previous.slopes[members])
            last, first = self._alphas[-1][members], self._alphas[-2][members]
            fall = (last - alpha) / np.where(first > last, first - last, 1)
            extrapolated = current.weights + fall[:, None] * (current.weights - before.weights)
            extrapolated[extrapolated * current.weights <= 0] = 0
            start = Iterate(extrapolated, self.solver.slopes(cross, extrapolated))
            self.hints.rho_power[members] = choose_rho_powers(current, before)
        self._alphas.append(alphas)
        self._previous.weights[members], self._previous.slopes[members] = current
        problems = LassoProblems(cross, self.square[members], alpha, self.values[members])
        hints = SolverHints(*(field[members] for field in self.hints))
        found, gaps = self.solver.solve(problems, start, hints, self.tolerance)
        self.weights[members], self.slopes[members] = found
        self.hints.slow[members] = hints.slow
        return gaps
