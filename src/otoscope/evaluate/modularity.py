"""Whether each latent tells about one factor only (Ridgeway and Mozer, NeurIPS 2018)."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from otoscope.evaluate.information import Information
from otoscope.evaluate.mig import mean_of_known


class Modularity(NamedTuple):
    """Mean weighted by what a latent tells, plain mean, and each latent's (NaN where it tells nothing)."""

    value: float
    unweighted: float
    latents: Float[np.ndarray, " latents"]


def modularity(found: Information, *, predicted: Bool[np.ndarray, " factors"] | None = None) -> Modularity:
    """Return how far each latent is from the template that tells about its best factor only.

    With a_ij what latent i tells about factor j and t_i its largest: 1 - sum over the other factors
    of a_ij^2 / (t_i^2 (J - 1)), J the factors that count. The paper's plain mean over latents is
    `unweighted`; in `value` a latent weighs t_i, so that a code of thousands is not judged by latents
    that hardly tell anything. Duplicated latents change neither. NaN with fewer than two factors.
    """
    scores = found.only(predicted)
    counted = scores[:, ~np.isnan(scores).all(axis=0)]
    best = counted.max(axis=1, initial=0)
    told = best > 0
    latents = np.full(len(scores), math.nan)
    if counted.shape[1] < 2 or not told.any():
        return Modularity(math.nan, math.nan, latents)
    relative = counted[told] / best[told, None]
    latents[told] = 1 - ((relative**2).sum(axis=1) - 1) / (counted.shape[1] - 1)
    latents = np.clip(latents, 0, 1)
    return Modularity(float(np.average(latents[told], weights=best[told])), mean_of_known(latents), latents)
