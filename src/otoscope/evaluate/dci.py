"""How easily factors can be read, and how large the code is: the E and S of DCI-ES (Eastwood et al., ICLR 2023).

Disentanglement, completeness and informativeness stand in `otoscope.evaluate.disentanglement` and
`lasso`. Explicitness asks what capacity a probe needs. The probes here: a tuned linear map, then the
same with 16, 32, ... 512 radial functions around training rows fitted to what it leaves (Nyström
features; Williams and Seeger, NeurIPS 2000). They see distances between standardised rows only, so
order, unit and dead latents do not matter.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from otoscope.errors import EvaluationError
from otoscope.evaluate.mig import mean_of_known
from otoscope.linear.gram import live_columns
from otoscope.linear.ridge import RidgeFits, RidgeSettings, fit_ridge
from otoscope.resampling.groups import patterns, rows_of

CAPACITIES = (0, 16, 32, 64, 128, 256, 512)
"""Radial functions beside the linear map; each step counts as one unit of capacity, a doubling."""
RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 1e3)


class Explicitness(NamedTuple):
    """Mean and each factor's explicitness; held-out loss (1 - R2) by capacity; the linear map's fits."""

    value: float
    factors: Float[np.ndarray, " factors"]
    losses: Float[np.ndarray, "factors capacities"]
    capacities: tuple[int, ...]
    linear: RidgeFits


def explicitness(
    codes: Float[np.ndarray, "rows latents"],
    factors: Float[np.ndarray, "rows factors"],
    *,
    groups: Shaped[np.ndarray, " rows"],
    split: Shaped[np.ndarray, " rows"],
    predicted: Bool[np.ndarray, " factors"] | None = None,
    capacities: Sequence[int] = CAPACITIES,
    seed: int = 0,
) -> Explicitness:
    """Return how little more than a linear map it takes to read each factor.

    With l_t the loss (1 - R2 on test rows) at step t = 1..T, l* the lowest, first reached at t*, and
    loss 1 for knowing nothing: E = 1 - A / Z, where A is the area between the curve and l* up to t*
    (trapezoids) and Z = (T - 1)(1 - l*) / 2. 1: the linear map reads all that can be read. 0: the loss
    falls evenly from nothing to its lowest. -1: only the largest probe reads anything.

    Args:
        codes: any representation, one row a clip.
        factors: NaN where a clip has none.
        groups: what must not be shared between splits (singer, speaker).
        split: train, valid or test for each row; penalties are chosen on valid.
        predicted: factors to score; all if absent.
        capacities: radial functions at each step, from 0, increasing; at most as many as fitted rows are used.
        seed: of the choice of training rows.

    NaN for a factor that no probe predicts. Raises `EvaluationError` as `fit_ridge` does, and for
    capacities that do not increase from 0.
    """
    steps = tuple(capacities)
    if len(steps) < 2 or steps[0] != 0 or any(b <= a for a, b in pairwise(steps)):
        raise EvaluationError(f"capacities must increase from 0 in two steps or more, got {steps}")
    linear = fit_ridge(
        codes, factors, groups=groups, split=split, settings=RidgeSettings(permutations=0, resamples=1), seed=seed
    )
    left = factors - linear.guesses
    losses = np.full((factors.shape[1], len(steps)), math.nan)
    losses[:, 0] = 1 - linear.r2
    parts = {name: rows_of(split, name, len(codes)) for name in ("train", "valid", "test")}
    near = _radial(codes, parts, steps[-1], seed)
    for members, present in patterns(~np.isnan(left)):
        here = {name: np.flatnonzero(rows & present) for name, rows in parts.items()}
        if all(len(rows) for rows in here.values()):
            total = _deviations(factors[:, members], here)
            for t, size in enumerate(steps[1:], start=1):
                losses[members, t] = _loss(near[:, :size], left[:, members], here) / total
    if predicted is not None:
        losses[~predicted] = math.nan
    scores = _score(losses)
    return Explicitness(mean_of_known(scores), scores, losses, steps, linear)


def relative_size(n_factors: int, live: Bool[np.ndarray, " latents"]) -> float:
    """Return the S of DCI-ES: factors over latents that vary, 1 where there is a latent a factor.

    A code with more latents than factors pays for it here and not in completeness. The number of
    factors is best given as their effective rank, rounded, where they depend on each other. More
    factors than latents count as 1; NaN without a live latent.

    >>> relative_size(16, np.ones(64, dtype=bool))
    0.25
    """
    n_live = int(live.sum())
    return min(n_factors / n_live, 1.0) if n_live else math.nan


def _radial(
    codes: Float[np.ndarray, "rows latents"], parts: dict[str, Bool[np.ndarray, " rows"]], most: int, seed: int
) -> Float[np.ndarray, "rows centres"]:
    """Return exp(-d^2 / mean d^2) of the distances d from every row to some training rows."""
    train = np.flatnonzero(parts["train"])
    live = live_columns(codes[train])
    x = codes[:, live].astype(np.float64)
    x = (x - x[train].mean(axis=0)) / x[train].std(axis=0)
    centres = x[np.random.default_rng(seed).permutation(train)[:most]]
    squared = (x**2).sum(axis=1)[:, None] + (centres**2).sum(axis=1) - 2 * x @ centres.T
    return np.exp(-np.maximum(squared, 0) / max(float(squared[train].mean()), 1e-300))


def _loss(
    near: Float[np.ndarray, "rows centres"],
    left: Float[np.ndarray, "rows factors"],
    here: dict[str, Int[np.ndarray, " _part"]],
) -> Float[np.ndarray, " factors"]:
    """Return the squared test error of a ridge from radial functions, its penalty chosen on validation rows."""
    train, valid, test = (here[name] for name in ("train", "valid", "test"))
    first, centre = near[train], left[train].mean(axis=0)
    mean = first.mean(axis=0)
    spread = first - mean
    variance, axes = np.linalg.eigh(spread.T @ spread / len(train))
    turned = axes.T @ (spread.T @ (left[train] - centre) / len(train))
    ridges = np.asarray(RIDGES)[:, None, None] * max(float(variance.mean()), 1e-300)
    # the smallest penalty per factor that validation rows like best
    weights = axes @ (turned / (np.maximum(variance, 0)[:, None] + ridges))
    errors = ((left[valid] - centre - (near[valid] - mean) @ weights) ** 2).sum(axis=1)
    chosen = weights[errors.argmin(axis=0), :, np.arange(left.shape[1])].T
    return ((left[test] - centre - (near[test] - mean) @ chosen) ** 2).sum(axis=0)


def _deviations(
    factors: Float[np.ndarray, "rows factors"], here: dict[str, Int[np.ndarray, " _part"]]
) -> Float[np.ndarray, " factors"]:
    """Return the squared deviation of test rows from the mean of the fitted ones, NaN where there is none."""
    fitted = np.concatenate([here["train"], here["valid"]])
    total = ((factors[here["test"]] - factors[fitted].mean(axis=0)) ** 2).sum(axis=0)
    return np.where(total > 0, total, math.nan)


def _score(losses: Float[np.ndarray, "factors capacities"]) -> Float[np.ndarray, " factors"]:
    scores = np.full(len(losses), math.nan)
    for j, curve in enumerate(losses):
        if np.isnan(curve).any() or curve.min() >= 1:
            continue
        lowest = int(curve.argmin())
        above = curve[: lowest + 1] - curve[lowest]
        area = float((above[1:] + above[:-1]).sum() / 2)
        scores[j] = 1 - area / ((len(curve) - 1) * (1 - curve[lowest]) / 2)
    return np.maximum(scores, -1)
