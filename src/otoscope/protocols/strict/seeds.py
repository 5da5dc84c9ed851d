"""Stability over seeds: similarity of atoms and latents, and the number of seeds in which each latent reappears."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Shaped

from otoscope.metrics.record import Record
from otoscope.metrics.stability import Reappearing, compare_dictionaries, match_latents, matched_latents
from otoscope.resampling.intervals import Score
from otoscope.resampling.nulls import permute_rows

PAIRS = 10
"""Maximum number of pairs of seeds to compare."""


class SeedComparison(NamedTuple):
    """Records, and the number of other seeds in which each latent of the first seed reappears."""

    records: list[Record]
    found_in: Float[np.ndarray, " latents"]
    others: int


def compare_seeds(
    dictionaries: Sequence[Float[np.ndarray, "latents width"]],
    codes: Sequence[Float[np.ndarray, "clips latents"]],
    *,
    groups: Shaped[np.ndarray, " clips"],
    about: Record,
) -> SeedComparison:
    """Compare the dictionaries of several seeds by atoms, and the latents of the first with the others by codes.

    An interval spans the lowest and the highest pair of seeds. The null of atoms is two random dictionaries of the same
    size; the null of latents is the codes of the other seed permuted over clips.
    """
    n_groups = len(np.unique(groups))
    about = replace(about, split="all", n=len(codes), groups=n_groups)
    if len(codes) < 2:
        return SeedComparison([], np.full(codes[0].shape[1], np.nan), 0)
    reappearing = matched_latents(codes)
    records = [
        _atom_record(dictionaries, about),
        _latent_record(codes, reappearing, about),
        about.with_score(
            "reappearing_share",
            Score(reappearing.value, null_mean=reappearing.null_mean, null_high=reappearing.null_high),
        ),
    ]
    others = len(codes) - 1
    return SeedComparison(records, np.round(reappearing.share * others), others)


def _atom_record(dictionaries: Sequence[Float[np.ndarray, "latents width"]], about: Record) -> Record:
    pairs = list(combinations(range(len(dictionaries)), 2))[:PAIRS]
    first, *rest = (
        compare_dictionaries(dictionaries[a], dictionaries[b], repeats=3 if number == 0 else 0)
        for number, (a, b) in enumerate(pairs)
    )
    values = [first.value, *(one.value for one in rest)]
    score = Score(*_mean_and_range(values), first.null_mean, first.null_high)
    return about.with_score("mean_max_cosine", score)


def _latent_record(
    codes: Sequence[Float[np.ndarray, "clips latents"]], reappearing: Reappearing, about: Record
) -> Record:
    values = [float(np.nanmean(match.correlation)) for match in reappearing.matches]
    shuffled = match_latents(codes[0], permute_rows(codes[1], seed=0)).correlation
    floor = float(np.nanmean(shuffled))
    score = Score(*_mean_and_range(values), floor, float(np.nanquantile(shuffled, 0.95)))
    return about.with_score("matched_correlation", score)


def _mean_and_range(values: Sequence[float]) -> tuple[float, float, float]:
    return float(np.mean(values)), float(np.min(values)), float(np.max(values))
