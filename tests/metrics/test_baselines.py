"""Properties of all baselines, and known results of each."""

import numpy as np
import pytest

from otoscope.errors import EvaluationError
from otoscope.metrics.baselines import FITTED, FROM_CODES, find_fitted


def rows(n: int = 400, width: int = 10, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.laplace(size=(n, width)) @ rng.standard_normal((width, width)) + 3).astype(np.float32)


@pytest.mark.parametrize("name", sorted(FITTED))
def test_baseline_code_is_finite_repeatable_and_row_by_row(name: str):
    train, new = rows(), rows(64, seed=1)
    encode, again = (FITTED[name](train, latents=24, k=3, seed=5) for _ in range(2))
    codes = encode(new)
    assert codes.shape[0] == 64
    assert codes.shape[1] <= 24
    assert codes.dtype == np.float32
    assert np.isfinite(codes).all()
    np.testing.assert_array_equal(codes, again(new))
    np.testing.assert_allclose(encode(new[:7]), codes[:7], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", sorted(FITTED))
def test_baseline_refuses_rows_that_cannot_be_fitted(name: str):
    with pytest.raises(EvaluationError, match="at least 2 rows"):
        FITTED[name](rows(1), latents=4, k=1, seed=0)
    broken = rows()
    broken[3, 2] = np.nan
    with pytest.raises(EvaluationError, match="NaN or infinity"):
        FITTED[name](broken, latents=4, k=1, seed=0)


def test_pca_components_are_uncorrelated_by_decreasing_variance():
    train = rows()
    codes = FITTED["pca"](train, latents=100, k=1, seed=0)(train).astype(np.float64)
    covariance = np.cov(codes.T, bias=True)
    variances = np.diag(covariance)
    assert (np.diff(variances) < 0).all()
    np.testing.assert_allclose(covariance - np.diag(variances), 0, atol=1e-3 * variances[0])
    np.testing.assert_allclose(variances.sum(), train.astype(np.float64).var(axis=0).sum(), rtol=1e-4)


def test_ica_recovers_mixed_sources():
    rng = np.random.default_rng(0)
    sources = rng.laplace(size=(4000, 4))
    mixed = (sources @ rng.standard_normal((4, 4))).astype(np.float32)
    codes = FITTED["ica"](mixed, latents=4, k=1, seed=0)(mixed)
    match = np.abs(np.corrcoef(codes.T, sources.T)[:4, 4:])
    assert (match.max(axis=0) > 0.98).all()


def test_nmf_codes_are_not_negative():
    assert (FITTED["nmf"](rows(), latents=6, k=1, seed=0)(rows(50, seed=2)) >= 0).all()


def test_kmeans_assigns_one_cluster_per_row():
    rng = np.random.default_rng(0)
    centres = 20 * np.eye(4, 10)
    member = rng.integers(4, size=500)
    train = (centres[member] + rng.standard_normal((500, 10))).astype(np.float32)
    codes = FITTED["kmeans"](train, latents=16, k=3, seed=0)(train)
    assert (codes.sum(axis=1) == 1).all()
    owner = codes.argmax(axis=1)
    assert all(len(set(member[owner == cluster])) == 1 for cluster in set(owner))


def test_random_topk_keeps_k_latents_per_row():
    codes = FITTED["random_topk"](rows(), latents=24, k=3, seed=0)(rows(50, seed=1))
    assert ((codes != 0).sum(axis=1) <= 3).all()
    assert (codes >= 0).all()


@pytest.mark.parametrize("name", sorted(FROM_CODES))
def test_uninformative_codes_keep_each_latents_values(name: str):
    rng = np.random.default_rng(0)
    codes = rng.random((80, 12)) * (rng.random((80, 12)) < 0.3)
    made = FROM_CODES[name](codes, seed=1, groups=np.arange(80) // 20)
    np.testing.assert_array_equal(np.sort(made, axis=0), np.sort(codes, axis=0))
    assert (made != codes).any()
    kept = np.sort((made != 0).sum(axis=1))
    np.testing.assert_array_equal(kept, np.sort((codes != 0).sum(axis=1)))


def test_permuted_codes_stay_in_their_group_unless_it_has_one_row():
    rng = np.random.default_rng(0)
    groups = np.concatenate([np.repeat(["a", "b"], 30), [f"alone {i}" for i in range(20)]])
    codes = rng.random((80, 12)) + 10 * (np.arange(80) >= 30)[:, None] * (np.arange(80) < 60)[:, None]
    made = FROM_CODES["permuted"](codes, seed=1, groups=groups)
    for rows_of in (groups == "a", groups == "b", np.arange(80) >= 60):
        np.testing.assert_array_equal(np.sort(made[rows_of], axis=0), np.sort(codes[rows_of], axis=0))
        assert (made[rows_of] != codes[rows_of]).any(axis=1).mean() > 0.7


def test_find_fitted_suggests_a_name():
    with pytest.raises(EvaluationError, match="no baseline 'pcaa'; did you mean pca"):
        find_fitted("pcaa")
