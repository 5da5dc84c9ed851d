import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Lasso

from otoscope.linear.lasso_path import solve_path


def codes(seed: int, n: int, p: int, *, fire: float) -> np.ndarray:
    """Standardised sparse codes; latents that never fire stay zero."""
    rng = np.random.default_rng(seed)
    rows = (rng.random((n, p)) < fire) * rng.gamma(2, size=(n, p))
    scale = rows.std(axis=0)
    return (rows - rows.mean(axis=0)) / np.where(scale > 0, scale, 1)


def noise(seed: int, n: int) -> np.ndarray:
    y = np.random.default_rng([seed, 1]).normal(size=n)
    return (y - y.mean()) / y.std()


def solved(x: np.ndarray, y: np.ndarray, fall: np.ndarray, **how: object) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    target = x.T @ y / len(y)
    alphas = np.abs(target).max() * fall
    found = solve_path(x.T @ x / len(y), target, 1.0, alphas, 1e-8, rank=len(y) - 1, **how)
    return alphas, found.weights, found.gaps


def objectives(x: np.ndarray, y: np.ndarray, weights: np.ndarray, alphas: np.ndarray) -> np.ndarray:
    return 0.5 * ((y - weights @ x.T) ** 2).mean(axis=1) + alphas * np.abs(weights).sum(axis=1)


@pytest.mark.parametrize(("fire", "p"), [(1.0, 150), (0.3, 150), (0.05, 90)])
def test_noise_is_fitted_as_by_scikit_learn_down_to_interpolation(fire: float, p: int) -> None:
    x, y = codes(0, 90, p, fire=fire), noise(0, 90)
    alphas, weights, gaps = solved(x, y, np.geomspace(1, 0.003, 12))
    assert gaps.max() <= 1e-8
    reference = np.stack([Lasso(alpha=a, tol=1e-10, max_iter=10**6).fit(x, y).coef_ for a in alphas])
    np.testing.assert_allclose(
        objectives(x, y, weights, alphas), objectives(x, y, reference, alphas), rtol=1e-6, atol=0
    )
    assert np.count_nonzero(weights[-1]) > 60


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31 - 1), st.integers(6, 40), st.integers(2, 60), st.floats(0.03, 1), st.floats(0.002, 0.5))
def test_the_gap_bounds_what_any_other_weights_could_gain(
    seed: int, n: int, p: int, fire: float, smallest: float
) -> None:
    x, y = codes(seed, n, p, fire=fire), noise(seed, n)
    alphas, weights, gaps = solved(x, y, np.geomspace(1, smallest, 5))
    assert gaps.max() <= 1e-8
    least = objectives(x, y, weights, alphas)
    rng = np.random.default_rng(seed)
    for scale in (1e-6, 1e-3, 0.1):
        other = weights + scale * rng.normal(size=weights.shape) * (rng.random(weights.shape) < 0.3)
        assert (objectives(x, y, other, alphas) >= least * (1 - 2e-8)).all()
    slope = (y - weights @ x.T) @ x / n
    assert (np.abs(slope) <= alphas[:, None] * (1 + 1e-3) + 1e-9).all()


def test_copies_and_sums_of_features_do_not_stop_it() -> None:
    base = codes(3, 60, 30, fire=0.4)
    x = np.concatenate([base, base[:, :10], -base[:, 5:15], base[:, :5] + base[:, 5:10]], axis=1)
    x /= x.std(axis=0)
    alphas, weights, gaps = solved(x, noise(3, 60), np.geomspace(1, 0.001, 10))
    assert gaps.max() <= 1e-8
    reference = Lasso(alpha=alphas[-1], tol=1e-10, max_iter=10**6).fit(x, noise(3, 60))
    y = noise(3, 60)
    assert objectives(x, y, weights[-1:], alphas[-1:])[0] == pytest.approx(
        objectives(x, y, reference.coef_[None], alphas[-1:])[0], rel=1e-6
    )


def test_any_start_leads_to_the_same_objective() -> None:
    x, y = codes(4, 50, 80, fire=0.5), noise(4, 50)
    alphas, weights, _ = solved(x, y, np.array([0.05]))
    start = np.random.default_rng(0).normal(size=80)
    _, other, gaps = solved(x, y, np.array([0.05]), start=start)
    assert gaps.max() <= 1e-8
    assert objectives(x, y, other, alphas)[0] == pytest.approx(objectives(x, y, weights, alphas)[0], rel=1e-7)


def test_a_silent_target_and_silent_features_get_no_weight() -> None:
    found = solve_path(np.zeros((3, 3)), np.zeros(3), 0.0, np.array([0.0, 0.0]), 1e-9)
    assert not found.weights.any()
    assert not found.gaps.any()
