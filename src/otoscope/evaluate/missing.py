"""Targets of which some rows have no value: taken together wherever the same rows are missing."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Int


def patterns(
    known: Bool[np.ndarray, "rows targets"],
) -> Iterator[tuple[Int[np.ndarray, " members"], Bool[np.ndarray, " rows"]]]:
    """Yield targets that are known on the same rows, and those rows.

    >>> [(m.tolist(), p.tolist()) for m, p in patterns(np.array([[True, True, False], [True, True, True]]))]
    [([2], [False, True]), ([0, 1], [True, True])]
    """
    rows, which = np.unique(known, axis=1, return_inverse=True)
    for number in range(rows.shape[1]):
        yield np.flatnonzero(which.reshape(-1) == number), rows[:, number]
