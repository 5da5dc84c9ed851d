"""Sparse probes: held-out balanced accuracy of a label from its best 1, 2, 4, ... 64 latents.

k-sparse probing (Gurnee et al., arXiv:2305.01610): latents are ranked on training rows, and a logistic regression uses
the first k of them (`otoscope.metrics.probes`: penalty chosen on validation rows, fitted on both, reported on test
rows).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from otoscope.errors import EvaluationError
from otoscope.linear.gram import live_columns
from otoscope.metrics.probes import PENALTIES, ProbeSettings, fit_probe
from otoscope.metrics.sparse_regression import SIZES, check_sizes
from otoscope.resampling.groups import each_split, split_rows
from otoscope.resampling.intervals import Score


@dataclass(frozen=True)
class SparseProbeSettings:
    """Points of the curve, grid of penalties, and the tolerance of the fits."""

    sizes: Sequence[int] = SIZES
    penalties: Sequence[float] = PENALTIES
    tolerance: float = 1e-3


class LabelCurve(NamedTuple):
    """Balanced accuracy on test rows by number of latents, and the latents in order of rank (in the first fold)."""

    sizes: tuple[int, ...]
    scores: tuple[Score, ...]
    chosen: Int[np.ndarray, " most"]
    n: int
    groups: int


def sparse_probe(
    features: Float[np.ndarray, "rows p"],
    labels: Sequence[str | None] | Shaped[np.ndarray, " rows"],
    *,
    groups: Shaped[np.ndarray, " rows"],
    split: Shaped[np.ndarray, "*folds rows"],
    settings: SparseProbeSettings | None = None,
) -> LabelCurve:
    """Return the curve of balanced accuracy over the number of latents for one label.

    Latents are ranked by the F ratio of an analysis of variance between the classes of the training rows (for two
    classes: the squared mean difference over the variance within classes). A size above the number of live latents uses
    all of them. Arguments and errors as in `probes.fit_probe`.
    """
    settings = settings or SparseProbeSettings()
    check_sizes(settings.sizes)
    names = np.asarray(["" if x is None else str(x) for x in labels], dtype=np.str_)
    if not len(features) == len(names) == len(groups):
        raise EvaluationError(
            f"{len(features)} rows, {len(names)} labels and {len(groups)} groups disagree; give one each a row"
        )
    rankings = [_rank(features, names, one, settings.sizes[-1]) for one in each_split(split)]
    few = ProbeSettings(settings.penalties, settings.tolerance)
    probes = [
        fit_probe(
            [features[:, ranking[:size]] for ranking in rankings],
            names,
            groups=groups,
            split=split,
            settings=few,
        )
        for size in settings.sizes
    ]
    scores = tuple(probe.balanced_accuracy for probe in probes)
    return LabelCurve(tuple(settings.sizes), scores, rankings[0], probes[0].n, probes[0].groups)


def _rank(
    features: Float[np.ndarray, "rows p"],
    names: Shaped[np.ndarray, " rows"],
    split: Shaped[np.ndarray, " rows"],
    most: int,
) -> Int[np.ndarray, " most"]:
    train = split_rows(split, "train", len(names)) & (names != "")
    ranking = rank_by_f(features[train], names[train])[:most]
    if not len(ranking):
        raise EvaluationError("all features are constant on the training rows; there is nothing to choose from")
    return ranking


def rank_by_f(rows: Float[np.ndarray, "rows p"], names: Shaped[np.ndarray, " rows"]) -> Int[np.ndarray, " live"]:
    """Return the columns that vary, by decreasing F ratio between classes.

    F is the variance between class means over the variance within classes. Columns that separate all classes without
    variance within them come first.
    """
    live = live_columns(rows)
    x = rows[:, live].astype(np.float64)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    between = np.zeros(x.shape[1])
    for name in np.unique(names):
        members = x[names == name]
        between += len(members) * members.mean(axis=0) ** 2
    within = len(x) - between
    # with unit variance F increases with the share between classes, and rounding cannot reverse it
    ratio = np.where(within > 1e-12 * len(x), between / np.maximum(within, 1e-12 * len(x)), math.inf)
    return np.flatnonzero(live)[np.argsort(-ratio, kind="stable")]
