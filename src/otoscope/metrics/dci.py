"""DCI: disentanglement, completeness and explicitness of a code, and its relative size.

Completeness and disentanglement follow Eastwood and Williams (ICLR 2018), with four changes for the strict protocol:

- A factor that is not predicted scores NaN (an empty column has entropy 0 and would score 1).
- Dead latents are excluded from the normaliser, so appending dead latents changes nothing.
- The effective number of latents, exp of the entropy, is reported next to completeness, because the same number of
  latents scores higher in a wider code.
- The average disentanglement is the importance-weighted sum of D, which is 1 for the identity. The code published with
  arXiv:2509.24793 takes the mean of the weighted terms and so divides once more by the number of latents.

Explicitness and size are the E and S of DCI-ES (Eastwood et al., ICLR 2023). Explicitness measures the capacity that a
probe needs. The probes are a tuned linear map, and the same map plus 16, 32, ... 512 radial functions centred on
training rows and fitted to its residuals (Nyström features; Williams and Seeger, NeurIPS 2000). They depend only on
distances between standardised rows, so order, unit and dead latents do not matter. Informativeness is in
`otoscope.linear.lasso`.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from otoscope.errors import EvaluationError
from otoscope.linear.gram import live_columns
from otoscope.linear.ridge import RidgeFits, RidgeSettings, fit_ridge
from otoscope.metrics.latent_metrics import mean_of_known
from otoscope.resampling.groups import missing_patterns, split_rows


class Completeness(NamedTuple):
    """Per factor: 1 - H / log(live latents), and exp(H); NaN if the factor is not predicted."""

    completeness: Float[np.ndarray, " factors"]
    effective_latents: Float[np.ndarray, " factors"]


class Disentanglement(NamedTuple):
    """Average D weighted by importance, D of each latent (NaN if unused), and each latent's share."""

    value: float
    latents: Float[np.ndarray, " latents"]
    share: Float[np.ndarray, " latents"]


def completeness(
    importance: Float[np.ndarray, "latents factors"],
    *,
    live: Bool[np.ndarray, " latents"],
    predicted: Bool[np.ndarray, " factors"] | None = None,
) -> Completeness:
    """Return the completeness of each factor: 1 if one latent carries it, 0 if all live latents carry it equally.

    Completeness is 1 - H / log(live latents), with H = -sum p log p over live latents and p the importances of a factor
    scaled to sum 1.

    Args:
        importance: non-negative importances, e.g. absolute LASSO weights of standardised codes.
        live: latents that vary on the rows the importances were fitted on. All others must have importance 0.
        predicted: factors to score, e.g. those whose held-out R2 exceeds a threshold; default: all.

    Both values are NaN for a factor that is not predicted or whose importances are all zero; completeness is also NaN
    with fewer than two live latents. Raises `EvaluationError` for negative or non-finite importances, inconsistent
    shapes, and importance on a latent that is not live.

    >>> completeness(np.array([[1.0, 1.0], [0.0, 1.0]]), live=np.array([True, True]))
    Completeness(completeness=array([1., 0.]), effective_latents=array([1., 2.]))
    """
    _check(importance, live=live, predicted=predicted)
    n_live = int(live.sum())
    entropy = _entropy(importance[live].astype(np.float64))
    if predicted is not None:
        entropy = np.where(predicted, entropy, math.nan)
    scaled = 1 - entropy / math.log(n_live) if n_live > 1 else np.full_like(entropy, math.nan)
    # rounding may exceed the bounds by an ulp
    return Completeness(np.clip(scaled, 0, 1), np.exp(entropy))


