"""Intervals that respect groups: whole groups are resampled, never single rows.

Clips of one singer resemble each other, so an interval over clips is too narrow. Every interval
here resamples groups with replacement (the cluster bootstrap; Davison and Hinkley 1997, section
3.8) and takes percentiles. Metrics that depend on the rows only through sums (means, ratios of
sums, confusion matrices) are computed for all resamples in one matrix product.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped
from numpy.typing import NDArray

from otoscope.errors import EvaluationError

RESAMPLES = 1000
CONFIDENCE = 0.95


class Interval(NamedTuple):
    """A value and its percentile interval; the ends are NaN with fewer than two groups."""

    value: float
    low: float
    high: float


class Score(NamedTuple):
    """A value, its interval over groups, and what the same procedure gives on permuted targets."""

    value: float
    low: float
    high: float
    null_mean: float
    null_high: float


def number_groups(groups: Shaped[np.ndarray, " rows"]) -> tuple[Int[np.ndarray, " rows"], int]:
    """Return each row's group as an integer below the number of groups, and that number.

    >>> number_groups(np.array(["b", "a", "b"]))
    (array([1, 0, 1]), 2)
    """
    names, codes = np.unique(np.asarray(groups), return_inverse=True)
    return codes.astype(np.int64), len(names)


def group_sums(values: Float[np.ndarray, "rows ..."], groups: Shaped[np.ndarray, " rows"]) -> NDArray[Any]:
    """Return the sums of `values` over the rows of each group, `[groups, ...]`, in float64.

    Raises `EvaluationError` when `values` and `groups` differ in length.
    """
    if len(values) != len(groups):
        raise EvaluationError(f"{len(values)} rows of values but {len(groups)} group names; give one group a row")
    codes, n_groups = number_groups(groups)
    sums = np.zeros((n_groups, *values.shape[1:]))
    np.add.at(sums, codes, np.asarray(values, dtype=np.float64))
    return sums


def resample_counts(n_groups: int, *, resamples: int = RESAMPLES, seed: int = 0) -> Int[np.ndarray, "resamples groups"]:
    """Return how often each group is drawn in each resample; every row sums to `n_groups`."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=resamples)


def bootstrap_sums(
    sums: Float[np.ndarray, "groups ..."],
    statistic: Callable[[NDArray[Any]], NDArray[Any]],
    *,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return value, low and high of a statistic that depends on the rows through sums only.

    `statistic` maps sums `[resamples, ...]` to `[resamples, ...]`; the value is the statistic of
    all groups together. Resamples where it is undefined (NaN) are left out of the percentiles;
    with fewer than two groups both ends are NaN.
    """
    value = np.asarray(statistic(sums.sum(axis=0, keepdims=True))[0])
    if len(sums) < 2:
        undefined = np.full_like(value, math.nan)
        return value, undefined, undefined
    counts = resample_counts(len(sums), resamples=resamples, seed=seed)
    drawn = statistic(np.tensordot(counts.astype(np.float64), sums, axes=1))
    low, high = quantiles(drawn, confidence)
    return value, np.asarray(low), np.asarray(high)


def r2_of(sums: Float[np.ndarray, "*batch 2"]) -> Float[np.ndarray, "*batch"]:
    """Return 1 - first / second of sums of squared errors and deviations; NaN where nothing deviates."""
    defined = sums[..., 1] > 0
    return np.where(defined, 1 - sums[..., 0] / np.where(defined, sums[..., 1], 1), math.nan)


def bootstrap_mean(
    scores: Float[np.ndarray, " rows"],
    groups: Shaped[np.ndarray, " rows"],
    *,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Interval:
    """Return the mean of per-row scores with its interval over groups.

    Each resample is the mean over all rows of the drawn groups, so that large groups weigh more,
    as they do in the value itself. Raises `EvaluationError` without rows.

    >>> bootstrap_mean(np.array([0.0, 1.0]), np.array(["a", "a"]))
    Interval(value=0.5, low=nan, high=nan)
    """
    if len(scores) == 0:
        raise EvaluationError("no rows to average; at least one is needed")
    sums = group_sums(np.stack([scores, np.ones(len(scores))], axis=1), groups)
    found = bootstrap_sums(sums, lambda s: s[..., 0] / s[..., 1], resamples=resamples, confidence=confidence, seed=seed)
    return Interval(*(float(x) for x in found))


def bootstrap_rows(
    statistic: Callable[[Int[np.ndarray, " drawn"]], float],
    groups: Shaped[np.ndarray, " rows"],
    *,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Interval:
    """Return any statistic of row indices with its interval over groups.

    For statistics that no sums express (medians, rank correlations); one call a resample, so
    prefer `bootstrap_sums` where it applies.
    """
    codes, n_groups = number_groups(groups)
    value = float(statistic(np.arange(len(codes))))
    if n_groups < 2:
        return Interval(value, math.nan, math.nan)
    members = [np.flatnonzero(codes == g) for g in range(n_groups)]
    counts = resample_counts(n_groups, resamples=resamples, seed=seed)
    drawn = [
        float(statistic(np.concatenate([np.tile(rows, times) for rows, times in zip(members, row, strict=True)])))
        for row in counts
    ]
    low, high = quantiles(np.asarray(drawn), confidence)
    return Interval(value, float(low), float(high))


def quantiles(drawn: Float[np.ndarray, "resamples ..."], confidence: float) -> NDArray[Any]:
    """Return the two ends of the central `confidence` of the resamples, `[2, ...]`, NaN where all are NaN."""
    if not 0 < confidence < 1:
        raise EvaluationError(f"confidence must lie between 0 and 1, got {confidence}; 0.95 is usual")
    tail = (1 - confidence) / 2
    flat = drawn.reshape(len(drawn), -1)
    defined = ~np.isnan(flat).all(axis=0)
    ends = np.full((2, flat.shape[1]), math.nan)
    ends[:, defined] = np.nanquantile(flat[:, defined], [tail, 1 - tail], axis=0)
    return ends.reshape(2, *drawn.shape[1:])


def null_summary(null: Float[np.ndarray, "permutations ..."]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return mean and 95 % point of a null distribution, NaN where nothing is defined.

    The 95 % point is the smallest permuted value that at least 95 % of them do not exceed: with
    fewer than 20 permutations, the largest.
    """
    if len(null) == 0:
        undefined = np.full(null.shape[1:], math.nan)
        return undefined, undefined
    flat = null.reshape(len(null), -1)
    defined = ~np.isnan(flat).all(axis=0)
    mean, high = np.full(flat.shape[1], math.nan), np.full(flat.shape[1], math.nan)
    mean[defined] = np.nanmean(flat[:, defined], axis=0)
    high[defined] = np.nanquantile(flat[:, defined], 0.95, axis=0, method="higher")
    return mean.reshape(null.shape[1:]), high.reshape(null.shape[1:])
