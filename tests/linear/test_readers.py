"""Readers agree with independent implementations, and each reads what the others cannot."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sklearn.linear_model import Lasso
from sklearn.preprocessing import StandardScaler

from otoscope.linear.gram import Gramian
from otoscope.linear.lasso_tuning import make_fold, predict_folds, tune
from otoscope.linear.readers import LASSO_GRID, READERS

FOLDS = np.repeat(np.arange(5), 40)


def scores(units: np.ndarray, target: np.ndarray, other: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Return R2 of each reader on other rows."""
    found = {
        name: read(units, other, target[None, :, None], folds=FOLDS).others[0, :, 0] for name, read in READERS.items()
    }
    return {
        name: 1 - ((truth - guess) ** 2).sum() / ((truth - target.mean()) ** 2).sum() for name, guess in found.items()
    }


@pytest.mark.parametrize("name", READERS)
def test_reader_predicts_held_out_folds_without_their_targets(name: str):
    """Changing the targets of one fold does not change what is predicted for its rows, at the same tuning."""
    rng = np.random.default_rng(0)
    units, other = rng.normal(size=(200, 12)), rng.normal(size=(30, 12))
    target = units[:, :1] * 3 + 0.01 * rng.normal(size=(200, 1))
    reading = READERS[name](units, other, np.stack([target, rng.permutation(target)]), folds=FOLDS)
    assert reading.held.shape == (2, 200, 1)
    assert reading.others.shape == (2, 30, 1)
    assert np.corrcoef(reading.held[0, :, 0], target[:, 0])[0, 1] > 0.99
    assert abs(np.corrcoef(reading.held[1, :, 0], target[:, 0])[0, 1]) < 0.3
    assert np.corrcoef(reading.others[0, :, 0], other[:, 0])[0, 1] > 0.99


def test_readers_each_win_where_they_should():
    rng = np.random.default_rng(1)
    weights, noise = rng.normal(size=150), rng.normal(size=200)
    units, other = rng.normal(size=(2, 200, 150))
    dense = scores(units, units @ weights + noise, other, other @ weights)
    assert dense["ridge"] > dense["few dimensions"] + 0.05
    # one clean dimension among 500 idle ones, each of which fires on a few rows
    idle = [(rng.random((200, 500)) < 0.05) * rng.random((200, 500)) for _ in range(2)]
    clean = [np.concatenate([part[:, :1], rest], axis=1) for part, rest in zip((units, other), idle, strict=True)]
    sparse = scores(clean[0], units[:, 0], clean[1], other[:, 0])
    assert min(sparse["LASSO"], sparse["few dimensions"]) > sparse["ridge"] + 0.1


def test_predict_folds_is_the_lasso_of_the_other_folds():
    rng = np.random.default_rng(2)
    units = rng.normal(size=(200, 8)) * np.arange(1, 9)
    targets = 5 + units[:, :2] @ np.array([[1.0, 0.0], [0.5, 2.0]]) + rng.normal(size=(200, 2))
    rows, folds = Gramian(units), []
    for fold in range(5):
        folds.append(make_fold(rows, fitted=fold != FOLDS, scored=fold == FOLDS))
    with ThreadPoolExecutor(1) as pool:
        tuned = tune(rows, rows.moments(np.ones(200, dtype=bool)), folds, targets, LASSO_GRID, pool)
    held = predict_folds(rows, folds, targets, tuned, 1e-8)
    for fold in range(5):
        outside = fold != FOLDS
        scaler = StandardScaler().fit(units[outside])
        for j in range(2):
            y = targets[outside, j]
            model = Lasso(alpha=tuned.alpha[j], tol=1e-10, max_iter=100_000)
            model.fit(scaler.transform(units[outside]), (y - y.mean()) / y.std())
            expected = model.predict(scaler.transform(units[~outside])) * y.std() + y.mean()
            np.testing.assert_allclose(held[~outside, j], expected, atol=1e-3)
