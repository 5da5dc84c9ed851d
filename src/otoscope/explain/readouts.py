"""Linear readouts of concepts (classes of labels, and factors) from pooled frames, in standard deviations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Shaped

from otoscope.errors import EvaluationError
from otoscope.linear.ridge import PENALTIES
from otoscope.resampling.groups import missing_patterns

FACTOR = "factor"
"""Kind of a concept that is a factor; the kind of a class is the name of its label."""
GROUP = "group"
"""Kind of the concept of the singer, speaker or recording: its readout has one column per test group."""
ENTANGLED_R = 0.6
"""Absolute correlation over training clips from which on two concepts are not counted as side effects of each other."""


class Concept(NamedTuple):
    """A class of a label (`kind` is the label), or a factor (`kind` is "factor")."""

    kind: str
    name: str

    def __str__(self) -> str:
        return self.name if self.kind == FACTOR else f"{self.kind}: {self.name}"


@dataclass(frozen=True)
class Targets:
    """Values of concepts for each clip, standardised over the training clips; NaN where unknown."""

    concepts: tuple[Concept, ...]
    values: Float[np.ndarray, "clips concepts"]
    entangled: Bool[np.ndarray, "concepts concepts"]


def concept_targets(
    labels: Mapping[str, Shaped[np.ndarray, " clips"]],
    factors: Float[np.ndarray, "clips factors"],
    names: Sequence[str],
    *,
    train: Bool[np.ndarray, " clips"],
) -> Targets:
    """Return the indicator of each class and each factor, standardised; a class is empty text where unknown.

    Concepts that are constant over the training clips, and classes of a single training clip, are left out. Of a label
    with two classes only the first is kept: the other is its negative. Raises `EvaluationError` if none is left.

    >>> sex = {"sex": np.array(["f", "m", "f", "m"])}
    >>> concept_targets(sex, np.zeros((4, 0)), [], train=np.ones(4, dtype=bool)).values[:, 0].tolist()
    [1.0, -1.0, 1.0, -1.0]
    """
    concepts: list[Concept] = []
    columns: list[Float[np.ndarray, " clips"]] = []
    for label, classes in labels.items():
        found, sizes = np.unique(classes[train & (classes != "")], return_counts=True)
        shown = found[sizes > 1][: 1 if len(found) == 2 else None]
        for name in shown.tolist():
            concepts.append(Concept(label, str(name)))
            columns.append(np.where(classes == "", np.nan, (classes == name).astype(np.float64)))
    concepts += [Concept(FACTOR, name) for name in names]
    values = np.concatenate([np.array(columns).reshape(len(columns), len(train)).T, factors], axis=1)
    known = np.isfinite(values) & train[:, None]
    counts = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, values, 0).sum(axis=0) / counts
    spread = np.sqrt((np.where(known, values - mean, 0) ** 2).sum(axis=0) / counts)
    kept = (known.sum(axis=0) >= 2) & (spread > 1e-9 * np.maximum(np.abs(mean), 1e-12))
    if not kept.any():
        raise EvaluationError(
            "no label has two classes of two training clips each, and no factor varies; nothing can be read out"
        )
    standard = (values[:, kept] - mean[kept]) / spread[kept]
    filled = np.where(known[:, kept], standard, 0.0)
    sizes = np.sqrt(np.maximum((filled**2).sum(axis=0), 1e-12))
    entangled = np.abs(filled.T @ filled) / np.outer(sizes, sizes) > ENTANGLED_R
    return Targets(tuple(c for c, keep in zip(concepts, kept, strict=True) if keep), standard, entangled)


@dataclass(frozen=True)
class Readouts:
    """Ridge regressions of concepts on pooled frames; outputs are in standard deviations of the concept.

    `valid_r` is the correlation of output and value over the validation clips, NaN with fewer than three.
    """

    concepts: tuple[Concept, ...]
    weights: Float[np.ndarray, "width concepts"]
    bias: Float[np.ndarray, " concepts"]
    valid_r: Float[np.ndarray, " concepts"]

    def __call__(self, pooled: Float[np.ndarray, "clips width"]) -> Float[np.ndarray, "clips concepts"]:
        """Return the output of each readout."""
        return pooled.astype(np.float64) @ self.weights + self.bias


def fit_readouts(
    pooled: Float[np.ndarray, "clips width"],
    targets: Targets,
    *,
    train: Bool[np.ndarray, " clips"],
    valid: Bool[np.ndarray, " clips"],
) -> Readouts:
    r"""Fit $\min_w \text{mean}\,(z - Xw)^2 + \lambda p \lVert w \rVert^2$ per concept, on standardised dimensions.

    The penalty is the one with the least squared error on the validation clips; weights are those of the training
    clips. Raises `EvaluationError` without training or validation clips.
    """
    if not train.any() or not valid.any():
        raise EvaluationError("readouts need training and validation clips; change the splits")
    rows = pooled.astype(np.float64)
    centre, spread = rows[train].mean(axis=0), rows[train].std(axis=0)
    scale = np.where(spread > 1e-9, spread, np.inf)
    rows = (rows - centre) / scale
    n_concepts, width = targets.values.shape[1], rows.shape[1]
    weights = np.zeros((width, n_concepts))
    valid_r = np.full(n_concepts, np.nan)
    for members, present in missing_patterns(np.isfinite(targets.values)):
        fitted, checked = train & present, valid & present
        z = targets.values[:, members]
        left, sizes, right = np.linalg.svd(rows[fitted], full_matrices=False)
        products = left.T @ z[fitted]
        best = np.full(len(members), np.inf)
        for penalty in PENALTIES:
            shrunk = sizes / (sizes**2 + penalty * width * fitted.sum())
            candidate = right.T @ (shrunk[:, None] * products)
            errors = ((z[checked] - rows[checked] @ candidate) ** 2).mean(axis=0) if checked.any() else np.zeros(1)
            better = errors < best
            weights[:, members[better]] = candidate[:, better]
            best = np.where(better, errors, best)
        if checked.sum() > 2:
            valid_r[members] = column_correlations(rows[checked] @ weights[:, members], z[checked])
    weights = weights / scale[:, None]
    return Readouts(targets.concepts, weights, -centre @ weights, valid_r)


def column_correlations(
    a: Float[np.ndarray, "rows columns"], b: Float[np.ndarray, "rows columns"]
) -> Float[np.ndarray, " columns"]:
    """Return Pearson's correlation of each column of `a` with that of `b`; NaN where either is constant.

    >>> column_correlations(np.array([[0.0], [1.0], [2.0]]), np.array([[0.0], [2.0], [4.0]])).round(6).tolist()
    [1.0]
    """
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    norms = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
    return np.divide((a * b).sum(axis=0), norms, out=np.full(a.shape[1], np.nan), where=norms > 1e-12)
