import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import OrthogonalMatchingPursuit

from otoscope.errors import EvaluationError
from otoscope.linear.gram import moments_of
from otoscope.metrics.sparse_regression import SparseSettings, pursue, sparse_regression

GROUPS = np.repeat(np.arange(15), 20)
SPLIT = np.repeat(["train", "valid", "test"], [180, 40, 80])
BRIEF = SparseSettings(sizes=(1, 2, 4, 8))


def told(seed: int = 0, p: int = 30) -> tuple[np.ndarray, np.ndarray]:
    """Factors of one latent, two equal ones, eight equal ones and none."""
    rng = np.random.default_rng(seed)
    codes = np.maximum(rng.normal(size=(300, p)), 0)
    factors = np.stack([codes[:, 0], codes[:, 1:3].sum(axis=1), codes[:, 3:11].sum(axis=1)], axis=1)
    factors = np.concatenate([factors, rng.normal(size=(300, 1))], axis=1)
    return codes, factors + 0.01 * rng.normal(size=factors.shape)


@pytest.mark.parametrize("size", [1, 3, 8])
def test_pursue_selects_columns_of_scikit_learn(size: int) -> None:
    rng = np.random.default_rng(size)
    x = moments_of(rng.normal(size=(200, 25)) @ rng.normal(size=(25, 25)))
    y = moments_of(x.standard @ rng.normal(size=(25, 40)) + rng.normal(size=(200, 40))).standard
    taken = pursue(x.gram, x.cross(y), size=size, ridge=1e-10)
    for j in range(40):
        reference = OrthogonalMatchingPursuit(n_nonzero_coefs=size).fit(x.standard, y[:, j])
        assert set(taken[j]) == set(np.flatnonzero(reference.coef_))


def test_pursue_handles_duplicated_columns() -> None:
    rng = np.random.default_rng(0)
    x = moments_of(np.repeat(rng.normal(size=(100, 4)), 3, axis=1))
    taken = pursue(x.gram, x.cross(x.standard @ rng.normal(size=(12, 5))), size=12)
    assert all(len(set(row)) == 12 for row in taken)
    # one of each pair is selected before any duplicate
    assert all(set(row[:4] // 3) == {0, 1, 2, 3} for row in taken)


def test_sparse_regression_curve_rises_to_true_number_of_latents() -> None:
    codes, factors = told()
    found = sparse_regression(codes, factors, groups=GROUPS, split=SPLIT, settings=BRIEF)
    assert found.sizes == (1, 2, 4, 8)
    assert found.r2[0, 0] > 0.99
    assert 0.3 < found.r2[1, 0] < 0.7
    assert found.r2[1, 1] > 0.99
    np.testing.assert_allclose(found.r2[2], [1 / 8, 2 / 8, 4 / 8, 1], atol=0.2)
    assert (found.r2[3] < 0.02).all()
    assert found.chosen[0, 0] == 0
    assert set(found.chosen[1, :2]) == {1, 2}
    assert set(found.chosen[2]) == set(range(3, 11))
    np.testing.assert_array_equal(found.groups, [4] * 4)
    assert (found.null_high[:3, 3] < found.r2[:3, 3]).all()


@settings(max_examples=10)
@given(st.integers(0, 2**31 - 1))
def test_sparse_regression_ignores_order_scale_and_dead_latents(seed: int) -> None:
    codes, factors = told(seed, p=12)
    rng = np.random.default_rng(seed)
    order = rng.permutation(12)
    changed = np.concatenate([codes[:, order] * rng.uniform(0.01, 100, 12), np.ones((300, 3))], axis=1)
    one, other = (sparse_regression(x, factors, groups=GROUPS, split=SPLIT, settings=BRIEF) for x in (codes, changed))
    np.testing.assert_array_equal(order[other.chosen], one.chosen)
    for name in ("r2", "low", "high", "null_mean", "null_high"):
        np.testing.assert_allclose(getattr(other, name), getattr(one, name), atol=1e-8)


def test_sparse_regression_size_is_limited_by_live_latents() -> None:
    codes, factors = told(p=5)
    factors = factors[:, :2]
    found = sparse_regression(codes, factors, groups=GROUPS, split=SPLIT, settings=SparseSettings(sizes=(4, 5, 64)))
    np.testing.assert_array_equal(found.r2[:, 1], found.r2[:, 2])
    np.testing.assert_array_equal(np.sort(found.chosen[:, :5], axis=1), [np.arange(5)] * 2)
    assert (found.chosen[:, 5:] == -1).all()


def test_sparse_regression_excludes_missing_values_per_factor() -> None:
    codes, factors = told()
    holes = factors.copy()
    holes[SPLIT == "valid", 1], holes[::10, 2], holes[:, 3] = np.nan, np.nan, 1.0
    whole = sparse_regression(codes, factors, groups=GROUPS, split=SPLIT, settings=BRIEF)
    found = sparse_regression(codes, holes, groups=GROUPS, split=SPLIT, settings=BRIEF)
    np.testing.assert_allclose(found.r2[0], whole.r2[0])
    assert np.isnan(found.r2[[1, 3]]).all()
    assert (found.n[1], found.n[2], found.n[0]) == (0, 72, 80)


def test_sparse_regression_bad_input_is_refused() -> None:
    codes, factors = told()
    with pytest.raises(EvaluationError, match="must increase"):
        sparse_regression(codes, factors, groups=GROUPS, split=SPLIT, settings=SparseSettings(sizes=(2, 1)))
    with pytest.raises(EvaluationError, match="nothing to choose from"):
        sparse_regression(np.ones((300, 2)), factors, groups=GROUPS, split=SPLIT)
    with pytest.raises(EvaluationError, match="disagree"):
        sparse_regression(codes, factors[:3], groups=GROUPS, split=SPLIT)
    with pytest.raises(EvaluationError, match="NaN or infinity"):
        sparse_regression(codes * np.nan, factors, groups=GROUPS, split=SPLIT)
