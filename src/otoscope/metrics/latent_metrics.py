"""Metrics of single latents and factors: MIG, InfoMEC and SAP.

- MIG: gap between the two most informative latents of a factor (Chen et al., NeurIPS 2018), chosen on other clips
- InfoM and InfoC: modularity and compactness from normalised mutual information (InfoMEC; Hsu et al., NeurIPS 2023)
- SAP: gap between the two most predictive latents of a factor (Kumar et al., ICLR 2018)

Explicitness, the third part of InfoMEC, is the held-out R2 of a linear map: `otoscope.metrics.dci`.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from otoscope.errors import EvaluationError
from otoscope.linear.gram import live_columns
from otoscope.metrics.mutual_information import InformationHalves
from otoscope.resampling.groups import missing_patterns, split_rows


class Gap(NamedTuple):
    """Mean over factors; per factor the gap (NaN without information) and its best latent (-1 without information)."""

    value: float
    factors: Float[np.ndarray, " factors"]
    best: Int[np.ndarray, " factors"]


def information_gap(found: InformationHalves, *, predicted: Bool[np.ndarray, " factors"] | None = None) -> Gap:
    """Return the mutual information gap (MIG) of every factor.

    With a_ij the share of factor j's entropy that latent i explains on one half of the clips, and b_ij on the other,
    MIG_j = b_(1)j - b_(2)j for the two latents with the largest a_ij, averaged over both orders of the halves. 1: one
    latent explains all, no other explains anything. 0: two latents explain equally much, so a feature split into two
    latents scores 0 even if both are pure. Among latents without information the gap is 0 on average, because they are
    chosen on other clips; no test decides which pairs count. The mean is at least 0. NaN for a factor that is constant
    or not `predicted`, and for all where the summed information is within `CHANCE` standard deviations of chance.
    """
    kept = found.only(predicted)
    gaps = np.full(len(found.chance_deviation), math.nan)
    best = np.full(len(gaps), -1)
    if not _beyond_chance(kept):
        return Gap(math.nan, gaps, best)
    known = np.isfinite(found.chance_deviation) & (True if predicted is None else predicted)
    live = np.flatnonzero(kept.live)
    first, second = kept.first[live], kept.second[live]
    gaps[known] = (_chosen_gap(first, second) + _chosen_gap(second, first)) / 2
    best[known] = live[(first + second).argmax(axis=0)]
    return Gap(max(mean_of_known(gaps), 0.0), gaps, best)


def _chosen_gap(
    choose: Float[np.ndarray, "latents factors"], measure: Float[np.ndarray, "latents factors"]
) -> Float[np.ndarray, " factors"]:
    """Return the difference of `measure` at the two largest of `choose`; 0 where the two are equal there."""
    largest = choose >= choose.max(axis=0) - 1e-12
    rest = np.where(largest, -math.inf, choose)
    next_largest = ~largest & (rest >= rest.max(axis=0) - 1e-12)
    at_largest, at_next = (
        (measure * chosen).sum(axis=0) / np.maximum(chosen.sum(axis=0), 1) for chosen in (largest, next_largest)
    )
    return np.where(largest.sum(axis=0) > 1, 0.0, at_largest - at_next)


def gap_of(scores: Float[np.ndarray, "latents factors"]) -> Gap:
    """Return the gap between the two largest non-negative scores of each column; NaN columns stay NaN."""
    known = np.nan_to_num(scores)
    padded = np.concatenate([known, np.zeros((2, known.shape[1]))])
    top = np.sort(padded, axis=0)[::-1][:2]
    told = top[0] > 0
    gaps = np.where(told, top[0] - top[1], math.nan)
    best = np.where(told, padded.argmax(axis=0), -1)
    return Gap(mean_of_known(gaps), gaps, best)


def mean_of_known(values: Float[np.ndarray, " n"]) -> float:
    """Return the mean of the values that are not NaN; NaN if there are none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan


class InfoMEC(NamedTuple):
    """InfoM and InfoC; InfoE is `otoscope.metrics.structure.infomec_explicitness`."""

    modularity: float
    compactness: float


