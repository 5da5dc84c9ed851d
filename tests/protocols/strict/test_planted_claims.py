"""Verdicts on representations of sounds whose sources are known."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch

from otoscope.metrics.baselines import find_fitted
from otoscope.protocols.claims import Reason
from otoscope.protocols.comparison import Verdict
from otoscope.sae.model import SparseAutoencoder
from otoscope.sae.train import begin, fit
from tests.support.planted_claims import Planted, compactness_claim, planted_clips

K, LATENTS = 4, 48


def pooled(sae: SparseAutoencoder, frames: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        codes = sae.eval().encode(torch.from_numpy(frames.reshape(-1, frames.shape[2])))
    return codes.numpy().reshape(*frames.shape[:2], -1).mean(axis=1)


def rows_of(world: Planted, split: str) -> np.ndarray:
    chosen = world.frames[world.targets.split == split]
    return chosen.reshape(-1, chosen.shape[2])


def rivals(world: Planted) -> Mapping[str, np.ndarray]:
    """Return the codes of the default preset's start, of principal and of independent components."""
    train, frames = rows_of(world, "train"), world.frames
    made: dict[str, np.ndarray] = {
        "start": pooled(begin(train, rows_of(world, "valid"), latents=LATENTS, k=K).sae, frames)
    }
    for name in ("pca", "ica"):
        encode = find_fitted(name)(train, latents=LATENTS, k=K, seed=0)
        made[name] = encode(frames.reshape(-1, frames.shape[2])).reshape(*frames.shape[:2], -1).mean(axis=1)
    return made


@pytest.mark.parametrize("seed", [0, *(pytest.param(s, marks=pytest.mark.slow) for s in range(1, 5))])
def test_claim_of_fewer_dimensions_does_not_hold_for_the_start_alone(seed: int):
    """Signed principal axes, of which the k largest stay, are more compact than the layer without any learning."""
    world = planted_clips(seed)
    others = rivals(world)
    claim = compactness_claim(world.targets, [others["start"]], world.frames.mean(axis=1), others)
    judgement = claim.decide()
    assert judgement is not None
    assert judgement.verdict is not Verdict.HOLDS
    assert "start" in claim.equals


@pytest.mark.parametrize("seed", [0, *(pytest.param(s, marks=pytest.mark.slow) for s in range(1, 5))])
def test_claim_of_fewer_dimensions_of_an_sae_that_learned_the_sources_beats_its_start(seed: int):
    """Independent components are a strong rival on sources that are nearly independent; axes are none."""
    world = planted_clips(seed)
    trained = fit(rows_of(world, "train"), rows_of(world, "valid"), latents=LATENTS, k=K).sae
    codes = pooled(trained, world.frames)
    claim = compactness_claim(world.targets, [codes], world.frames.mean(axis=1), rivals(world))
    judgement = claim.decide()
    assert judgement is not None
    assert judgement.verdict in (Verdict.HOLDS, Verdict.EQUALLY), claim.dimensions
    assert set(claim.equals) <= {"ica"}, claim.dimensions


@pytest.mark.parametrize("seed", [pytest.param(s, marks=pytest.mark.slow) for s in range(5)])
def test_claim_of_fewer_dimensions_holds_for_the_sources(seed: int):
    """A code with one latent per source, and many idle ones, is compact by what it is."""
    world = planted_clips(seed)
    idle = 0.01 * np.random.default_rng(seed).random((len(world.sources), 20))
    codes = np.concatenate([world.sources, idle], axis=1)
    claim = compactness_claim(world.targets, [codes], world.frames.mean(axis=1), rivals(world))
    assert claim.decide() == (Verdict.HOLDS, Reason.FEWER_DIMENSIONS), claim.dimensions
