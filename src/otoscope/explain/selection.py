"""Selection of the latent that follows each factor best."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from otoscope.errors import EvaluationError

MIN_ROWS = 8
"""Minimum number of clips with a known factor value, and of clips in which a latent fires, for a correlation."""


@dataclass(frozen=True, kw_only=True)
class LatentChoice:
    """The latent whose pooled code follows a factor best.

    `train_r` is Pearson's correlation over the clips on which the latent was chosen, `test_r` over clips of other
    groups. `null_high` is the 95th percentile of |test_r| when the whole choice is repeated for permuted factor
    values. `also` lists lower-ranked factors with the same best latent. `seeds_found` of `seeds_asked` dictionaries
    trained with other seeds contain the latent again; both are None if this was not tested.
    """

    factor: str
    score: float
    latent: int
    train_r: float
    test_r: float
    null_high: float
    test_clips: int
    test_groups: int
    firing: float
    also: tuple[str, ...] = ()
    seeds_found: int | None = None
    seeds_asked: int | None = None


def choose_latents(
    codes: Float[np.ndarray, "clips latents"],
    factors: Float[np.ndarray, "clips factors"],
    names: Sequence[str],
    *,
    scores: Sequence[float],
    train_mask: Bool[np.ndarray, " clips"],
    test_mask: Bool[np.ndarray, " clips"],
    groups: Sequence[str],
    top: int = 10,
    min_score: float = 0.1,
    permutations: int = 200,
    seed: int = 0,
    allowed: Bool[np.ndarray, " latents"] | None = None,
) -> list[LatentChoice]:
    """Choose the latent with the largest |Pearson correlation| for each of the best-predicted factors.

    `scores` rank the factors (held-out R² of the codes); factors with NaN or less than `min_score` are excluded, as are
    latents that are not `allowed`. The latent is chosen on `train_mask` (training and validation groups), and its
    correlation is reported on `test_mask`. Each latent is listed once: later factors with the same latent go to its
    `also`. Returns at most `top` choices, best factor first. Raises `EvaluationError` if shapes disagree or the masks
    overlap.
    """
    _check(codes, factors, names, scores, train_mask, test_mask, groups)
    chosen: dict[int, LatentChoice] = {}
    if allowed is not None:
        codes = np.where(allowed, codes, 0)
    order = sorted(range(len(names)), key=lambda i: (-scores[i] if np.isfinite(scores[i]) else np.inf, names[i]))
    for index in order:
        if not scores[index] >= min_score:
            break
        choice = _choose_one(
            codes, factors[:, index], train_mask, test_mask, permutations, np.random.default_rng([seed, index])
        )
        if choice is None:
            continue
        latent, train_r, test_r, null_high = choice
        if latent in chosen:
            chosen[latent] = replace(chosen[latent], also=(*chosen[latent].also, names[index]))
        elif len(chosen) < top:
            known = test_mask & np.isfinite(factors[:, index])
            chosen[latent] = LatentChoice(
                factor=names[index],
                score=float(scores[index]),
                latent=latent,
                train_r=train_r,
                test_r=test_r,
                null_high=null_high,
                test_clips=int(known.sum()),
                test_groups=len({g for g, k in zip(groups, known, strict=True) if k}),
                firing=float((codes[:, latent] != 0).mean()),
            )
    return list(chosen.values())


def correlations(
    codes: Float[np.ndarray, "rows latents"], values: Float[np.ndarray, "rows targets"]
) -> Float[np.ndarray, "latents targets"]:
    """Return Pearson's correlation of each latent with each target; NaN where either is constant.

    >>> correlations(np.array([[0.0], [1.0], [2.0]]), np.array([[1.0], [3.0], [5.0]])).round(6).tolist()
    [[1.0]]
    """
    a, b = _standardised(codes), _standardised(values)
    return a.T @ b / codes.shape[0]


def _standardised(columns: Float[np.ndarray, "rows columns"]) -> Float[np.ndarray, "rows columns"]:
    centred = columns - columns.mean(axis=0, keepdims=True)
    spread = centred.std(axis=0)
    spread[spread <= 1e-12 * np.maximum(np.abs(columns).max(axis=0), 1e-300)] = np.nan
    return centred / spread


def _choose_one(
    codes: Float[np.ndarray, "clips latents"],
    values: Float[np.ndarray, " clips"],
    train_mask: Bool[np.ndarray, " clips"],
    test_mask: Bool[np.ndarray, " clips"],
    permutations: int,
    rng: np.random.Generator,
) -> tuple[int, float, float, float] | None:
    known = np.isfinite(values)
    train, test = train_mask & known, test_mask & known
    if train.sum() < MIN_ROWS:
        return None
    usable = np.flatnonzero((codes[train] != 0).sum(axis=0) >= MIN_ROWS)
    columns = codes[:, usable].astype(np.float64)
    targets = np.stack([values[train], *(rng.permutation(values[train]) for _ in range(permutations))], axis=1)
    strength = correlations(columns[train], targets)
    if not np.isfinite(strength[:, 0]).any():
        return None
    best = np.nanargmax(np.abs(np.where(np.isfinite(strength), strength, 0.0)), axis=0)
    held = correlations(columns[test], values[test][:, None])[:, 0] if test.sum() >= MIN_ROWS else None
    test_r = null_high = float("nan")
    if held is not None:
        test_r = float(held[best[0]])
        null_high = _null_high(columns[test][:, best[1:]], values[test], rng)
    return int(usable[best[0]]), float(strength[best[0], 0]), test_r, null_high


def _null_high(
    codes: Float[np.ndarray, "rows permutations"], values: Float[np.ndarray, " rows"], rng: np.random.Generator
) -> float:
    """Return the 95th percentile of |r| on test clips, over latents chosen for permuted factors."""
    if codes.shape[1] == 0:
        return float("nan")
    shuffled = np.stack([rng.permutation(values) for _ in range(codes.shape[1])], axis=1)
    r = (_standardised(codes) * _standardised(shuffled)).mean(axis=0)
    r = np.abs(r[np.isfinite(r)])
    return float(np.quantile(r, 0.95)) if r.size else float("nan")


def _check(
    codes: Float[np.ndarray, "clips latents"],
    factors: Float[np.ndarray, "clips factors"],
    names: Iterable[str],
    scores: Sequence[float],
    train_mask: Bool[np.ndarray, " clips"] | Int[np.ndarray, " clips"],
    test_mask: Bool[np.ndarray, " clips"] | Int[np.ndarray, " clips"],
    groups: Sequence[str],
) -> None:
    clips = codes.shape[0]
    lengths = {"factors": len(factors), "train_mask": len(train_mask), "test_mask": len(test_mask)}
    for name, length in {**lengths, "groups": len(groups)}.items():
        if length != clips:
            raise EvaluationError(f"{name} has {length} rows, codes have {clips}; pass the same clips to both")
    if not len(list(names)) == len(scores) == factors.shape[1]:
        raise EvaluationError(
            f"{len(list(names))} names and {len(scores)} scores for {factors.shape[1]} factors; give one of each"
        )
    if bool(np.any(train_mask & test_mask)):
        raise EvaluationError("train_mask and test_mask share clips; test clips must be held out")
