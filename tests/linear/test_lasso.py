import warnings
from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import Lasso

from otoscope.errors import EvaluationError
from otoscope.linear.gram import live_columns
from otoscope.linear.lasso import FactorFits, LassoSettings, fit_factors, lasso_weights
from otoscope.linear.lasso_path import solve_path

FEW = LassoSettings()


def planted(seed: int = 0, p: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Sparse codes; factor 0 rests on latents 0 and 1, factor 1 on latent 2, factor 2 on nothing."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(16), 25)
    split = np.repeat(["train", "valid", "test"], [250, 50, 100])
    codes = np.maximum(rng.normal(size=(400, p)) - 0.5, 0)
    factors = np.stack([codes[:, 0] - 2 * codes[:, 1], 5 * codes[:, 2] + 100, np.zeros(400)], axis=1)
    factors += rng.normal(size=factors.shape) * [0.3, 0.5, 1.0]
    return codes, factors, groups, split


def objective(x: np.ndarray, y: np.ndarray, w: np.ndarray, alpha: float) -> float:
    return float(0.5 * np.mean((y - x @ w) ** 2) + alpha * np.abs(w).sum())


@pytest.mark.parametrize(("n", "p"), [(200, 40), (80, 200)])
def test_every_solution_of_the_path_is_scikit_learns(n: int, p: int) -> None:
    rng = np.random.default_rng(n)
    x = rng.normal(size=(n, p)) + rng.normal(size=(n, 1))
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    y = x[:, :5] @ rng.normal(size=5) + rng.normal(size=n)
    y = (y - y.mean()) / y.std()
    target = x.T @ y / n
    alphas = np.abs(target).max() * np.geomspace(1, 0.01, 8)
    found = solve_path(x.T @ x / n, target, 1.0, alphas, 1e-7, rank=n - 1)
    assert found.gaps.max() <= 1e-7
    for alpha, weights in zip(alphas, found.weights, strict=True):
        reference = Lasso(alpha=alpha, fit_intercept=False, tol=1e-8, max_iter=100_000).fit(x, y)
        gap = objective(x, y, weights, alpha) / objective(x, y, reference.coef_, alpha) - 1
        assert abs(gap) < 1e-6
        # optimality: the slope is at most alpha, and exactly alpha towards zero where a weight stands
        slope = x.T @ (y - x @ weights) / n
        assert np.abs(slope).max() <= alpha * (1 + 1e-2)
        on = weights != 0
        np.testing.assert_allclose(slope[on], alpha * np.sign(weights[on]), rtol=0.05, atol=1e-3)


def test_the_largest_penalty_leaves_no_weight() -> None:
    target = np.array([0.3, -0.5])
    assert not solve_path(np.eye(2), target, 1.0, np.array([0.5]), 1e-9).weights.any()


def test_orthogonal_features_are_soft_thresholded() -> None:
    target = np.array([0.3, -0.5, 0.05])
    found = solve_path(np.eye(3), target, 1.0, np.array([0.1]), 1e-12).weights[0]
    np.testing.assert_allclose(found, [0.2, -0.4, 0.0], atol=1e-12)


def test_planted_factors_are_found_on_unseen_groups_and_noise_is_not() -> None:
    codes, factors, groups, split = planted()
    found = fit_factors(codes, factors, groups=groups, split=split, settings=FEW)
    assert (found.r2[:2] > 0.85).all()
    assert (found.low < found.r2).all()
    assert (found.r2 < found.high).all()
    assert found.r2[2] < 0.1
    assert (found.null_high < 0.1).all()
    assert set(np.argsort(-np.abs(found.weights[:, 0]))[:2]) == {0, 1}
    assert np.abs(found.weights[:, 1]).argmax() == 2
    assert (found.n == 100).all()
    assert (found.groups == 4).all()
    assert found.score(0).value == found.r2[0]


def test_r2_is_scikit_learns_at_the_chosen_penalty() -> None:
    codes, factors, groups, split = planted(seed=1)
    found = fit_factors(codes, factors, groups=groups, split=split, settings=replace(FEW, reach=None))
    fitted, test = split != "test", split == "test"
    x = (codes - codes[fitted].mean(axis=0)) / codes[fitted].std(axis=0)
    y = (factors - factors[fitted].mean(axis=0)) / factors[fitted].std(axis=0)
    for j in range(3):
        reference = Lasso(alpha=found.alpha[j], fit_intercept=False, tol=1e-8, max_iter=100_000).fit(
            x[fitted], y[fitted, j]
        )
        np.testing.assert_allclose(found.weights[:, j], reference.coef_, atol=1e-3)
        error = ((y[test, j] - reference.predict(x[test])) ** 2).sum()
        assert found.r2[j] == pytest.approx(1 - error / (y[test, j] ** 2).sum(), abs=1e-3)


def test_a_latent_that_woke_up_on_unseen_groups_does_not_carry_the_prediction_away() -> None:
    codes, factors, groups, split = planted()
    train, rng = np.flatnonzero(split == "train"), np.random.default_rng(3)
    sleeper = np.zeros((len(codes), 1))
    sleeper[train[np.argsort(factors[train, 0])[-3:]]] = 1e-3  # all but silent, and seemingly telling
    sleeper[split != "train", 0] = 0.05 * rng.random((split != "train").sum())
    settings = replace(FEW, alphas=2, smallest_alpha=0.02, patience=None)
    held, free = (
        fit_factors(np.hstack([codes, sleeper]), factors, groups=groups, split=split, settings=one)
        for one in (settings, replace(settings, reach=None))
    )
    assert held.valid_r2[0] > 0.6
    assert free.valid_r2[0] < 0.1, "no weight at all served unseen groups best"


def test_within_reach_predictions_are_as_they_are() -> None:
    codes, factors, groups, split = planted()
    far = fit_factors(codes, factors, groups=groups, split=split, settings=replace(FEW, reach=100.0))
    free = fit_factors(codes, factors, groups=groups, split=split, settings=replace(FEW, reach=None))
    for one, other in zip(far, free, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_fitted_mean_scores_zero() -> None:
    # constant features leave nothing to weigh, noise features at the largest penalty likewise
    codes, factors, groups, split = planted()
    rng = np.random.default_rng(5)
    noise = rng.normal(size=codes.shape)
    found = fit_factors(noise, factors, groups=groups, split=split, settings=LassoSettings(alphas=1))
    np.testing.assert_allclose(found.r2, 0, atol=0.05)


def test_threads_do_not_change_a_bit() -> None:
    codes, factors, groups, split = planted()
    one = fit_factors(codes, factors, groups=groups, split=split, settings=FEW, workers=1)
    four = fit_factors(codes, factors, groups=groups, split=split, settings=FEW, workers=4)
    for a, b in zip(one, four, strict=True):
        np.testing.assert_array_equal(a, b)


def test_rows_without_a_factor_are_left_out_for_it_alone() -> None:
    codes, factors, groups, split = planted()
    holes = factors.copy()
    holes[::7, 0] = np.nan
    found = fit_factors(codes, holes, groups=groups, split=split, settings=FEW)
    whole = fit_factors(codes, factors, groups=groups, split=split, settings=FEW)
    assert found.r2[1] == whole.r2[1]
    kept = ~np.isnan(holes[:, 0])
    alone = fit_factors(codes[kept], holes[kept][:, :1], groups=groups[kept], split=split[kept], settings=FEW)
    assert found.r2[0] == pytest.approx(alone.r2[0], abs=1e-9)
    assert found.alpha[0] == pytest.approx(alone.alpha[0], rel=1e-9)
    assert found.n[0] == (kept & (split == "test")).sum()


def test_what_cannot_be_fitted_is_nan() -> None:
    codes, factors, groups, split = planted()
    factors[:, 0] = 7.0
    factors[split == "valid", 1] = np.nan
    found: FactorFits = fit_factors(codes, factors, groups=groups, split=split, settings=FEW)
    np.testing.assert_array_equal(np.isnan(found.r2), [True, True, False])
    assert not found.weights[:, :2].any()
    dead = fit_factors(np.zeros_like(codes), factors, groups=groups, split=split, settings=FEW)
    assert np.isnan(dead.r2).all()
    assert not dead.live.any()


def test_no_warning_leaks_and_one_test_group_has_no_interval() -> None:
    codes, factors, _, split = planted()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = fit_factors(codes, factors, groups=np.zeros(400), split=split, settings=FEW)
    assert np.isnan(found.low).all()
    assert not np.isnan(found.r2).any()


def test_the_penalty_of_the_paper_is_scikit_learns() -> None:
    codes, factors, _, _ = planted(seed=2, p=300)
    codes[:, 7] = 0
    weights, r2 = lasso_weights(codes, factors, alpha=0.1)
    x = codes - codes.mean(axis=0)
    x /= np.where(x.std(axis=0) > 0, x.std(axis=0), 1)
    y = (factors - factors.mean(axis=0)) / factors.std(axis=0)
    for j in range(3):
        reference = Lasso(alpha=0.1, tol=1e-8, max_iter=100_000).fit(x, y[:, j])
        np.testing.assert_allclose(weights[:, j], reference.coef_, atol=1e-3)
        assert r2[j] == pytest.approx(reference.score(x, y[:, j]), abs=1e-4)


def test_constant_columns_are_told_from_small_ones() -> None:
    rows = np.stack([np.full(9, 0.1), np.full(9, 1e6) + 1e-5 * np.arange(9), 1e-12 * np.arange(9.0)], axis=1)
    np.testing.assert_array_equal(live_columns(rows), [False, False, True])


def test_bad_input_is_refused() -> None:
    codes, factors, groups, split = planted()
    with pytest.raises(EvaluationError, match="NaN or infinity"):
        fit_factors(np.full_like(codes, np.inf), factors, groups=groups, split=split)
    with pytest.raises(EvaluationError, match="399 of factors"):
        fit_factors(codes, factors[1:], groups=groups, split=split)
    with pytest.raises(EvaluationError, match="no row belongs to the split 'test'"):
        fit_factors(codes, factors, groups=groups, split=np.where(split == "test", "train", split))
    with pytest.raises(EvaluationError, match="use NaN for missing values"):
        fit_factors(codes, np.full_like(factors, np.inf), groups=groups, split=split)
    with pytest.raises(EvaluationError, match="complete rows"):
        lasso_weights(codes, np.full_like(factors, np.nan), alpha=0.1)
