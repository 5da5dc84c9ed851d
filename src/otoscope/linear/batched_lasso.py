"""Batched LASSO: solve many targets together along falling penalties.

Three solvers, each for the targets that the one before did not solve: coordinate descent on sparse columns
(`sparse_descent`) while it converges fast; ADMM (`admm`) for targets with many nonzero weights, all at once; and the
active-set path solver (`lasso_path`), one target at a time.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from otoscope.linear import lasso_path
from otoscope.linear.admm import AdmmSolver, Iterate, LassoProblems, choose_rho_powers, duality_gaps, slopes_at
from otoscope.linear.sparse_descent import SparseColumns, SparseProblems, solve_sparse

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
