"""Rows by split, checked."""

import numpy as np
from jaxtyping import Bool, Float, Shaped

from otoscope.errors import EvaluationError


def rows_of(split: Shaped[np.ndarray, " rows"], name: str, n_rows: int) -> Bool[np.ndarray, " rows"]:
    """Return which rows belong to a split; raise `EvaluationError` if none do.

    >>> rows_of(np.array(["train", "test"]), "test", 2)
    array([False,  True])
    """
    if len(split) != n_rows:
        raise EvaluationError(f"{n_rows} rows but {len(split)} splits; give one split a row")
    found = np.asarray(split) == name
    if not found.any():
        have = ", ".join(sorted({str(s) for s in split})) or "none"
        raise EvaluationError(
            f"no row belongs to the split {name!r}; present: {have}. Share groups out over train, valid and test"
        )
    return found


def check_rows(
    features: Float[np.ndarray, "rows p"],
    targets: Float[np.ndarray, "rows factors"],
    groups: Shaped[np.ndarray, " rows"],
) -> None:
    """Raise `EvaluationError` unless features, targets and groups have the same rows and features are finite."""
    if features.ndim != 2 or targets.ndim != 2 or not len(features) == len(targets) == len(groups):
        raise EvaluationError(
            f"features {features.shape}, targets {targets.shape} and {len(groups)} groups disagree; give one each a row"
        )
    if not np.isfinite(features).all():
        raise EvaluationError("features hold NaN or infinity; drop such rows first")
