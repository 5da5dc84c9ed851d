"""How much a few dimensions tell: the plain test of "fewer dimensions encode the same"."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from otoscope.linear.gram import live_columns
from otoscope.metrics.record import Record
from otoscope.metrics.sparse_probes import SparseProbeSettings, sparse_probe
from otoscope.protocols.strict.factors import Asked
from otoscope.protocols.strict.measure import Measured
from otoscope.protocols.strict.settings import StrictSettings
from otoscope.protocols.strict.structure import Common, mean_curve

MOST_PERMUTATIONS = 5
"""Repetitions of a curve's null; a curve is as many fits as it has points."""


def label_curves(
    units: Float[np.ndarray, "clips p"], asked: Asked, settings: StrictSettings, about: Record, *, resamples: int
) -> Iterator[Record]:
    """Yield balanced accuracy of each label from 1, 2, 4, ... dimensions; the column `k` says how many."""
    if not live_columns(units[asked.split == "train"]).any():
        return
    few = SparseProbeSettings(
        sizes=settings.sizes, permutations=min(settings.permutations, MOST_PERMUTATIONS), resamples=resamples
    )
    for label, values in asked.clips.labels.items():
        curve = sparse_probe(units, values, groups=asked.groups, split=asked.split, settings=few)
        for size, score in zip(curve.sizes, curve.scores, strict=True):
            yield replace(
                about,
                metric="sparse_probe_balanced_accuracy",
                target=label,
                k=size,
                value=score.value,
                low=score.low,
                high=score.high,
                null_mean=score.null_mean,
                null_high=score.null_high,
                n=curve.n,
                groups=curve.groups,
            )


def factor_curve(found: Measured, common: Common, settings: StrictSettings, about: Record) -> Iterator[Record]:
    """Yield mean R2 of the common factors from 1, 2, 4, ... dimensions; the column `k` says how many."""
    real, null = mean_curve(found.curve, common), mean_curve(found.curve_null, common)
    groups = int(found.reading.groups.max(initial=0))
    for size, point, floor in zip(settings.sizes, real, null, strict=True):
        yield replace(
            about,
            metric="sparse_r2",
            k=size,
            value=point.value,
            low=point.low,
            high=point.high,
            null_mean=floor.value,
            null_high=floor.high,
            n=int(common.mask.sum()),
            groups=groups,
        )
