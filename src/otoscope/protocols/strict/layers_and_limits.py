"""R2 of each category of factors by layer, the order of categories over layers, and sparsity limits.

A sparsity limit is the highest sparsity at which codes match the densest ones in reconstruction, factors or a task.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from otoscope.metrics.emergence import compare_order, emergence
from otoscope.metrics.latent_metrics import mean_of_known
from otoscope.metrics.record import Record
from otoscope.metrics.sparsity_limit import sparsity_limit
from otoscope.protocols.strict.regression import RidgeScores
from otoscope.protocols.strict.tasks import FactorTargets
from otoscope.resampling.intervals import Score

ORDER_CLAIMS = (("pitch", "formants"), ("pitch", "mfcc"))
"""Mariotte et al. 2025: pitch early, formants and phoneme-like factors (MFCC) late."""

INPUT_LAYER = 0
"""Input of the first block. Leads are computed with and without it."""


def layer_records(found: Mapping[int, RidgeScores], targets: FactorTargets, about: Record) -> Iterator[Record]:
    """Yield the mean R2 of each category by layer, its earliest and centre layer, and the tests of the claims.

    The order is tested over all layers, and again over the outputs of blocks if layer 0 is among them. R2 is the ridge
    R2, clipped at 0 and averaged over the factors of a category, so that its size has no effect. Intervals cover
    groups and factors. The null is the mean over factors of the null of each, clipped at 0.
    """
    layers = sorted(found)
    squares = np.stack([found[layer].squares for layer in layers])
    groups = squares.shape[1]
    scored = emergence(squares, targets.categories, layers=layers)
    for category in scored:
        members = np.asarray([kind == category.category for kind in targets.categories])
        shared = replace(about, target=category.category, n=category.factors, groups=groups)
        for i, layer in enumerate(layers):
            nulls = (found[layer].null_mean, found[layer].null_high)
            score = Score(
                *(float(number[i]) for number in (category.r2, category.low, category.high)),
                *(mean_of_known(np.maximum(null[members], 0)) for null in nulls),
            )
            yield shared.with_score("category_r2", score, layer=layer)
        for metric in ("earliest", "centre"):
            yield shared.with_score(f"{metric}_layer", getattr(category, metric))
    yield from _leads(squares, layers, targets, replace(about, groups=groups), metric="layer_lead")
    if INPUT_LAYER in layers:
        blocks = [layer for layer in layers if layer != INPUT_LAYER]
        own = squares[[layers.index(layer) for layer in blocks]]
        about = replace(about, groups=groups)
        yield from _leads(own, blocks, targets, about, metric="layer_lead_of_blocks")


def within_layers(record: Record, layers: Sequence[int]) -> Record:
    """Return the record of a position with its interval, which a cross-fit widens, among the layers."""
    if record.metric not in ("earliest_layer", "centre_layer"):
        return record
    low, high = (float(np.clip(end, min(layers), max(layers))) for end in (record.low, record.high))
    return replace(record, low=low, high=high)


def _leads(
    squares: Float[np.ndarray, "layers groups factors 2"],
    layers: Sequence[int],
    targets: FactorTargets,
    about: Record,
    *,
    metric: str,
) -> Iterator[Record]:
    """Yield the lead in layers of each claim's early category over its late one; none over a single layer."""
    for first, then in ORDER_CLAIMS:
        if len(layers) > 1 and {first, then} <= set(targets.categories):
            lead = compare_order(squares, targets.categories, first=first, then=then, layers=layers)
            n = sum(kind in (first, then) for kind in targets.categories)
            yield about.with_score(metric, lead, target=f"{first} before {then}", n=n)
            if metric == "layer_lead":
                yield replace(about, metric="layer_lead_p", value=lead.p, target=f"{first} before {then}", n=n)


MARGINS = {"explained variance": 0.05, "factors": 0.02, "task": 0.02}
"""Loss against the densest SAE that counts as none, by quantity; fixed in advance."""


class Level(NamedTuple):
    """Value at one sparsity, and the same without each test group."""

    value: float
    without: Float[np.ndarray, " groups"]


def limit_records(levels: Mapping[float, Level], *, kind: str, target: str, about: Record) -> Iterator[Record]:
    """Yield the sparsity limit and the knee of the curve of one quantity.

    The limit is NaN if the reference is degenerate: a sparser level exceeds the densest by more than the margin.
    """
    known = {s: levels[s] for s in sorted(levels) if np.isfinite(levels[s].value)}
    if len(known) < 2:
        return
    found = sparsity_limit(
        np.asarray(list(known)),
        np.asarray([level.value for level in known.values()]),
        without=np.stack([level.without for level in known.values()], axis=1),
        margin=MARGINS[kind],
    )
    shared = replace(about, target=target)
    values = [level.value for level in known.values()]
    # a loss against the densest level says nothing where a sparser one is better
    degenerate = max(values) - values[0] > MARGINS[kind]
    yield shared.with_score("sparsity_limit", Score(math.nan) if degenerate else found.limit)
    yield shared.with_score("sparsity_knee", found.knee)
