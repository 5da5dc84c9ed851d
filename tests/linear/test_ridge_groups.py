"""Ridge by groups: the shortcut agrees with fitting every fold anew, and with scikit-learn."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import Ridge as Plain

from otoscope.errors import EvaluationError
from otoscope.linear.readers import READERS
from otoscope.linear.ridge import fit_group_ridge


def made(n: int = 60, p: int = 12, seed: int = 0, *, other: bool = False):
    """Return fitted rows, others, targets of the fitted rows and folds; or the targets of the others."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((n + 20, p)) @ rng.standard_normal((p, p)) + 2
    targets = rows @ rng.standard_normal((p, 3)) + 0.3 * rng.standard_normal((n + 20, 3)) + 5
    if other:
        return targets[n:]
    return rows[:n], rows[n:], targets[:n], np.repeat(np.arange(5), n // 5)


def clipped(rows: np.ndarray, fitted: np.ndarray) -> np.ndarray:
    reach = 2 * fitted.std(axis=0)
    return np.minimum(np.maximum(rows, fitted.min(axis=0) - reach), fitted.max(axis=0) + reach)


@pytest.mark.parametrize("p", [12, 200])
@pytest.mark.parametrize("penalty", [0.01, 1.0, 100.0])
def test_agrees_with_scikit_learn_fold_by_fold(p: int, penalty: float):
    fitted, others, targets, folds = made(p=p)
    found = fit_group_ridge(fitted, others, targets[None], folds=folds, penalties=(penalty,))
    mean, scale = fitted.mean(axis=0), fitted.std(axis=0) * np.sqrt(p)
    x, x_others = (fitted - mean) / scale, (others - mean) / scale
    model = Plain(alpha=penalty).fit(x, targets)
    np.testing.assert_allclose(found.others[0], model.predict(clipped(x_others, x)), rtol=2e-3, atol=2e-3)
    for fold in range(5):
        inside = folds == fold
        again = Plain(alpha=penalty).fit(x[~inside], targets[~inside])
        guess = again.predict(clipped(x[inside], x[~inside]))
        np.testing.assert_allclose(found.held[0, inside], guess, rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize("read", [fit_group_ridge, READERS["ridge"]])
def test_a_latent_that_barely_fires_in_fitted_rows_does_not_carry_predictions_away(read: Callable[..., Any]):
    """A hundred latents fire on a row or two of the fitted ones, weakly, and strongly on others."""
    rng = np.random.default_rng(5)
    told, others, targets, folds = made(n=100, seed=5)
    truth = made(n=100, seed=5, other=True)
    idle, woken = np.zeros((100, 100)), rng.random((20, 100)) * (rng.random((20, 100)) < 0.1)
    for latent in range(100):
        idle[rng.integers(100, size=2), latent] = 1e-3 * rng.random(2)
    scores = []
    for extra in ((np.zeros_like(idle), np.zeros_like(woken)), (idle, woken)):
        rows, far = np.hstack([told, extra[0]]), np.hstack([others, extra[1]])
        guess = read(rows, far, targets[None], folds=folds).others[0]
        scores.append(1 - ((truth - guess) ** 2).sum() / ((truth - targets.mean(axis=0)) ** 2).sum())
    assert scores[0] > 0.99
    assert scores[1] > 0.5


def test_penalties_are_tried_on_clipped_rows():
    """Latents that fire strongly in one fold only change neither the errors of the folds nor the penalty."""
    told, others, targets, folds = made(n=100, seed=5)
    rng = np.random.default_rng(6)
    burst = np.where(folds == 4, 1.0, 1e-3)[:, None] * rng.random((100, 30))
    plain, with_burst = (
        fit_group_ridge(np.hstack([told, extra]), np.hstack([others, extra[:20]]), targets[None], folds=folds)
        for extra in (np.zeros((100, 30)), burst)
    )
    error = [np.square(one.held[0] - targets).mean() for one in (plain, with_burst)]
    assert error[1] < 1.2 * error[0]
    assert with_burst.penalty[0] == plain.penalty[0]


def test_each_problem_gets_the_penalty_that_serves_it():
    fitted, others, targets, folds = made(n=60, p=50, seed=3)
    noise = np.random.default_rng(1).standard_normal(targets.shape)
    found = fit_group_ridge(fitted, others, np.stack([targets, noise]), folds=folds)
    assert found.penalty[0] < found.penalty[1]


def test_bad_input_is_refused():
    fitted, others, targets, folds = made()
    with pytest.raises(EvaluationError, match="all features are constant"):
        fit_group_ridge(np.ones_like(fitted), others, targets[None], folds=folds)
