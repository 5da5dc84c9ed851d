"""Ridge by groups: the shortcut agrees with fitting every fold anew, and with scikit-learn."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge as Plain

from otoscope.errors import EvaluationError
from otoscope.linear.ridge import fit_group_ridge


def made(n: int = 60, p: int = 12, seed: int = 0):
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((n + 20, p)) @ rng.standard_normal((p, p)) + 2
    targets = rows @ rng.standard_normal((p, 3)) + 0.3 * rng.standard_normal((n + 20, 3)) + 5
    return rows[:n], rows[n:], targets[:n], np.repeat(np.arange(5), n // 5)


@pytest.mark.parametrize("p", [12, 200])
@pytest.mark.parametrize("penalty", [0.01, 1.0, 100.0])
def test_agrees_with_scikit_learn_fold_by_fold(p: int, penalty: float):
    fitted, others, targets, folds = made(p=p)
    found = fit_group_ridge(fitted, others, targets[None], folds=folds, penalties=(penalty,))
    mean, scale = fitted.mean(axis=0), fitted.std(axis=0) * np.sqrt(p)
    x, x_others = (fitted - mean) / scale, (others - mean) / scale
    model = Plain(alpha=penalty).fit(x, targets)
    np.testing.assert_allclose(found.others[0], model.predict(x_others), rtol=2e-3, atol=2e-3)
    for fold in range(5):
        inside = folds == fold
        again = Plain(alpha=penalty).fit(x[~inside], targets[~inside])
        np.testing.assert_allclose(found.held[0, inside], again.predict(x[inside]), rtol=5e-3, atol=5e-3)


def test_each_problem_gets_the_penalty_that_serves_it():
    fitted, others, targets, folds = made(n=60, p=50, seed=3)
    noise = np.random.default_rng(1).standard_normal(targets.shape)
    found = fit_group_ridge(fitted, others, np.stack([targets, noise]), folds=folds)
    assert found.penalty[0] < found.penalty[1]


def test_bad_input_is_refused():
    fitted, others, targets, folds = made()
    with pytest.raises(EvaluationError, match="all features are constant"):
        fit_group_ridge(np.ones_like(fitted), others, targets[None], folds=folds)
