from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import Lasso

from otoscope.errors import EvaluationError
from otoscope.linear.lasso import LassoSettings, fit_factors
from otoscope.resampling.groups import group_folds
from tests.linear.test_lasso import planted

NESTED = LassoSettings(folds=4, alphas=8, patience=None)


def test_the_penalty_chosen_over_folds_is_scikit_learns() -> None:
    codes, factors, groups, split = planted(seed=1)
    found = fit_factors(codes, factors, groups=groups, split=split, settings=NESTED)
    own = split != "test"
    x, folds = codes[own], group_folds(groups[own], 4)
    whole = (x - x.mean(axis=0)) / x.std(axis=0)
    for j in range(3):
        y = factors[own, j]
        standard = (y - y.mean()) / y.std()
        alphas = np.abs(whole.T @ standard).max() / len(y) * np.geomspace(1, 1e-3, 8)
        error, spread = np.zeros(8), 0.0
        for fold in range(4):
            fit, score = folds != fold, folds == fold
            mean, scale = x[fit].mean(axis=0), x[fit].std(axis=0)
            for a, alpha in enumerate(alphas):
                model = Lasso(alpha=alpha, tol=1e-9, max_iter=10**5)
                model.fit((x[fit] - mean) / scale, (y[fit] - y[fit].mean()) / y[fit].std())
                guess = model.predict((x[score] - mean) / scale) * y[fit].std() + y[fit].mean()
                error[a] += ((y[score] - guess) ** 2).sum()
            spread += ((y[score] - y[fit].mean()) ** 2).sum()
        assert found.alpha[j] == pytest.approx(alphas[error.argmin()])
        assert found.valid_r2[j] == pytest.approx(1 - error.min() / spread, abs=1e-4)
        last = Lasso(alpha=found.alpha[j], tol=1e-9, max_iter=10**5).fit(whole, standard)
        np.testing.assert_allclose(found.weights[:, j], last.coef_, atol=1e-3)
    assert found.gap.max() <= NESTED.tolerance


def test_stopping_early_agrees_where_the_best_penalty_comes_first() -> None:
    codes, factors, groups, split = planted(seed=2)
    every = fit_factors(codes, factors, groups=groups, split=split, settings=NESTED)
    early = fit_factors(codes, factors, groups=groups, split=split, settings=replace(NESTED, patience=3))
    np.testing.assert_allclose(early.alpha, every.alpha, rtol=1e-9)
    np.testing.assert_allclose(early.r2, every.r2, atol=1e-5)


def test_threads_do_not_change_a_bit_with_folds() -> None:
    codes, factors, groups, split = planted(p=120)
    holes = np.where(np.arange(400)[:, None] % 9 == np.arange(3), np.nan, factors)
    one = fit_factors(codes, holes, groups=groups, split=split, settings=NESTED, workers=1)
    three = fit_factors(codes, holes, groups=groups, split=split, settings=NESTED, workers=3)
    for a, b in zip(one, three, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_missing_value_leaves_out_its_row_with_folds_too() -> None:
    codes, factors, groups, split = planted()
    holes = np.where((np.arange(400) % 7 == 0)[:, None] & (np.arange(3) == 0), np.nan, factors)
    found = fit_factors(codes, holes, groups=groups, split=split, settings=NESTED)
    kept = ~np.isnan(holes[:, 0])
    alone = fit_factors(codes[kept], holes[kept, :1], groups=groups[kept], split=split[kept], settings=NESTED)
    for name in ("r2", "low", "high", "null_mean", "valid_r2", "alpha"):
        assert getattr(found, name)[0] == pytest.approx(getattr(alone, name)[0], rel=1e-6, abs=1e-8)


def test_null_of_varying_factors_keeps_what_the_codes_know_of_the_group() -> None:
    rng = np.random.default_rng(0)
    groups, split = np.repeat(np.arange(16), 25), np.repeat(["train", "valid", "test"], [250, 50, 100])
    trait = rng.normal(size=16)[groups]
    codes = rng.normal(size=(400, 20))
    codes[:, 0] += 5 * trait
    factors = (trait + 0.1 * rng.normal(size=400))[:, None]
    found = fit_factors(codes, factors, groups=groups, split=split, settings=NESTED)
    assert found.null_mean[0] > 0.7
    assert found.within[0] < 0.2


def test_a_single_group_cannot_be_folded_and_one_fold_chooses_nothing() -> None:
    codes, factors, _, split = planted()
    alone = fit_factors(codes, factors, groups=np.zeros(400), split=split, settings=NESTED)
    assert np.isnan(alone.r2).all()
    with pytest.raises(EvaluationError, match="folds=1"):
        LassoSettings(folds=1)