def disentanglement(
    importance: Float[np.ndarray, "latents factors"], *, predicted: Bool[np.ndarray, " factors"] | None = None
) -> Disentanglement:
    """Return the disentanglement D of each latent, and the average weighted by importance.

    D of a latent is 1 - H(row) / log(factors) with the row scaled to sum 1. The average is the sum over latents of
    share * D with share = row sum / total. Only `predicted` factors count. NaN if fewer than two factors count or all
    importances are zero.

    >>> disentanglement(np.eye(3)).value
    1.0
    """
    _check(importance, live=np.ones(len(importance), dtype=bool), predicted=predicted)
    counted = importance if predicted is None else importance[:, predicted]
    rows = counted.astype(np.float64)
    total = rows.sum()
    undefined = np.full(len(rows), math.nan)
    if rows.shape[1] < 2 or total == 0:
        return Disentanglement(math.nan, undefined, np.zeros(len(rows)))
    # scale first, so that the sum of huge importances cannot overflow
    share = (rows / rows.max()).sum(axis=1)
    share /= share.sum()
    scores = np.clip(1 - _entropy(rows.T) / math.log(rows.shape[1]), 0, 1)
    used = share > 0
    return Disentanglement(float(np.clip((share[used] * scores[used]).sum(), 0, 1)), scores, share)


def _entropy(columns: Float[np.ndarray, "parts columns"]) -> Float[np.ndarray, " columns"]:
    """Return the entropy in nats of each column scaled to sum 1, NaN where the column is zero."""
    peak = columns.max(axis=0, initial=0)
    empty = peak == 0
    scaled = columns / np.where(empty, 1, peak)
    share = scaled / np.where(empty, 1, scaled.sum(axis=0))
    logs = np.log(share, out=np.zeros_like(share), where=share > 0)
    return np.where(empty, math.nan, np.maximum(-(share * logs).sum(axis=0), 0))


def _check(
    importance: Float[np.ndarray, "latents factors"],
    *,
    live: Bool[np.ndarray, " latents"],
    predicted: Bool[np.ndarray, " factors"] | None,
) -> None:
    if importance.ndim != 2:
        raise EvaluationError(f"importances must be [latents, factors], got shape {importance.shape}")
    if not np.isfinite(importance).all() or (importance < 0).any():
        raise EvaluationError("importances must be finite and 0 or more; take absolute values first")
    if live.shape != (importance.shape[0],) or live.dtype != np.bool_:
        raise EvaluationError(f"`live` must hold one boolean a latent ({importance.shape[0]}), got {live.shape}")
    if predicted is not None and (predicted.shape != (importance.shape[1],) or predicted.dtype != np.bool_):
        raise EvaluationError(f"`predicted` must hold one boolean a factor ({importance.shape[1]})")
    if (importance[~live] > 0).any():
        raise EvaluationError("a latent that is not live carries importance; pass the mask of the fitting rows")


CAPACITIES = (0, 16, 32, 64, 128, 256, 512)
"""Numbers of radial functions added to the linear map; each step counts as one unit of capacity, a doubling."""
RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 1e3)


class Explicitness(NamedTuple):
    """Mean explicitness, explicitness per factor, held-out loss (1 - R2) per capacity, and the linear fits."""

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
    capacities: Sequence[int] = CAPACITIES,
) -> Explicitness:
    """Return the explicitness of each factor: how little capacity beyond a linear map a probe needs.

    With l_t the loss (1 - R2 on test rows) at step t = 1..T, l* the minimum, first reached at t*, and 1 the loss
    without information: E = 1 - A / Z, where A is the area between the curve and l* up to t* (trapezoids) and
    Z = (T - 1)(1 - l*) / 2. 1: the linear map reaches the minimum. 0: the loss falls linearly to its minimum.
    -1: only the largest probe predicts anything.

    Args:
        codes: any representation, one row per clip.
        factors: factor values; NaN if missing.
        groups: group of each row (singer, speaker); no group may occur in two splits.
        split: train, valid or test for each row; penalties are chosen on valid.
        capacities: increasing numbers of radial functions, from 0; limited by the number of training rows.

    NaN for a factor that no probe predicts. Raises `EvaluationError` as `fit_ridge` does, and for capacities that do
    not increase from 0.
    """
    steps = tuple(capacities)
    if len(steps) < 2 or steps[0] != 0 or any(b <= a for a, b in pairwise(steps)):
        raise EvaluationError(f"capacities must increase from 0 in two steps or more, got {steps}")
    linear = fit_ridge(codes, factors, groups=groups, split=split, settings=RidgeSettings(permutations=0))
    left = factors - linear.guesses
    losses = np.full((factors.shape[1], len(steps)), math.nan)
    losses[:, 0] = 1 - linear.r2
    parts = {name: split_rows(split, name, len(codes)) for name in ("train", "valid", "test")}
    near = _radial(codes, parts, steps[-1])
    for members, present in missing_patterns(~np.isnan(left)):
        here = {name: np.flatnonzero(rows & present) for name, rows in parts.items()}
        if all(len(rows) for rows in here.values()):
            total = _deviations(factors[:, members], here)
            for t, size in enumerate(steps[1:], start=1):
                losses[members, t] = _loss(near[:, :size], left[:, members], here) / total
    scores = _score(losses)
    return Explicitness(mean_of_known(scores), scores, losses, steps, linear)


