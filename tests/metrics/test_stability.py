import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otoscope.errors import EvaluationError
from otoscope.metrics.stability import (
    compare_dictionaries,
    match_latents,
    matched_latents,
    mean_max_cosine,
)


def codes(seed: int, latents: int = 12) -> np.ndarray:
    return np.maximum(np.random.default_rng(seed).normal(size=(200, latents)) - 0.5, 0)


def test_mean_max_cosine_of_two_by_two() -> None:
    one, other = np.eye(2), np.array([[3.0, 4.0], [0.0, 0.0]])
    # best of 0.6 and 0.8 for the one live atom; 0.6 and 0.8 in the other direction
    assert mean_max_cosine(one, other) == pytest.approx((0.8 + 0.7) / 2)
    assert np.isnan(mean_max_cosine(one, np.zeros((3, 2))))


@given(st.integers(0, 2**31 - 1))
def test_mean_max_cosine_ignores_order_and_length_of_atoms(seed: int) -> None:
    rng = np.random.default_rng(seed)
    atoms = rng.normal(size=(10, 6))
    other = rng.normal(size=(7, 6))
    again = atoms[rng.permutation(10)] * rng.uniform(0.1, 10, (10, 1))
    assert mean_max_cosine(atoms, again) == pytest.approx(1)
    assert mean_max_cosine(again, other) == pytest.approx(mean_max_cosine(other, atoms))


def test_compare_dictionaries_scores_random_pair_as_null() -> None:
    rng = np.random.default_rng(0)
    found = compare_dictionaries(rng.normal(size=(300, 32)), rng.normal(size=(300, 32)))
    # the best of 300 candidates in 32 dimensions, far from 0
    assert found.value == pytest.approx(found.null_mean, abs=0.02)
    assert found.null_mean > 0.4


def test_match_latents_recovers_shuffled_latents() -> None:
    one = codes(0)
    order = np.random.default_rng(1).permutation(12)
    found = match_latents(one, 3 * one[:, order])
    np.testing.assert_array_equal(order[found.partner], np.arange(12))
    np.testing.assert_allclose(found.correlation, 1)


def test_match_latents_is_one_to_one_with_shared_best_partner() -> None:
    one = np.repeat(codes(0, 1), 2, axis=1)
    other = np.concatenate([one[:, :1], codes(5, 1)], axis=1)
    found = match_latents(one, other)
    assert set(found.partner) == {0, 1}
    assert sorted(found.correlation)[1] == pytest.approx(1)


@settings(max_examples=15)
@given(st.integers(0, 2**31 - 1))
def test_match_latents_ignores_order_scale_and_dead_latents(seed: int) -> None:
    rng = np.random.default_rng(seed)
    one, other = codes(seed), codes(seed + 1)
    other[:, :6] += one[:, :6]
    order = rng.permutation(12)
    changed = np.concatenate([other[:, order] * rng.uniform(0.01, 100, 12), np.full((200, 2), 4.0)], axis=1)
    longer = np.concatenate([one, np.zeros((200, 3))], axis=1)
    plain, again = match_latents(one, other), match_latents(longer, changed)
    np.testing.assert_allclose(again.correlation[:12], plain.correlation, atol=1e-9)
    assert np.isnan(again.correlation[12:]).all()
    assert (again.partner[12:] == -1).all()
    assert (np.abs(plain.correlation) <= 1).all()


def test_matched_latents_identifies_reappearing_latents() -> None:
    base = codes(0)
    seeds = []
    for seed in range(5):
        rng = np.random.default_rng(100 + seed)
        own = codes(200 + seed)
        own[:, :6] = base[:, :6] + 0.1 * rng.random((200, 6))
        # latent 5 reappears in half of the seeds only
        if seed > 2:
            own[:, 5] = codes(300 + seed, 1)[:, 0]
        own[:, 11] = 0
        seeds.append(own if seed == 0 else own[:, rng.permutation(12)])
    found = matched_latents(seeds)
    np.testing.assert_array_equal(found.stable, [True] * 5 + [False] * 7)
    assert found.share[5] == 0.5
    assert np.isnan(found.share[11])
    assert found.value == pytest.approx(5 / 11)
    assert found.null_high == 0
    assert matched_latents(seeds, share=0.5).stable[5]


def test_stability_bad_input_is_refused() -> None:
    with pytest.raises(EvaluationError, match="of one width"):
        mean_max_cosine(np.eye(2), np.eye(3))
    with pytest.raises(EvaluationError, match="of the same rows"):
        match_latents(codes(0), codes(0)[:5])
    with pytest.raises(EvaluationError, match="two seeds or more"):
        matched_latents([codes(0)])
    with pytest.raises(EvaluationError, match="share must lie"):
        matched_latents([codes(0), codes(1)], share=0)
