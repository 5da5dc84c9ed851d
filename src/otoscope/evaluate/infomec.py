"""Modularity and compactness from normalised mutual information (InfoMEC; Hsu et al., NeurIPS 2023).

Explicitness, the third, is a linear map's held-out share of what can be known: `otoscope.evaluate.dci`.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from otoscope.errors import EvaluationError
from otoscope.evaluate.information import Information
from otoscope.evaluate.mig import mean_of_known


class InfoMEC(NamedTuple):
    """InfoM and InfoC, per latent and per factor what they are made of, and InfoE where R2 was given."""

    modularity: float
    compactness: float
    explicitness: float
    latents: Float[np.ndarray, " latents"]
    factors: Float[np.ndarray, " factors"]


def infomec(
    found: Information,
    *,
    r2: Float[np.ndarray, " factors"] | None = None,
    predicted: Bool[np.ndarray, " factors"] | None = None,
) -> InfoMEC:
    """Return InfoM, InfoC and InfoE.

    With a_ij what latent i tells about factor j, over latents that tell anything and J factors that
    are told of: a latent's share is max_j a_ij / sum_j a_ij, rescaled from 1/J..1 to 0..1; InfoM is
    the mean over latents. A factor's share is max_i a_ij / sum_i a_ij, rescaled from 1/n..1 with n
    the live latents; InfoC is the mean over factors. InfoE is the mean of `r2`, the held-out R2 of a
    linear map from the code (the predictive information of the linear Gaussian family; Xu et al.,
    ICLR 2020), negative ones counting 0.

    Dead latents are pruned, as the paper asks: they enter neither sum nor n. A latent that tells
    nothing and a factor that nothing tells about are NaN. Duplicated latents leave InfoM, halve a
    factor's share, and leave InfoE.
    """
    scores = found.only(predicted)
    counted = np.asarray(~np.isnan(scores).all(axis=0))
    known = np.nan_to_num(scores)
    latents = _rescaled(known, int(counted.sum()), axis=1)
    factors = _rescaled(known, int(found.live.sum()), axis=0)
    return InfoMEC(mean_of_known(latents), mean_of_known(factors), _explicitness(r2, counted), latents, factors)


def _rescaled(scores: Float[np.ndarray, "latents factors"], n: int, *, axis: int) -> Float[np.ndarray, " kept"]:
    """Return the largest share along an axis, from 1/n..1 to 0..1; NaN where all are 0 or n is below 2."""
    total = scores.sum(axis=axis)
    told = total > 0
    share = scores.max(axis=axis, initial=0) / np.where(told, total, 1)
    if n < 2:
        return np.full(len(share), math.nan)
    return np.where(told, np.clip((share - 1 / n) / (1 - 1 / n), 0, 1), math.nan)


def _explicitness(r2: Float[np.ndarray, " factors"] | None, counted: Bool[np.ndarray, " factors"]) -> float:
    if r2 is None:
        return math.nan
    if r2.shape != counted.shape:
        raise EvaluationError(f"`r2` must hold one number a factor ({len(counted)}), got shape {r2.shape}")
    return mean_of_known(np.maximum(r2[counted], 0))
