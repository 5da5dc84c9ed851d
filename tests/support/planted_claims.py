"""Sounds whose sources are known, and the verdicts of the strict protocol on representations of them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from otoscope.config.strict import StrictSettings
from otoscope.metrics.record import Record, to_table
from otoscope.metrics.representation import CODES, DENSE
from otoscope.metrics.results import ResultsTable
from otoscope.metrics.robust_factors import effective_rank
from otoscope.protocols.claim_sources import strict_claims
from otoscope.protocols.claims import CompactnessClaim
from otoscope.protocols.strict.differences import curve_differences, structure_differences
from otoscope.protocols.strict.regression import predicted_factors, predicted_share_records
from otoscope.protocols.strict.structure import (
    CommonFactors,
    RepresentationScores,
    common_factors,
    factor_curve_records,
    score_representation,
    structure_records,
)
from otoscope.protocols.strict.tasks import FactorTargets, prepare_factors
from otoscope.runs.inputs import Clips

SETTINGS = StrictSettings(sizes=(1, 4), folds=3)
ABOUT = Record(metric="l0", value=0.0, split="test", representation=CODES, layer=1, protocol="strict", encoder="ear")
SAE_ID = "layer01-frames-default-m64-k4-seed0"


class Planted(NamedTuple):
    """Sources of each clip and frame, and the frames that mix them."""

    targets: FactorTargets
    frames: np.ndarray
    """Clips, frames, width."""
    sources: np.ndarray
    """Clips, sources: the mean of each source over the frames of a clip."""
    atoms: np.ndarray


def planted_clips(
    seed: int, *, sources: int = 24, width: int = 16, active: float = 0.1, clips: int = 300, frames: int = 20
) -> Planted:
    """Return clips of 15 singers whose frames are sparse mixtures of more sources than dimensions.

    The first ten sources, averaged over a clip, are its factors.
    """
    rng = np.random.default_rng(seed)
    atoms = rng.normal(size=(sources, width))
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    often = rng.gamma(1.0, 1.0, size=(clips, 1, sources)) * active
    strengths = (rng.random((clips, frames, sources)) < often) * rng.gamma(4.0, 0.25, size=(clips, frames, sources))
    rows = strengths @ atoms + 0.02 * rng.normal(size=(clips, frames, width))
    groups = np.array([f"g{i:02d}" for i in np.arange(clips) * 15 // clips])
    split = np.where(groups < "g08", "train", np.where(groups < "g11", "valid", "test"))
    names = tuple(f"s{i}" for i in range(10))
    known = Clips(split, groups, {}, strengths.mean(axis=1)[:, :10], names)
    targets = prepare_factors(known, dict.fromkeys(names, "pitch"), near_duplicates=0.99)
    return Planted(targets, rows.astype(np.float32), strengths.mean(axis=1), atoms)


def clean_latents(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return codes, the layer that mixes their sources, and a label: the louder of two of the 12 sources.

    The codes hold one clean latent per source and 500 idle ones.
    """
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(15), 20)
    split = np.where(groups < 8, "train", np.where(groups < 11, "valid", "test"))
    sources = rng.gamma(4.0, 0.25, size=(300, 12))
    idle = rng.random((300, 500)) * (rng.random((300, 500)) < 0.05)
    layer = sources @ rng.normal(size=(12, 64)) + 0.1 * rng.normal(size=(300, 64))
    labels = np.where(sources[:, 0] > sources[:, 1], "first", "second")
    return np.hstack([sources, idle]), layer, labels, groups, split


def compactness_claim(
    targets: FactorTargets, codes: Sequence[np.ndarray], dense: np.ndarray, others: Mapping[str, np.ndarray]
) -> CompactnessClaim:
    """Return claim 2 as the strict protocol measures it on these representations, `[clips, dimensions]`."""

    def measured(units: np.ndarray) -> RepresentationScores:
        return score_representation(units.astype(np.float32), targets, SETTINGS)

    seeds = [measured(units) for units in codes]
    rest = {name: measured(units) for name, units in {DENSE: dense, **others}.items()}
    mask = common_factors(rest[DENSE], seeds, min_r2=0.1)
    fitted = targets.values[targets.split == "train"][:, mask]
    common = CommonFactors(mask, targets.names, effective_rank(fitted) if mask.any() else 0.0)
    predicted, *by_seed = (predicted_factors(scores.lasso, 0.1) for scores in (rest[DENSE], *seeds))
    either = common._replace(mask=predicted | np.all(by_seed, axis=0))
    named = [replace(ABOUT, sae_id=SAE_ID[:-1] + str(i), seed=i, sparsity=0.9) for i in range(len(seeds))]
    records: list[Record] = []
    for scores, about in (
        *zip(seeds, named, strict=True),
        *((scores, replace(ABOUT, representation=name)) for name, scores in rest.items()),
    ):
        records += structure_records(scores, common, about)
        records += factor_curve_records(scores, either, SETTINGS, about)
        every = np.ones(len(targets.names), dtype=bool)
        records += predicted_share_records(scores.lasso, 0.1, about, among=every)
    for name, scores in rest.items():
        about = replace(named[0], representation=name, seed=None)
        records += structure_differences(seeds, scores, common, about)
        records += curve_differences(seeds, scores, either, SETTINGS.sizes, about)
    claim = strict_claims(ResultsTable(to_table(records))).compactness
    assert claim is not None
    return claim
