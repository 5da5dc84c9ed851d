"""LASSO for many targets at once, side by side down their penalties.

Three ways to a solution, the next for what the last one left: on sparse rows `sweeps`, as long as they
are quick; for targets with weight on many features `alternating` directions, all at once; and `descent`,
one target after the other.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from otoscope.linear import lasso_path
from otoscope.linear.admm import AdmmSolver, rho_powers
from otoscope.linear.lasso_problem import Iterate, LassoProblems, duality_gaps, slopes_at
from otoscope.linear.sparse_columns import SparseColumns
from otoscope.linear.sparse_descent import SparseProblems, solve_sparse

MAX_PATH_DENSITY = 0.2
"""Share of features with weight below which `descent` takes less time than alternating directions (measured)."""
MAX_ADMM_FEATURES = 3_072
"""Most features for which inverses are kept."""
MIN_ADMM_TARGETS = 32
"""Targets below which the inverses cost more than they save."""


class SolverHints(NamedTuple):
    """What the path so far tells of each target: its place on the ladder, and whether sweeps took too long."""

    rungs: Int[np.ndarray, " targets"]
    slow: Bool[np.ndarray, " targets"]


class BatchedLasso:
    """Solves for targets that share a Gram matrix."""

    def __init__(
        self, gram: Float[np.ndarray, "p p"], *, rank: int, targets: int, columns: SparseColumns | None = None
    ) -> None:
        """Take X'X/n, the rank it can have, how many targets will be asked for in all, and sparse rows, if they are."""
        self.gram, self.rank, self.columns = gram, rank, columns
        self._alternating = AdmmSolver(gram) if targets >= MIN_ADMM_TARGETS and len(gram) <= MAX_ADMM_FEATURES else None

    def slopes(
        self, cross: Float[np.ndarray, "targets p"], weights: Float[np.ndarray, "targets p"]
    ) -> Float[np.ndarray, "targets p"]:
        """Return X'(y - Xw)/n."""
        return slopes_at(self.gram, cross, weights)

    def solve(
        self, wanted: LassoProblems, start: Iterate, pace: SolverHints, tolerance: float
    ) -> tuple[Iterate, Float[np.ndarray, " targets"]]:
        """Return solutions near `start` and their relative duality gaps; note in `pace` who is slow."""
        point = Iterate(start.weights.copy(), start.slopes.copy())
        gaps = duality_gaps(wanted, point, np.arange(len(wanted.alpha)))
        self._sweep(wanted, point, gaps, pace, tolerance)
        self._alternate(wanted, point, gaps, pace, tolerance)
        self._descend(wanted, point, gaps, tolerance)
        return point, gaps

    def _sweep(
        self,
        wanted: LassoProblems,
        point: Iterate,
        gaps: Float[np.ndarray, " targets"],
        pace: SolverHints,
        tolerance: float,
    ) -> None:
        """Bring who is not slow to its solution, or nearer, by sweeps over sparse rows, in place."""
        waiting = np.flatnonzero((gaps > tolerance) & ~pace.slow)
        if self.columns is None or not len(waiting):
            return
        problems = SparseProblems(
            np.ascontiguousarray(wanted.values[waiting].T),
            np.ascontiguousarray(wanted.cross[waiting].T),
            wanted.square[waiting],
            wanted.alpha[waiting],
        )
        found, gaps[waiting] = solve_sparse(
            self.columns, problems, np.ascontiguousarray(point.weights[waiting].T), tolerance
        )
        point.weights[waiting] = found.T
        point.slopes[waiting] = self.slopes(wanted.cross[waiting], point.weights[waiting])
        pace.slow[waiting] = gaps[waiting] > tolerance

    def _alternate(
        self,
        wanted: LassoProblems,
        point: Iterate,
        gaps: Float[np.ndarray, " targets"],
        pace: SolverHints,
        tolerance: float,
    ) -> None:
        """Bring who has weight on many features to its solution, or nearer, in place."""
        many = np.count_nonzero(point.weights, axis=1) >= MAX_PATH_DENSITY * point.weights.shape[1]
        if self._alternating is not None:
            waiting = np.flatnonzero((gaps > tolerance) & many)
            self._alternating.solve(wanted, point, gaps, waiting, pace.rungs, tolerance)

    def _descend(
        self, wanted: LassoProblems, point: Iterate, gaps: Float[np.ndarray, " targets"], tolerance: float
    ) -> None:
        """Bring everyone else to its solution, in place."""
        for target in np.flatnonzero(gaps > tolerance):
            found = lasso_path.solve_path(
                self.gram,
                wanted.cross[target],
                wanted.square[target],
                wanted.alpha[target : target + 1],
                tolerance,
                start=point.weights[target],
                rank=self.rank,
            )
            one = slice(target, target + 1)
            point.weights[target], gaps[target] = found.weights[0], found.gaps[0]
            point.slopes[one] = self.slopes(wanted.cross[one], point.weights[one])


class BatchedPath:
    """Targets on their way down the penalties, each step begun where the last two lead."""

    def __init__(
        self,
        solver: BatchedLasso,
        cross: Float[np.ndarray, "targets p"],
        square: Float[np.ndarray, " targets"],
        values: Float[np.ndarray, "targets rows"],
        tolerance: float,
    ) -> None:
        """Begin without weights."""
        self.solver, self.tolerance = solver, tolerance
        self.cross, self.square, self.values = cross, square, values
        self.weights, self.slopes = np.zeros_like(cross), cross.copy()
        self.pace = SolverHints(np.zeros(len(cross), dtype=np.int64), np.zeros(len(cross), dtype=bool))
        self._before, self._alphas = Iterate(self.weights.copy(), cross.copy()), list[Float[np.ndarray, " targets"]]()

    def solve_at(
        self, members: Int[np.ndarray, " members"], alphas: Float[np.ndarray, " targets"]
    ) -> Float[np.ndarray, " members"]:
        """Solve for smaller penalties; return the relative duality gaps of `members`, whom every later call holds."""
        here = Iterate(self.weights[members], self.slopes[members])
        cross, alpha, start = self.cross[members], alphas[members], here
        if len(self._alphas) > 1:
            before = Iterate(self._before.weights[members], self._before.slopes[members])
            last, first = self._alphas[-1][members], self._alphas[-2][members]
            fall = (last - alpha) / np.where(first > last, first - last, 1)
            ahead = here.weights + fall[:, None] * (here.weights - before.weights)
            ahead[ahead * here.weights <= 0] = 0
            start = Iterate(ahead, self.solver.slopes(cross, ahead))
            self.pace.rungs[members] = rho_powers(here, before)
        self._alphas.append(alphas)
        self._before.weights[members], self._before.slopes[members] = here
        wanted = LassoProblems(cross, self.square[members], alpha, self.values[members])
        pace = SolverHints(*(field[members] for field in self.pace))
        found, gaps = self.solver.solve(wanted, start, pace, self.tolerance)
        self.weights[members], self.slopes[members] = found
        self.pace.slow[members] = pace.slow
        return gaps
