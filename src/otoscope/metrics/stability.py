"""Stability of SAEs over seeds: similarity of dictionaries, matching of latents.

Dictionaries are compared by their atoms, latents by their activations on the same rows. The best of many candidates is
never near 0, so each figure has a null: random dictionaries of the same size, or codes with shuffled rows.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment

from otoscope.errors import EvaluationError
from otoscope.linear.gram import live_columns
from otoscope.resampling.groups import null_summary
from otoscope.resampling.nulls import permute_rows, random_dictionary

CORRELATION = 0.7
SHARE = 0.8


class Similarity(NamedTuple):
    """Similarity of two dictionaries, with mean and 95 % point of its null."""

    value: float
    null_mean: float
    null_high: float


class Matching(NamedTuple):
    """Match of each latent of the first code in the second (-1: none) and their correlation (NaN: dead)."""

    partner: Int[np.ndarray, " latents"]
    correlation: Float[np.ndarray, " latents"]


class Reappearing(NamedTuple):
    """Latents of the first seed that reappear in other seeds.

    `share` is the share of the other seeds in which each latent has a partner of the required correlation (NaN: dead);
    `stable` is true if it reaches the required share; `value` is the stable share of live latents; the null is the same
    share for shuffled rows.
    """

    value: float
    null_mean: float
    null_high: float
    stable: Bool[np.ndarray, " latents"]
    share: Float[np.ndarray, " latents"]
    correlation: Float[np.ndarray, " latents"]
    matches: tuple[Matching, ...]


def mean_max_cosine(one: Float[np.ndarray, "latents width"], other: Float[np.ndarray, "others width"]) -> float:
    """Return the mean over the atoms of both dictionaries of the largest cosine with an atom of the other.

    The mean of the two directions of MMCS (Sharkey et al., 2022), hence symmetric. Atoms of length 0 are excluded; NaN
    if a dictionary has no other atoms.

    >>> mean_max_cosine(np.eye(3), np.eye(3)[[2, 0, 1]] * 5)
    1.0
    """
    if one.ndim != 2 or other.ndim != 2 or one.shape[1] != other.shape[1]:
        raise EvaluationError(f"dictionaries must be [latents, width] of one width, got {one.shape} and {other.shape}")
    first, second = _unit(one), _unit(other)
    if not len(first) or not len(second):
        return math.nan
    cosine = first @ second.T
    return float((cosine.max(axis=1).mean() + cosine.max(axis=0).mean()) / 2)


def compare_dictionaries(
    one: Float[np.ndarray, "latents width"],
    other: Float[np.ndarray, "others width"],
    *,
    repeats: int = 5,
) -> Similarity:
    """Return the mean max cosine of two dictionaries and the null of random pairs of the same sizes.

    Random atoms are uniform on the sphere (`nulls.random_dictionary`). Raises `EvaluationError` for different widths.
    """
    value = mean_max_cosine(one, other)
    draws = [
        mean_max_cosine(
            random_dictionary(len(one), one.shape[1], seed=2 * i),
            random_dictionary(len(other), one.shape[1], seed=2 * i + 1),
        )
        for i in range(repeats)
    ]
    mean, high = null_summary(np.asarray(draws))
    return Similarity(value, float(mean), float(high))


def match_latents(one: Float[np.ndarray, "rows latents"], other: Float[np.ndarray, "rows others"]) -> Matching:
    """Pair the latents of two codes of the same rows, one to one, with maximum total correlation.

    The assignment is exact (scipy's `linear_sum_assignment`; PW-MCC of Song et al., arXiv:2505.20254, with Pearson
    correlations of activations). Latents that do not vary are excluded: their partner is -1 and their correlation NaN.
    A live latent without a partner, if the other code has fewer, has correlation 0. Raises `EvaluationError` for codes
    of different rows.
    """
    if one.ndim != 2 or other.ndim != 2 or len(one) != len(other) or not len(one):
        raise EvaluationError(f"codes must be [rows, latents] of the same rows, got {one.shape} and {other.shape}")
    live, live_other = live_columns(one), live_columns(other)
    partner, correlation = np.full(one.shape[1], -1), np.full(one.shape[1], math.nan)
    correlation[live] = 0.0
    if live.any() and live_other.any():
        alike = _standard(one[:, live]).T @ _standard(other[:, live_other]) / len(one)
        mine, theirs = linear_sum_assignment(alike, maximize=True)
        rows = np.flatnonzero(live)[mine]
        partner[rows] = np.flatnonzero(live_other)[theirs]
        correlation[rows] = np.clip(alike[mine, theirs], -1, 1)
    return Matching(partner, correlation)


def matched_latents(
    codes_by_seed: Sequence[Float[np.ndarray, "rows _latents"]],
    *,
    share: float = SHARE,
) -> Reappearing:
    """Return the latents of the first seed that reappear in the others.

    A latent reappears in a seed if its partner (`match_latents`) has a correlation of at least `CORRELATION`; it is
    stable if it reappears in at least `share` of the other seeds. Restrict claims about single latents to stable ones.

    Args:
        codes_by_seed: codes of the same rows, one array per seed, at least two.
        share: minimum share of the other seeds, 0 to 1.
    """
    if len(codes_by_seed) < 2:
        raise EvaluationError(f"give codes of two seeds or more; got {len(codes_by_seed)}")
    if not 0 < share <= 1:
        raise EvaluationError(f"share must lie in 0..1, got {share}")
    mine, *others = codes_by_seed
    matches = tuple(match_latents(mine, other) for other in others)
    found = np.stack([match.correlation for match in matches])
    shuffled = [permute_rows(other, seed=j) for j, other in enumerate(others)]
    null = _stable_share(_reached(np.stack([match_latents(mine, other).correlation for other in shuffled])), share)
    mean, high = null_summary(np.asarray([null]))
    reached = _reached(found)
    return Reappearing(
        value=_stable_share(reached, share),
        null_mean=float(mean),
        null_high=float(high),
        stable=np.nan_to_num(reached) >= share - 1e-12,
        share=reached,
        correlation=found.mean(axis=0),
        matches=matches,
    )


def _reached(found: Float[np.ndarray, "others latents"]) -> Float[np.ndarray, " latents"]:
    """Return the share of other seeds that reach the correlation; NaN for dead latents."""
    return np.where(np.isnan(found[0]), math.nan, (found >= CORRELATION).mean(axis=0))


def _stable_share(reached: Float[np.ndarray, " latents"], share: float) -> float:
    live = ~np.isnan(reached)
    return float((reached[live] >= share - 1e-12).mean()) if live.any() else math.nan


def _unit(atoms: Float[np.ndarray, "latents width"]) -> Float[np.ndarray, "kept width"]:
    wide = atoms.astype(np.float64)
    length = np.linalg.norm(wide, axis=1, keepdims=True)
    kept = length[:, 0] > 0
    return wide[kept] / length[kept]


def _standard(codes: Float[np.ndarray, "rows latents"]) -> Float[np.ndarray, "rows latents"]:
    wide = codes.astype(np.float64)
    centred = wide - wide.mean(axis=0)
    return centred / centred.std(axis=0)
