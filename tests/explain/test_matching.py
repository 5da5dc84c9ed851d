"""Matches and families of latents whose shared features are planted."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from otoscope.activations.store import ActivationStore
from otoscope.errors import EvaluationError
from otoscope.explain import ActivationIndex, latent_families, match_codes, match_indices, write_activation_index
from otoscope.sae import SparseAutoencoder, TopK
from tests.support.index_run import sae_of, store_of
from tests.support.written_frames import written_store

CLIPS, FEATURES = 300, 40


def sparse_codes(rng: np.random.Generator, features: int = FEATURES) -> np.ndarray:
    """Mean codes of clips: each latent has its own rate and scale, and all follow the level of the clip a little."""
    level = rng.gamma(8.0, 1 / 8, size=(CLIPS, 1))
    rates, scales = rng.uniform(0.05, 0.5, features), rng.lognormal(0.0, 1.0, features)
    return (rng.random((CLIPS, features)) < rates) * rng.gamma(2.0, 0.5, size=(CLIPS, features)) * scales * level


def test_match_codes_recovers_planted_shared_latents() -> None:
    rng = np.random.default_rng(0)
    one, own = sparse_codes(rng), sparse_codes(rng)
    order = rng.permutation(FEATURES)
    other = own.copy()
    shared = order[:25]  # 25 of 40 latents are in both codes, at other places and with other gains
    other[:, :25] = one[:, shared] * rng.uniform(0.5, 2.0, 25) + 0.1 * one[:, shared].std(axis=0) * rng.normal(
        size=(CLIPS, 25)
    )
    matches = match_codes(one, other)
    assert matches.partner[shared].tolist() == list(range(25))
    assert matches.nearest[shared].tolist() == list(range(25))
    assert matches.correlation[shared].min() > 0.95
    assert matches.reappears[shared].all()
    assert matches.reappears[order[25:]].mean() <= 0.2  # 15 latents without a partner
    table = matches.table()
    assert table["latent"].to_list() == list(range(FEATURES))
    assert table["sharing"].to_numpy()[shared[0]] >= 1


def test_match_codes_does_not_reward_a_random_rotation() -> None:
    """A rotation of the code holds the same information, and no latent of it."""
    shares, correlations = [], []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        codes = sparse_codes(rng)
        rotation, _ = np.linalg.qr(rng.normal(size=(FEATURES, FEATURES)))
        rotated = codes @ rotation
        matches = match_codes(codes, rotated, seed=seed)
        shares.append(matches.share)
        correlations.append(np.abs(matches.correlation).mean())
        assert match_codes(codes, codes[:, ::-1], seed=seed).share > 0.95
    assert np.mean(shares) <= 0.08  # 200 latents with a chance of 5 % or less
    assert np.mean(correlations) > 0.2  # far above 0: without this null, rotations would look alike


@pytest.mark.parametrize("features", [40, 120])
def test_match_codes_does_not_reward_a_rotation_behind_a_sparsifier(features: int) -> None:
    """What stands out of a mixture correlates with a sparse latent more than the mixture itself."""
    shares = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        codes = sparse_codes(rng, features)[:, None] * rng.uniform(0.5, 1.5, size=(CLIPS, 10, features))
        rotation, _ = np.linalg.qr(rng.normal(size=(features, features)))
        rotated = codes @ rotation
        least = np.partition(rotated, -features // 5, axis=2)[..., -features // 5][..., None]
        sparse = np.where((rotated >= least) & (rotated > 0), rotated, 0.0)
        shares.append(match_codes(codes.mean(axis=1), sparse.mean(axis=1), seed=seed).share)
    assert np.mean(shares) <= 0.08


def test_match_codes_does_not_reward_sparse_codes_of_other_clips() -> None:
    """Rare latents of few clips correlate by chance more than Gaussian mixtures do."""
    rng = np.random.default_rng(3)
    codes = (rng.random((150, 150)) < 0.02) * rng.gamma(2.0, 0.5, size=(150, 150))
    codes[rng.integers(150, size=150), np.arange(150)] += 1.0  # every latent fires somewhere
    assert match_codes(codes, rng.permutation(codes)).share <= 0.08


def test_match_codes_reports_split_latents_many_to_one() -> None:
    rng = np.random.default_rng(1)
    whole = sparse_codes(rng, 10)
    part = rng.random((CLIPS, 1)) < 0.5
    split = np.concatenate([whole[:, :1] * part, whole[:, :1] * ~part, whole[:, 1:]], axis=1)
    matches = match_codes(split, whole)
    assert matches.nearest[:2].tolist() == [0, 0]
    assert sorted(matches.partner[:2].tolist()) != [0, 0]  # one to one
    assert matches.table()["sharing"].to_list()[:2] == [2, 2]


def test_match_codes_excludes_latents_that_never_fire() -> None:
    codes = sparse_codes(np.random.default_rng(2))
    codes[:, 3] = 0.0
    matches = match_codes(codes, codes)
    assert (matches.partner[3], matches.nearest[3]) == (-1, -1)
    assert not matches.reappears[3]
    assert 3 not in matches.table()["latent"]
    nothing = match_codes(codes, np.zeros_like(codes))
    assert nothing.share == 0
    assert np.isnan(match_codes(np.zeros_like(codes), codes).share)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ActivationStore:
    return store_of(tmp_path_factory.mktemp("store"))


def test_match_indices_matches_by_the_clips_that_both_hold(store: ActivationStore, tmp_path: Path) -> None:
    sae = sae_of()
    twin = sae_of()
    with torch.no_grad():
        for name in ("encoder", "decoder", "encoder_bias"):
            if (value := getattr(twin, name)) is not None:
                value.copy_(value.flip(0))
    one = write_activation_index(tmp_path / "one", store, sae, 1)
    other = write_activation_index(tmp_path / "other", store, twin, 1)
    matches = match_indices(one, other)
    live = np.isfinite(matches.correlation)
    assert live.sum() > 3
    assert matches.correlation[live] == pytest.approx(1.0, abs=1e-3)
    assert (matches.partner[live] == sae.latents - 1 - np.flatnonzero(live)).all()
    few = ActivationIndex(other.folder, other.card, other.clips.head(2), other.statistics)
    with pytest.raises(EvaluationError, match="share 2 clips; index both on the same corpus"):
        match_indices(one, few)


def encoded_with(folder: Path, codes: np.ndarray, atoms: np.ndarray, sae_atoms: np.ndarray) -> ActivationIndex:
    """Index of an encoder whose frames mix `atoms` as `codes` `[clips, frames, features]` say, by other atoms."""
    frames = codes @ atoms
    store = written_store(folder / "store", list(0.9 * frames / np.abs(frames).max()))
    sae = SparseAutoencoder(atoms.shape[1], len(sae_atoms), TopK(len(sae_atoms)))
    with torch.no_grad():
        sae.encoder.copy_(torch.as_tensor(np.linalg.pinv(sae_atoms).T))
        sae.decoder.copy_(torch.as_tensor(sae_atoms))
    return write_activation_index(folder / "index", store, sae.eval().requires_grad_(False), 0)


def test_match_indices_finds_the_dictionary_that_two_encoders_share_and_rewards_no_rotation(tmp_path: Path) -> None:
    """Encoders of other widths and frame rates have 12 of 16 features in common."""
    rng = np.random.default_rng(0)
    clips, features, shared = 120, 16, 12
    strength = rng.gamma(1.0, 1.0, size=(clips, 1, features)) * (rng.random((clips, 1, features)) < 0.4)
    other_strength = rng.permutation(strength)
    other_strength[..., :shared] = strength[..., :shared]

    def codes(strength: np.ndarray, frames: int) -> np.ndarray:
        return strength * rng.uniform(0.5, 1.5, size=(clips, frames, features))

    atoms, others = (np.linalg.qr(rng.normal(size=(width, features)))[0].T for width in (24, 40))
    one = encoded_with(tmp_path / "one", codes(strength, 30), atoms, atoms)
    two = encoded_with(tmp_path / "two", codes(other_strength, 18), others, others)
    matches = match_indices(one, two)
    assert matches.partner[:shared].tolist() == list(range(shared))
    assert matches.reappears[:shared].all()
    assert not matches.reappears[shared:].any()
    rotated = encoded_with(
        tmp_path / "rotated",
        codes(strength, 18),
        others,
        np.linalg.qr(rng.normal(size=(features, features)))[0] @ others,
    )
    assert match_indices(one, rotated).reappears.mean() <= 2 / features  # all is in its frames, behind a sparsifier


def planted_index(tmp_path: Path) -> tuple[ActivationIndex, np.ndarray]:
    """Latents 0 to 8 fire in three families of three, 9 whenever any of the first does, the rest alone."""
    rng = np.random.default_rng(0)
    rows, latents = 2000, 16
    fires = rng.random((rows, latents)) < 0.05
    for family in range(3):
        cause = rng.random(rows) < 0.05
        for latent in range(3 * family, 3 * family + 3):
            fires[:, latent] = cause & (rng.random(rows) < 0.9)
    fires[:, 9] = fires[:, :3].any(axis=1) | (rng.random(rows) < 0.15)
    store = written_store(tmp_path / "store", np.split(fires * rng.uniform(0.2, 0.8, fires.shape), 8))
    sae = SparseAutoencoder(latents, latents, TopK(latents))
    with torch.no_grad():
        sae.encoder.copy_(torch.eye(latents))
        sae.decoder.copy_(torch.eye(latents))
    index = write_activation_index(tmp_path / "index", store, sae.eval().requires_grad_(False), 0)
    return index, np.repeat([0, 1, 2], 3)


def test_latent_families_recovers_latents_that_fire_together_and_their_parent(tmp_path: Path) -> None:
    index, planted = planted_index(tmp_path)
    families = latent_families(index)
    found = families.family[:9]
    assert (found >= 0).all()
    assert adjusted_rand_score(planted, found) == 1.0
    assert (families.family[9:] == -1).all()
    assert families.parent[:3].tolist() == [9, 9, 9]
    assert (families.conditional[:3] > 0.9).all()
    assert (families.parent[3:] == -1).all()
    assert families.table().height == 16
