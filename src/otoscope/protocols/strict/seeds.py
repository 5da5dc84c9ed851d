"""Stability over seeds: similarity of atoms and latents, and the number of seeds in which each latent reappears."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Shaped

from otoscope.metrics.record import Record
from otoscope.metrics.stability import Reappearing, compare_dictionaries, match_latents, matched_latents
from otoscope.resampling.groups import null_summary
from otoscope.resampling.intervals import Score
from otoscope.resampling.nulls import permute_rows

PAIRS = 10
"""Maximum number of pairs of seeds to compare."""

SHUFFLES = 3
"""Permutations of the null of matched correlations: their mean over many latents varies little."""


class Dictionaries(NamedTuple):
    """Atoms of SAEs that differ in their seed, and their codes of the same clips."""

    atoms: Sequence[Float[np.ndarray, "latents width"]]
    codes: Sequence[Float[np.ndarray, "clips latents"]]


class SeedComparison(NamedTuple):
    """Records, and the number of other seeds in which each latent of the first seed reappears."""

    records: list[Record]
    found_in: Float[np.ndarray, " latents"]
    others: int


def compare_seeds(
    saes: Dictionaries,
    *,
    groups: Shaped[np.ndarray, " clips"],
    about: Record,
    unlearned: Mapping[str, Dictionaries] | None = None,
) -> SeedComparison:
    """Compare the dictionaries of several seeds by atoms, and the latents of the first with the others by codes.

    An interval spans the lowest and the highest pair of seeds. The mean of the null is that of two random dictionaries
    of the same size (atoms), or of the codes of the other seed permuted over clips (latents). Its upper end is also
    that of pairs of SAEs that learned no atoms, by representation: what these reach shows no learning. Each of these
    gets its own records.
    """
    codes, n_groups = saes.codes, len(np.unique(groups))
    about = replace(about, split="all", n=len(codes), groups=n_groups)
    if len(codes) < 2:
        return SeedComparison([], np.full(codes[0].shape[1], np.nan), 0)
    reappearing = matched_latents(codes)
    records = _agreement_records(saes, reappearing, about)
    for name, pair in (unlearned or {}).items():
        shared = replace(about, representation=name, sae_id="", preset=None, seed=None, n=len(pair.codes))
        found = _agreement_records(pair, matched_latents(pair.codes), shared)
        for i, record in enumerate(found):
            records[i] = replace(records[i], null_high=float(np.nanmax([records[i].null_high, record.value])))
        records += found
    others = len(codes) - 1
    return SeedComparison(records, np.round(reappearing.share * others), others)


def _agreement_records(saes: Dictionaries, reappearing: Reappearing, about: Record) -> list[Record]:
    share = Score(reappearing.value, null_mean=reappearing.null_mean, null_high=reappearing.null_high)
    return [
        _atom_record(saes.atoms, about),
        _latent_record(saes.codes, reappearing, about),
        about.with_score("reappearing_share", share),
    ]


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
    shuffled = (match_latents(codes[0], permute_rows(codes[1], seed=seed)).correlation for seed in range(SHUFFLES))
    mean, high = null_summary(np.asarray([np.nanmean(one) for one in shuffled]))
    score = Score(*_mean_and_range(values), float(mean), float(high))
    return about.with_score("matched_correlation", score)


def _mean_and_range(values: Sequence[float]) -> tuple[float, float, float]:
    return float(np.mean(values)), float(np.min(values)), float(np.max(values))
