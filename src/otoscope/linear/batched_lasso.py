"""LASSO for many targets at once, side by side down their penalties.

Three ways to a solution, the next for what the last one left: on sparse rows `sweeps`, as long as they
are quick; for targets with weight on many features `alternating` directions, all at once; and `descent`,
one target after the other.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from otoscope.linear import lasso_path
from otoscope.linear.admm import Alternating, rungs_of
from otoscope.linear.lasso_problem import Point, Wanted, gaps_of, slopes_at
from otoscope.linear.sparse_columns import Columns
from otoscope.linear.sparse_descent import Problems, sweep_together

FEW = 0.2
"""Share of features with weight below which `descent` takes less time than alternating directions (measured)."""
WIDEST = 3_072
"""Most features for which inverses are kept."""
FEWEST = 32
"""Targets below which the inverses cost more than they save."""


class Pace(NamedTuple):
    """What the path so far tells of each target: its place on the ladder, and whether sweeps took too long."""

    rungs: Int[np.ndarray, " targets"]
    slow: Bool[np.ndarray, " targets"]


class Lockstep:
    """Solves for targets that share a Gram matrix."""

    def __init__(
        self, gram: Float[np.ndarray, "p p"], *, rank: int, targets: int, columns: Columns | None = None
    ) -> None:
        """Take X'X/n, the rank it can have, how many targets will be asked for in all, and sparse rows, if they are."""
        self.gram, self.rank, self.columns = gram, rank, columns
        self._alternating = Alternating(gram) if targets >= FEWEST and len(gram) <= WIDEST else None

    def slopes(
        self, cross: Float[np.ndarray, "targets p"], weights: Float[np.ndarray, "targets p"]
    ) -> Float[np.ndarray, "targets p"]:
        """Return X'(y - Xw)/n."""
        return slopes_at(self.gram, cross, weights)

    def solve(
        self, wanted: Wanted, start: Point, pace: Pace, tolerance: float
    ) -> tuple[Point, Float[np.ndarray, " targets"]]:
        """Return solutions near `start` and their relative duality gaps; note in `pace` who is slow."""
        point = Point(start.weights.copy(), start.slopes.copy())
        gaps = gaps_of(wanted, point, np.arange(len(wanted.alpha)))
        self._sweep(wanted, point, gaps, pace, tolerance)
        self._alternate(wanted, point, gaps, pace, tolerance)
        self._descend(wanted, point, gaps, tolerance)
        return point, gaps

    def _sweep(
        self, wanted: Wanted, point: Point, gaps: Float[np.ndarray, " targets"], pace: Pace, tolerance: float
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
            self.columns, problems, np.ascontiguousarray(point.weights[waiting].T), tolerance
        )
        point.weights[waiting] = found.T
        point.slopes[waiting] = self.slopes(wanted.cross[waiting], point.weights[waiting])
        pace.slow[waiting] = gaps[waiting] > tolerance

    def _alternate(
        self, wanted: Wanted, point: Point, gaps: Float[np.ndarray, " targets"], pace: Pace, tolerance: float
    ) -> None:
        """Bring who has weight on many features to its solution, or nearer, in place."""
        many = np.count_nonzero(point.weights, axis=1) >= FEW * point.weights.shape[1]
        if self._alternating is not None:
            waiting = np.flatnonzero((gaps > tolerance) & many)
            self._alternating.settle(wanted, point, gaps, waiting, pace.rungs, tolerance)

    def _descend(self, wanted: Wanted, point: Point, gaps: Float[np.ndarray, " targets"], tolerance: float) -> None:
        """Bring everyone else to its solution, in place."""
        for target in np.flatnonzero(gaps > tolerance):
            found = lasso_path.path(
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