def infomec(found: InformationHalves, *, predicted: Bool[np.ndarray, " factors"] | None = None) -> InfoMEC:
    """Return InfoM and InfoC.

    With a_ij the information of latent i on factor j on one half of the clips and b_ij on the other, InfoM is the share
    of all information that latents have on their own factor, sum_i b_i,j(i) / sum_ij b_ij with j(i) = argmax_j a_ij,
    rescaled from 1/J..1 to 0..1. InfoC is the share that factors have in their own latent, chosen likewise, rescaled
    from 1/n..1 with n live latents. Both exchange the halves and sum over both orders.

    The paper averages shares of latents and of factors instead, and sets information without significance to 0. Means
    over latents then depend on the many latents of a wide code that hold nothing, and codes with few active latents
    score highest because little of their information is significant. InfoM and InfoC are NaN where the summed
    information is within `CHANCE` standard deviations of chance. Duplicated latents leave InfoM unchanged and
    halve InfoC.
    """
    kept = found.only(predicted)
    n_latents, n_factors = int(kept.live.sum()), len(kept.chance_deviation)
    total = float(kept.first.sum() + kept.second.sum())
    if not _beyond_chance(kept):
        return InfoMEC(math.nan, math.nan)
    of_factors, of_latents = (
        _chosen_sum(kept.first, kept.second, axis) + _chosen_sum(kept.second, kept.first, axis) for axis in (0, 1)
    )
    return InfoMEC(_rescaled(of_latents / total, n_factors), _rescaled(of_factors / total, n_latents))


CHANCE = 3.0
"""Standard deviations of summed information without any; beyond them, MIG, InfoM and InfoC are defined."""


def _beyond_chance(kept: InformationHalves) -> bool:
    total = float(kept.first.sum() + kept.second.sum())
    return total > CHANCE * math.sqrt(2 * int(kept.live.sum()) * float((kept.chance_deviation**2).sum()))


def _chosen_sum(
    choose: Float[np.ndarray, "latents factors"], measure: Float[np.ndarray, "latents factors"], axis: int
) -> float:
    """Return the sum of `measure` at the maxima of `choose` along an axis; the mean where several are equal."""
    largest = choose >= choose.max(axis=axis, keepdims=True) - 1e-12
    return float(((measure * largest).sum(axis=axis) / largest.sum(axis=axis)).sum())


def _rescaled(share: float, n: int) -> float:
    """Return a share, rescaled from 1/n..1 to 0..1; NaN if n is below 2."""
    return min(max((share - 1 / n) / (1 - 1 / n), 0.0), 1.0) if n > 1 else math.nan


def predictability_gap(
    codes: Float[np.ndarray, "rows latents"],
    factors: Float[np.ndarray, "rows factors"],
    *,
    split: Shaped[np.ndarray, " rows"],
) -> Gap:
    """Return the separated attribute predictability (SAP) of every continuous factor.

    The score of a latent is the R2 on test rows of a line fitted on training and validation rows, relative to their
    mean and at least 0; SAP is the gap between the two best scores. The paper scores the fitted rows instead. NaN for a
    factor that no latent predicts, that is constant or missing; latents that are constant on the fitted rows score 0.
    """
    fitted, judged = _parts(codes, split)
    if len(codes) != len(factors):
        raise EvaluationError(f"{len(codes)} rows of codes but {len(factors)} of factors; give one each a row")
    scores = np.full((codes.shape[1], factors.shape[1]), math.nan)
    for members, present in missing_patterns(~np.isnan(factors)):
        if (present & fitted).sum() > 1 and (present & judged).any():
            scores[:, members] = _line_r2(codes, factors[:, members], present & fitted, present & judged)
    return gap_of(scores)


def _line_r2(
    codes: Float[np.ndarray, "rows latents"],
    factors: Float[np.ndarray, "rows factors"],
    fitted: Bool[np.ndarray, " rows"],
    judged: Bool[np.ndarray, " rows"],
) -> Float[np.ndarray, "latents factors"]:
    live = live_columns(codes[fitted])
    x, y = codes[:, live].astype(np.float64), factors.astype(np.float64)
    x -= x[fitted].mean(axis=0)
    x /= x[fitted].std(axis=0)
    y -= y[fitted].mean(axis=0)
    slope = x[fitted].T @ y[fitted] / fitted.sum()
    explained = 2 * slope * (x[judged].T @ y[judged]) - slope**2 * (x[judged] ** 2).sum(axis=0)[:, None]
    total = (y[judged] ** 2).sum(axis=0)
    defined = live_columns(factors[fitted]) & (total > 0)
    scores = np.zeros((codes.shape[1], factors.shape[1]))
    scores[live] = np.maximum(explained / np.where(defined, total, 1), 0)
    scores[:, ~defined] = math.nan
    return scores


def _parts(
    codes: Float[np.ndarray, "rows latents"], split: Shaped[np.ndarray, " rows"]
) -> tuple[Bool[np.ndarray, " rows"], Bool[np.ndarray, " rows"]]:
    """Return the fitted rows (train and valid) and the test rows."""
    if codes.ndim != 2 or not np.isfinite(codes).all():
        raise EvaluationError(f"codes must be finite and [rows, latents], got shape {codes.shape}")
    judged = split_rows(split, "test", len(codes))
    return split_rows(split, "train", len(codes)) | (np.asarray(split) == "valid"), judged
