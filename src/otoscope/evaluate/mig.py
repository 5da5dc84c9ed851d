"""By how much the most informative latent of a factor leads the next (Chen et al., NeurIPS 2018)."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from otoscope.evaluate.information import Information


class Gap(NamedTuple):
    """The mean over factors; per factor the gap (NaN where nothing is told) and its best latent (-1 likewise)."""

    value: float
    factors: Float[np.ndarray, " factors"]
    best: Int[np.ndarray, " factors"]


def information_gap(found: Information, *, predicted: Bool[np.ndarray, " factors"] | None = None) -> Gap:
    """Return the mutual information gap (MIG) of every factor.

    With a_ij the share of factor j's entropy that latent i tells (`measure_information`), sorted
    downwards: MIG_j = a_(1)j - a_(2)j. 1: one latent tells all and no other anything. 0: two tell
    the same, so that a feature split in two halves scores 0 however clear the halves are. NaN for a
    factor that no latent tells about or that is not `predicted`.
    """
    return gap_of(found.only(predicted))


def gap_of(scores: Float[np.ndarray, "latents factors"]) -> Gap:
    """Return the gap between the two largest scores, 0 or more, of each column; NaN columns stay NaN."""
    known = np.nan_to_num(scores)
    padded = np.concatenate([known, np.zeros((2, known.shape[1]))])
    top = np.sort(padded, axis=0)[::-1][:2]
    told = top[0] > 0
    gaps = np.where(told, top[0] - top[1], math.nan)
    best = np.where(told, padded.argmax(axis=0), -1)
    return Gap(mean_of_known(gaps), gaps, best)


def mean_of_known(values: Float[np.ndarray, " n"]) -> float:
    """Return the mean of what is not NaN; NaN without any."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan
