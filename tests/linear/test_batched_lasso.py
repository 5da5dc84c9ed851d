from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import Lasso

from otoscope.linear import batched_lasso, lasso_path
from otoscope.linear.batched_lasso import MIN_ADMM_TARGETS, BatchedLasso, BatchedPath
from otoscope.linear.lasso import LassoSettings, fit_factors
from tests.linear.test_lasso_path import codes, objectives

FALL = np.geomspace(1, 0.003, 12)


def problems(fire: float, p: int, n: int = 120, targets: int = MIN_ADMM_TARGETS) -> tuple[np.ndarray, np.ndarray]:
    """Standardised features, and targets of which some rest on them and others are noise."""
    x, rng = codes(0, n, p, fire=fire), np.random.default_rng(7)
    planted = x @ (rng.normal(size=(p, targets)) * (rng.random((p, targets)) < 5 / p))
    y = planted * (np.arange(targets) % 2) + rng.normal(size=(n, targets))
    return x, (y - y.mean(axis=0)) / y.std(axis=0)


def walk(x: np.ndarray, y: np.ndarray, tolerance: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Follow every target down the penalties; penalties and weights are [steps, targets, ...]."""
    cross = y.T @ x / len(y)
    alphas = np.abs(cross).max(axis=1) * FALL[:, None]
    solver = BatchedLasso(x.T @ x / len(y), rank=len(y) - 1, targets=y.shape[1])
    trail = BatchedPath(solver, cross, np.ones(y.shape[1]), y.T / np.sqrt(len(y)), tolerance)
    steps = [(trail.solve_at(np.arange(y.shape[1]), alpha), trail.weights.copy()) for alpha in alphas]
    gaps, weights = zip(*steps, strict=True)
    return alphas, np.stack(weights), np.stack(gaps)


@pytest.mark.parametrize(("fire", "p"), [(1.0, 60), (0.2, 150), (0.05, 90)])
def test_every_target_reaches_the_objective_of_scikit_learn(fire: float, p: int) -> None:
    x, y = problems(fire, p)
    alphas, weights, gaps = walk(x, y, 1e-6)
    assert gaps.max() <= 1e-6
    for target in (0, 1):
        theirs = [Lasso(alpha=a, tol=1e-8, max_iter=10**6).fit(x, y[:, target]).coef_ for a in alphas[:, target]]
        least = objectives(x, y[:, target], np.stack(theirs), alphas[:, target])
        ours = objectives(x, y[:, target], weights[:, target], alphas[:, target])
        np.testing.assert_allclose(ours, least, rtol=1.1e-6, atol=0)


def test_the_turns_alone_solve_most_problems_and_descent_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = problems(0.3, 100, n=200)
    left: list[int] = []
    path = lasso_path.solve_path

    def counted(*problem: Any, **how: Any) -> lasso_path.LassoPath:
        left.append(int(np.count_nonzero(how["start"])))
        return path(*problem, **how)

    monkeypatch.setattr(batched_lasso.lasso_path, "solve_path", counted)
    _, weights, _ = walk(x, y, 1e-6)
    many = np.count_nonzero(weights, axis=2) > 30
    assert many.sum() > 100
    assert sum(size > 30 for size in left) < 0.2 * many.sum()
    monkeypatch.setattr(batched_lasso, "MAX_ANCHORS", 1)
    _, _, gaps = walk(x, y, 1e-6)
    assert gaps.max() <= 1e-6


def test_tight_tolerances_are_not_blurred_by_single_precision() -> None:
    x, y = problems(1.0, 60, n=400)
    _, _, gaps = walk(x, y, 1e-9)
    assert gaps.max() <= 1e-9


def test_many_targets_are_fitted_as_a_few_alone() -> None:
    x, y = problems(0.3, 80, n=320, targets=2 * MIN_ADMM_TARGETS)
    groups, split = np.repeat(np.arange(16), 20), np.repeat(["train", "valid", "test"], [200, 40, 80])
    settings = LassoSettings(folds=4, alphas=8)
    many = fit_factors(x, y, groups=groups, split=split, settings=settings)
    few = fit_factors(x, y[:, :4], groups=groups, split=split, settings=settings)
    np.testing.assert_allclose(many.alpha[:4], few.alpha, rtol=1e-9)
    np.testing.assert_allclose(many.r2[:4], few.r2, atol=1e-4)
    assert many.gap.max() <= settings.tolerance


def test_threads_do_not_change_a_bit_where_targets_go_together() -> None:
    x, y = problems(0.3, 80, n=320, targets=130)
    groups, split = np.repeat(np.arange(16), 20), np.repeat(["train", "valid", "test"], [200, 40, 80])
    settings = LassoSettings(folds=4, alphas=6)
    one, two = (fit_factors(x, y, groups=groups, split=split, settings=settings, workers=workers) for workers in (1, 2))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)
