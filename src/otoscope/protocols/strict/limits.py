"""Up to which sparsity a dictionary rebuilds, tells labels apart and predicts factors as the densest one does."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from otoscope.metrics.record import Record
from otoscope.metrics.sparsity_limit import sparsity_limit

MARGINS = {"explained variance": 0.05, "factors": 0.02, "task": 0.02}
"""Loss against the densest dictionary that still counts as none, fixed beforehand."""


class Level(NamedTuple):
    """A value at one sparsity, and the same under draws of groups that all sparsities share."""

    value: float
    draws: Float[np.ndarray, " resamples"]


def limits_of(levels: Mapping[float, Level], *, kind: str, target: str, about: Record) -> Iterator[Record]:
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
    limit, knee = found.limit, found.knee
    yield replace(shared, metric="sparsity_limit", value=limit.value, low=limit.low, high=limit.high)
    yield replace(shared, metric="sparsity_knee", value=knee.value, low=knee.low, high=knee.high)
