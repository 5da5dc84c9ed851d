"""Selection of the latent that follows each factor best."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from otoscope.errors import EvaluationError
from otoscope.resampling.exchange import PERMUTATIONS, deviations, exchange
from otoscope.resampling.maximum import compare_with_maximum

MIN_ROWS = 8
"""Minimum number of clips with a known factor value, and of clips in which a latent fires, for a correlation."""


@dataclass(frozen=True, kw_only=True)
class LatentChoice:
    """The latent whose pooled code follows a factor best.

    `train_r` is Pearson's correlation over the clips on which the latent was chosen, `test_r` over clips of other
    groups, both of deviations from the mean of each group if `within`, because otherwise a latent of a singer's sex
    would stand for pitch. A factor that is constant within groups is compared over all clips. `null_high` is the
    largest |test_r| with a `p_value` above 0.05 when the test clips are permuted within groups, or their groups, and
    all chosen latents are one family (1 if there are too few);
    `overall_r` is the test correlation with the differences between groups. `also` lists lower-ranked factors with the
    same best latent. `seeds_found` of `seeds_asked` dictionaries trained with other seeds contain the latent again;
    both are None if this was not tested.
    """

    factor: str
    score: float
    latent: int
    train_r: float
    test_r: float
    null_high: float
    p_value: float
    overall_r: float
    within: bool
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
    seed: int = 0,
    allowed: Bool[np.ndarray, " latents"] | None = None,
) -> list[LatentChoice]:
    """Choose the latent with the largest |Pearson correlation| within groups for each of the best-predicted factors.

    `scores` rank the factors (held-out R² of the codes); factors with NaN or less than `min_score` are excluded, as are
    latents that are not `allowed`. The latent is chosen on `train_mask` (training and validation groups), and its
    correlation is reported on `test_mask`. Each latent is listed once: later factors with the same latent go to its
    `also`. Returns at most `top` choices, best factor first. Raises `EvaluationError` if shapes disagree or the masks
    overlap.
    """
    _check(codes, factors, names, scores, train_mask, test_mask, groups)
    chosen: dict[int, LatentChoice] = {}
    nulls: list[Float[np.ndarray, " permutations"]] = []
    if allowed is not None:
        codes = np.where(allowed, codes, 0)
    order = sorted(range(len(names)), key=lambda i: (-scores[i] if np.isfinite(scores[i]) else np.inf, names[i]))
    for index in order:
        if not scores[index] >= min_score:
            break
        choice = _choose_one(codes, factors[:, index], train_mask, test_mask, np.asarray(groups), seed)
        if choice is None:
            continue
        latent = choice.latent
        if latent in chosen:
            chosen[latent] = replace(chosen[latent], also=(*chosen[latent].also, names[index]))
        elif len(chosen) < top:
            known = test_mask & np.isfinite(factors[:, index])
            chosen[latent] = LatentChoice(
                factor=names[index],
                score=float(scores[index]),
                latent=latent,
                train_r=choice.train_r,
                test_r=choice.test_r,
                null_high=math.nan,
                p_value=math.nan,
                overall_r=choice.overall_r,
                within=choice.within,
                test_clips=int(known.sum()),
                test_groups=len({g for g, k in zip(groups, known, strict=True) if k}),
                firing=float((codes[:, latent] != 0).mean()),
            )
            nulls.append(choice.null)
    return _tested_as_family(list(chosen.values()), nulls)


def _tested_as_family(
    choices: list[LatentChoice], nulls: list[Float[np.ndarray, " permutations"]]
) -> list[LatentChoice]:
    """Return the choices with threshold and p of the largest correlation among all of them under permutation."""
    if not choices:
        return choices
    found = compare_with_maximum(np.abs([choice.test_r for choice in choices]), np.stack(nulls, axis=1))
    return [
        replace(choice, null_high=math.nan if math.isnan(choice.test_r) else float(min(high, 1.0)), p_value=float(p))
        for choice, p, high in zip(choices, found.p_value, found.high, strict=True)
    ]


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


class _Chosen(NamedTuple):
    latent: int
    train_r: float
    test_r: float
    null: Float[np.ndarray, " permutations"]
    overall_r: float
    within: bool


def _choose_one(
    codes: Float[np.ndarray, "clips latents"],
    values: Float[np.ndarray, " clips"],
    train_mask: Bool[np.ndarray, " clips"],
    test_mask: Bool[np.ndarray, " clips"],
    groups: Shaped[np.ndarray, " clips"],
    seed: int,
) -> _Chosen | None:
    known = np.isfinite(values)
    train, test = train_mask & known, test_mask & known
    if train.sum() < MIN_ROWS:
        return None
    usable = np.flatnonzero((codes[train] != 0).sum(axis=0) >= MIN_ROWS)
    columns, targets = codes[:, usable].astype(np.float64), values[:, None]
    within = exchange(values[train], groups[train]).within

    def compared(
        array: Float[np.ndarray, "clips columns"], rows: Bool[np.ndarray, " clips"]
    ) -> Float[np.ndarray, "rows columns"]:
        return deviations(array[rows], groups[rows]) if within else array[rows]

    strength = correlations(compared(columns, train), compared(targets, train))[:, 0]
    if not np.isfinite(strength).any():
        return None
    best = int(np.nanargmax(np.abs(strength)))
    one, train_r = columns[:, [best]], float(strength[best])
    untested = np.full(PERMUTATIONS, math.nan)
    if test.sum() < MIN_ROWS:
        return _Chosen(int(usable[best]), train_r, math.nan, untested, math.nan, within)
    latent, factor = compared(one, test), compared(targets, test)
    test_r = float(correlations(latent, factor)[0, 0])
    overall_r = float(correlations(one[test], targets[test])[0, 0])
    exchanged = exchange(values[test], groups[test])
    testable = replace(exchanged, testable=exchanged.testable and exchanged.within == within)
    shuffled = [factor[order, 0] for order in testable.orders(seed=seed)]
    null = np.abs(correlations(latent, np.stack(shuffled, axis=1))[0]) if shuffled else untested
    return _Chosen(int(usable[best]), train_r, test_r, null, overall_r, within)


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
