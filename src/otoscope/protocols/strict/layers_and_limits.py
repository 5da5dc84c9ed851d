"""In which layers each category of factors can be read, and the study's claim about their order.

Up to which sparsity a dictionary rebuilds, tells labels apart and predicts factors as the densest one does.
"""

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
from otoscope.resampling.groups import Score

ORDER_CLAIMS = (("pitch", "formants"), ("pitch", "mfcc"))
"""Mariotte et al. 2025: pitch early, formants and phoneme-like factors (MFCC) late."""

INPUT_LAYER = 0
"""The layer that no block has seen: the input of the first. Leads are told with it and without."""


def layer_records(
    found: Mapping[int, RidgeScores], targets: FactorTargets, about: Record, *, resamples: int
) -> Iterator[Record]:
    """Yield each category's mean R2 by layer, its earliest and its centre layer, and the tests of the claims.

    The order is tested over all layers, and over the outputs of blocks alone where layer 0 is among them.
    R2 is that of a ridge regression, at least 0, averaged over the category's factors, so that a large
    category does not look better; intervals draw groups and factors. The null is the mean of what
    permuted factors reach at most.
    """
    layers = sorted(found)
    squares = np.stack([found[layer].squares for layer in layers])
    groups = squares.shape[1]
    scored = emergence(squares, targets.categories, layers=layers, resamples=resamples)
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
    yield from _leads(squares, layers, targets, replace(about, groups=groups), metric="layer_lead", resamples=resamples)
    if INPUT_LAYER in layers:
        blocks = [layer for layer in layers if layer != INPUT_LAYER]
        own = squares[[layers.index(layer) for layer in blocks]]
        about = replace(about, groups=groups)
        yield from _leads(own, blocks, targets, about, metric="layer_lead_of_blocks", resamples=resamples)


def _leads(
    squares: Float[np.ndarray, "layers groups factors 2"],
    layers: Sequence[int],
    targets: FactorTargets,
    about: Record,
    *,
    metric: str,
    resamples: int,
) -> Iterator[Record]:
    """Yield by how many of the layers each claim's early category leads its late one; none over a single layer."""
    for first, then in ORDER_CLAIMS:
        if len(layers) > 1 and {first, then} <= set(targets.categories):
            lead = compare_order(
                squares, targets.categories, first=first, then=then, layers=layers, resamples=resamples
            )
            n = sum(kind in (first, then) for kind in targets.categories)
            yield about.with_score(metric, lead, target=f"{first} before {then}", n=n)


MARGINS = {"explained variance": 0.05, "factors": 0.02, "task": 0.02}
"""Loss against the densest dictionary that still counts as none, fixed beforehand."""


class Level(NamedTuple):
    """A value at one sparsity, and the same under draws of groups that all sparsities share."""

    value: float
    draws: Float[np.ndarray, " resamples"]


def limit_records(levels: Mapping[float, Level], *, kind: str, target: str, about: Record) -> Iterator[Record]:
    """Yield the sparsest level within the margin, and the bend of the curve, of one quantity."""
    known = {s: levels[s] for s in sorted(levels) if np.isfinite(levels[s].value)}
    if len(known) < 2:
        return
    found = sparsity_limit(
        np.asarray(list(known)),
        np.asarray([level.value for level in known.values()]),
        draws=np.stack([level.draws for level in known.values()], axis=1),
        margin=MARGINS[kind],
    )
    shared = replace(about, target=target)
    yield shared.with_score("sparsity_limit", found.limit)
    yield shared.with_score("sparsity_knee", found.knee)
