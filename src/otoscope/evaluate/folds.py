"""Folds that keep groups whole."""

import numpy as np
from jaxtyping import Int, Shaped

from otoscope.errors import EvaluationError
from otoscope.evaluate.groups import number_groups


def group_folds(groups: Shaped[np.ndarray, " rows"], folds: int) -> Int[np.ndarray, " rows"]:
    """Return each row's fold, 0 to `folds` - 1, no group in two of them, about as many rows in each.

    The largest group goes first, each to the fold with the fewest rows so far; ties by name. With
    fewer groups than folds, every group is a fold. Raises `EvaluationError` for fewer than two folds
    or groups.

    >>> group_folds(np.array(["a", "b", "a", "c"]), 2)
    array([0, 1, 0, 1])
    """
    numbers, n_groups = number_groups(groups)
    if folds < 2 or n_groups < 2:
        raise EvaluationError(
            f"{folds} folds over {n_groups} groups; at least two of each are needed to choose a penalty on other groups"
        )
    sizes = np.bincount(numbers, minlength=n_groups)
    rows = np.zeros(min(folds, n_groups), dtype=np.int64)
    fold_of = np.zeros(n_groups, dtype=np.int64)
    for group in np.argsort(-sizes, kind="stable"):
        fold_of[group] = rows.argmin()
        rows[fold_of[group]] += sizes[group]
    return fold_of[numbers]