def relative_size(n_factors: int, live: Bool[np.ndarray, " latents"]) -> float:
    """Return the S of DCI-ES: number of factors / number of live latents, at most 1.

    Completeness does not penalise a code with more latents than factors; this score does. If the factors depend on each
    other, pass their rounded effective rank as `n_factors`. NaN without a live latent.

    >>> relative_size(16, np.ones(64, dtype=bool))
    0.25
    """
    n_live = int(live.sum())
    return min(n_factors / n_live, 1.0) if n_live else math.nan


def _radial(
    codes: Float[np.ndarray, "rows latents"], parts: dict[str, Bool[np.ndarray, " rows"]], most: int
) -> Float[np.ndarray, "rows centres"]:
    """Return exp(-d^2 / mean d^2) of the distances d from every row to randomly chosen training rows."""
    train = np.flatnonzero(parts["train"])
    live = live_columns(codes[train])
    x = codes[:, live].astype(np.float64)
    x = (x - x[train].mean(axis=0)) / x[train].std(axis=0)
    centres = x[np.random.default_rng(0).permutation(train)[:most]]
    squared = (x**2).sum(axis=1)[:, None] + (centres**2).sum(axis=1) - 2 * x @ centres.T
    return np.exp(-np.maximum(squared, 0) / max(float(squared[train].mean()), 1e-300))


def _loss(
    near: Float[np.ndarray, "rows centres"],
    left: Float[np.ndarray, "rows factors"],
    here: dict[str, Int[np.ndarray, " _part"]],
) -> Float[np.ndarray, " factors"]:
    """Return the squared test error of a ridge on radial functions, with the penalty chosen on validation rows."""
    train, valid, test = (here[name] for name in ("train", "valid", "test"))
    first, centre = near[train], left[train].mean(axis=0)
    mean = first.mean(axis=0)
    spread = first - mean
    variance, axes = np.linalg.eigh(spread.T @ spread / len(train))
    turned = axes.T @ (spread.T @ (left[train] - centre) / len(train))
    ridges = np.asarray(RIDGES)[:, None, None] * max(float(variance.mean()), 1e-300)
    # per factor, the smallest of the penalties with minimum validation error
    weights = axes @ (turned / (np.maximum(variance, 0)[:, None] + ridges))
    errors = ((left[valid] - centre - (near[valid] - mean) @ weights) ** 2).sum(axis=1)
    chosen = weights[errors.argmin(axis=0), :, np.arange(left.shape[1])].T
    return ((left[test] - centre - (near[test] - mean) @ chosen) ** 2).sum(axis=0)


def _deviations(
    factors: Float[np.ndarray, "rows factors"], here: dict[str, Int[np.ndarray, " _part"]]
) -> Float[np.ndarray, " factors"]:
    """Return the squared deviation of the test rows from the mean of the fitted rows, NaN if it is zero."""
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
