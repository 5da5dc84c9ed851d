"""Rows by split, checked."""

import numpy as np
from jaxtyping import Bool, Shaped

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
