"""Tables of true and predicted classes, a group each, and the shares that were right."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped
from numpy.typing import NDArray

from otoscope.resampling.groups import group_sums


def confusions(
    truth: Int[np.ndarray, " rows"], guess: Int[np.ndarray, " rows"], groups: Shaped[np.ndarray, " rows"], n: int
) -> Float[np.ndarray, "groups classes classes"]:
    """Return one table of counts a group, true class by predicted class."""
    cells = np.zeros((len(truth), n * n))
    cells[np.arange(len(truth)), truth * n + guess] = 1
    return group_sums(cells, groups).reshape(-1, n, n)


def shares_right(tables: Float[np.ndarray, "tables classes classes"]) -> Float[np.ndarray, "tables 3"]:
    """Return accuracy, balanced accuracy and macro-F1 of confusion tables."""
    hits = np.einsum("tcc->tc", tables)
    support, claimed = tables.sum(axis=2), tables.sum(axis=1)
    accuracy = hits.sum(axis=1) / support.sum(axis=1)
    recall = _mean_where(hits, support)
    f1 = _mean_where(2 * hits, support + claimed)
    return np.stack([accuracy, recall, f1], axis=1)


def _mean_where(part: NDArray[Any], whole: NDArray[Any]) -> Float[np.ndarray, " tables"]:
    """Return the mean of part/whole over the classes where whole is not zero."""
    counts = whole > 0
    ratio = np.divide(part, whole, out=np.zeros_like(part), where=counts)
    return ratio.sum(axis=1) / counts.sum(axis=1)
