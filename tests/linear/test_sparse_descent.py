from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import Lasso

from otoscope.linear import lasso_path, sparse_descent
from otoscope.linear.sparse_descent import SparseColumns, SparseProblems, make_sparse_columns, solve_sparse


def asked(
    share: float, targets: int = 6, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, SparseColumns, SparseProblems]:
    """Sparse codes and noisy targets, each at a penalty of `share` of the smallest that leaves no weight."""
    rng = np.random.default_rng(seed)
    raw = rng.gamma(2, size=(120, 90)) * (rng.random((120, 90)) < 0.08)
    raw = raw[:, np.ptp(raw, axis=0) > 0]
    raw /= raw.std(axis=0)
    x = raw - raw.mean(axis=0)
    y = x[:, :targets] + rng.normal(size=(120, targets))
    y = (y - y.mean(axis=0)) / y.std(axis=0)
    cross = x.T @ y / len(y)
    problems = SparseProblems(y / np.sqrt(len(y)), cross, np.ones(targets), share * np.abs(cross).max(axis=0))
    return x, y, make_sparse_columns(raw, raw.mean(axis=0), np.zeros(x.shape[1], dtype=bool)), problems


@pytest.mark.parametrize("share", [1.0, 0.3, 0.03])
def test_weights_are_those_of_scikit_learn(share: float) -> None:
    x, y, columns, problems = asked(share)
    found, gaps = solve_sparse(columns, problems, np.zeros((x.shape[1], 6)), 1e-10)
    assert gaps.max() <= 1e-10
    for target in range(6):
        theirs = Lasso(alpha=problems.alpha[target], tol=1e-13, max_iter=10**6, fit_intercept=False)
        np.testing.assert_allclose(found[:, target], theirs.fit(x, y[:, target]).coef_, atol=1e-4)


@pytest.mark.parametrize("read", [1, 20_000])
def test_gaps_are_true_gaps_even_of_who_is_given_up(read: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse_descent, "MAX_VALUES_READ", read)
    x, y, columns, problems = asked(0.01)
    start = np.random.default_rng(1).normal(size=(x.shape[1], 6))
    found, gaps = solve_sparse(columns, problems, start, 1e-9)
    assert (gaps > 1e-9).any()
    for target in range(6):
        weights, cross = found[:, target].copy(), problems.cross[:, target].copy()
        slopes = x.T @ (y[:, target] - x @ weights) / len(y)
        true = lasso_path.relative_gap(weights, cross, slopes, 1.0, problems.alpha[target])
        assert gaps[target] == pytest.approx(true, rel=1e-6, abs=1e-12)


def test_a_target_is_solved_alike_beside_others_and_alone() -> None:
    x, _, columns, problems = asked(0.1)
    start = np.zeros((x.shape[1], 6))
    together, _ = solve_sparse(columns, problems, start, 1e-8)
    alone = problems.select(np.arange(6) == 2)
    np.testing.assert_allclose(solve_sparse(columns, alone, start[:, :1], 1e-8)[0][:, 0], together[:, 2], atol=1e-9)


def last_alone(history: np.ndarray) -> np.ndarray:
    return np.tile(np.eye(sparse_descent.ANDERSON_DEPTH)[-1], (history.shape[2], 1))


def test_mixtures_of_sweeps_spare_most_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    x, _, columns, problems = asked(0.003)
    sweep, count = sparse_descent.sweep, [0]

    def counted(*given: Any) -> None:
        count[0] += 1
        sweep(*given)

    monkeypatch.setattr(sparse_descent, "sweep", counted)
    monkeypatch.setattr(sparse_descent, "MAX_VALUES_READ", 10**9)
    solve_sparse(columns, problems, np.zeros((x.shape[1], 6)), 1e-8)
    mixing, count[0] = count[0], 0
    monkeypatch.setattr(sparse_descent, "_shares", last_alone)
    solve_sparse(columns, problems, np.zeros((x.shape[1], 6)), 1e-8)
    assert mixing < 0.6 * count[0]
