"""What `fit_factors` is asked: settings, rows to fit and to test on, and the folds and penalties that follow."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Shaped

from otoscope.errors import EvaluationError
from otoscope.evaluate.gramian import Gramian
from otoscope.evaluate.moments import REACH
from otoscope.evaluate.tuning import Fold, Grid, fold_of
from otoscope.resampling.groups import CONFIDENCE, RESAMPLES, group_folds

TOLERANCE = 1e-6
"""Largest duality gap of a solution, as a share of its objective."""


@dataclass(frozen=True)
class LassoSettings:
    """Grid, stopping rule and repetitions of `fit_factors`.

    `alphas` penalties fall evenly in their logarithm from the smallest that leaves no weight to
    `smallest_alpha` times that; left out, it is 0.01 with fewer training rows than features and
    0.001 otherwise (below 0.01 a fit with more features than rows only nears interpolation; glmnet
    stops there too). After `patience` penalties in a row without a better R2, smaller ones are not
    tried; None tries them all. `folds` of 0 chooses on the validation groups, 2 or more on so many
    folds of the training and validation groups together. Penalties are compared at duality gaps of
    `choice_tolerance` of the objective; what is reported is fitted to `tolerance`. The null permutes
    rows freely, or `within_groups` so that it keeps what the codes know of the group. `reach`: rows that
    are predicted count as no further, in any feature, than so many deviations beyond what the fitted
    rows span; None: as they are.
    """

    alphas: int = 20
    smallest_alpha: float | None = None
    patience: int | None = 3
    folds: int = 0
    permutations: int = 20
    within_groups: bool = False
    resamples: int = RESAMPLES
    confidence: float = CONFIDENCE
    tolerance: float = TOLERANCE
    choice_tolerance: float = TOLERANCE
    reach: float | None = REACH

    def __post_init__(self) -> None:
        """Raise `EvaluationError` for a number of folds that chooses nothing."""
        if self.folds < 0 or self.folds == 1:
            raise EvaluationError(f"folds={self.folds}; give 0 to choose on the validation groups, or 2 and more")


class Question:
    """All rows, those that are fitted in one order, and their Gram matrix, shared by factors of every pattern."""

    def __init__(
        self,
        features: Float[np.ndarray, "rows live"],
        targets: Float[np.ndarray, "rows factors"],
        groups: Shaped[np.ndarray, " rows"],
        parts: dict[str, Bool[np.ndarray, " rows"]],
        settings: LassoSettings,
        seed: int,
    ) -> None:
        self.features, self.targets, self.groups = features, targets, groups
        self.settings, self.seed = settings, seed
        self.fitted = np.concatenate([np.flatnonzero(parts["train"]), np.flatnonzero(parts["valid"])])
        self.train: Bool[np.ndarray, " fitted"] = np.arange(len(self.fitted)) < parts["train"].sum()
        self.test = parts["test"]
        self.gramian = Gramian(features[self.fitted])

    def folds(self, present: Bool[np.ndarray, " fitted"]) -> list[Fold]:
        """Return the folds to choose on, of the rows that are present; none where one side would be empty."""
        if not self.settings.folds:
            sides = [(self.train & present, ~self.train & present)]
        else:
            number = np.full(len(present), -1)
            number[present] = group_folds(self.groups[self.fitted[present]], self.settings.folds)
            sides = [(present & (number != fold), number == fold) for fold in range(number.max() + 1)]
        reach = self.settings.reach
        return [fold_of(self.gramian, fitted=fitted, scored=scored, reach=reach) for fitted, scored in sides]

    def enough(self, present: Bool[np.ndarray, " rows"]) -> bool:
        """Say whether the rows that are present can be fitted, chosen on and tested on."""
        fitted = present[self.fitted]
        if not (present & self.test).any() or not fitted[self.train].any() or not fitted[~self.train].any():
            return False
        return not self.settings.folds or len(np.unique(self.groups[self.fitted[fitted]])) > 1

    def grid(self, n_fitted: int) -> Grid:
        """Return the penalties, as shares of the largest."""
        settings = self.settings
        smallest = settings.smallest_alpha or (1e-2 if n_fitted < self.features.shape[1] else 1e-3)
        fall = np.geomspace(1, smallest, settings.alphas)
        return Grid(fall, settings.patience, settings.choice_tolerance, settings.tolerance)
