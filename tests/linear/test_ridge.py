import numpy as np
import pytest
from sklearn.linear_model import Ridge

from otoscope.errors import EvaluationError
from otoscope.linear.ridge import RidgeSettings, fit_ridge

GROUPS = np.repeat(np.arange(12), 10)
SPLIT = np.repeat(["train", "valid", "test"], [60, 20, 40])


def told(p: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(p)
    features = rng.normal(size=(120, p)) * rng.gamma(2, size=p) + 3
    factors = features[:, :5] @ rng.normal(size=(5, 3)) + rng.normal(size=(120, 3))
    factors[::9, 2] = np.nan
    return features, factors


@pytest.mark.parametrize("p", [12, 300])
def test_choice_and_fit_are_scikit_learns(p: int) -> None:
    features, factors = told(p)
    settings = RidgeSettings(penalties=(1e-3, 1e-2, 1e-1), permutations=0)
    found = fit_ridge(features, factors, groups=GROUPS, split=SPLIT, settings=settings)
    for j in range(3):
        known = ~np.isnan(factors[:, j])
        train, valid, test = (known & (name == SPLIT) for name in ("train", "valid", "test"))
        fitted = train | valid
        x = (features - features[train].mean(axis=0)) / features[train].std(axis=0)
        scores = {
            a: Ridge(a * p * train.sum()).fit(x[train], factors[train, j]).score(x[valid], factors[valid, j])
            for a in settings.penalties
        }
        best = max(scores, key=lambda a: scores[a])
        assert found.penalty[j] == pytest.approx(best)
        guess = Ridge(best * p * fitted.sum()).fit(x[fitted], factors[fitted, j]).predict(x[test])
        wrong = ((factors[test, j] - guess) ** 2).sum()
        away = ((factors[test, j] - factors[fitted, j].mean()) ** 2).sum()
        assert found.r2[j] == pytest.approx(1 - wrong / away, abs=1e-6)
        np.testing.assert_allclose(found.guesses[test, j], guess, rtol=1e-6)


def test_latents_that_barely_fire_in_fitted_rows_do_not_carry_predictions_away() -> None:
    rng = np.random.default_rng(1)
    features, factors = told(12)
    idle = np.where((SPLIT == "test")[:, None], rng.random((120, 20)) * (rng.random((120, 20)) < 0.05), 0.0)
    idle[rng.integers(60, size=20), np.arange(20)] = 1e-3
    idle[60 + rng.integers(20, size=20), np.arange(20)] = 1e-3 * rng.random(20)
    plain, wide = (fit_ridge(x, factors, groups=GROUPS, split=SPLIT) for x in (features, np.hstack([features, idle])))
    assert (plain.r2 > 0.7).all()
    assert (wide.r2 > 0).all()
    assert wide.r2.mean() > 0.5


def test_permuted_targets_are_near_nothing_and_below_what_is_there() -> None:
    features, factors = told(12)
    found = fit_ridge(features, factors, groups=GROUPS, split=SPLIT)
    assert (found.r2 > found.null_high).all()
    assert (found.null_mean < 0.1).all()
    assert ((found.low < found.r2) & (found.r2 < found.high)).all()


def test_what_cannot_be_fitted_is_nan() -> None:
    features, factors = told(12)
    factors[:, 0], factors[SPLIT == "valid", 1] = 4.0, np.nan
    found = fit_ridge(features, factors, groups=GROUPS, split=SPLIT)
    np.testing.assert_array_equal(np.isnan(found.r2), [True, True, False])


def test_bad_input_is_refused() -> None:
    features, factors = told(12)
    with pytest.raises(EvaluationError, match="disagree"):
        fit_ridge(features, factors[:5], groups=GROUPS, split=SPLIT)
    with pytest.raises(EvaluationError, match="NaN or infinity"):
        fit_ridge(features * np.inf, factors, groups=GROUPS, split=SPLIT)
    with pytest.raises(EvaluationError, match="all features are constant"):
        fit_ridge(np.ones((120, 3)), factors, groups=GROUPS, split=SPLIT)
    with pytest.raises(EvaluationError, match="above 0"):
        fit_ridge(features, factors, groups=GROUPS, split=SPLIT, settings=RidgeSettings(penalties=(0.0,)))
