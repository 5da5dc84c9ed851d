"""Factor scores of the study and the effect of each switch."""

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import Lasso

from otoscope.config.mariotte2025 import ReproductionSettings
from otoscope.factors.readable_names import category
from otoscope.protocols.mariotte2025.measure import (
    count_categories,
    entropy_bits,
    included_factors,
    mean_over_top,
    score_factors,
)

ROWS = 200


def problem(*, width: int = 30, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return features, factors (in one feature, in five, in none), and five singers."""
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((ROWS, width)).astype(np.float32)
    noise = rng.standard_normal((ROWS, 3))
    factors = np.stack([features[:, 0], features[:, :5].sum(axis=1), noise[:, 0]], axis=1) + 0.05 * noise
    return features, factors.astype(np.float64), np.repeat(["a", "b", "c", "d", "e"], ROWS // 5)


def scored(features, factors, groups, **switches):
    return score_factors(features, factors, groups, ReproductionSettings(**switches), width=features.shape[1])


def test_score_factors_completeness_is_higher_for_fewer_dimensions():
    found = scored(*problem())
    assert found.r2[:2] == pytest.approx([0.99, 0.93], abs=0.03)
    assert found.completeness[0] > 0.95
    assert found.completeness[1] == pytest.approx(1 - np.log(5) / np.log(30), abs=0.03)


def test_score_factors_completeness_of_an_unpredicted_factor():
    features, factors, groups = problem()
    silent = features.copy()
    silent[:, :] = np.random.default_rng(9).standard_normal(silent.shape)
    strong = {"alpha": 0.9}
    assert scored(silent, factors, groups, **strong).completeness.tolist() == [1.0, 1.0, 1.0]
    assert np.isnan(scored(silent, factors, groups, completeness_of_unpredicted="nan", **strong).completeness).all()


def test_score_factors_live_normaliser_ignores_dead_dimensions():
    features, factors, groups = problem()
    wider = np.hstack([features, np.zeros((ROWS, 200), dtype=np.float32)])
    plain, more = scored(features, factors, groups), scored(wider, factors, groups)
    assert more.completeness[1] > plain.completeness[1] + 0.1
    live = scored(wider, factors, groups, completeness_normaliser="live")
    np.testing.assert_allclose(live.completeness, plain.completeness, atol=1e-9)


def test_score_factors_width_normaliser_equates_equal_spreads():
    features, factors, groups = problem()
    wider = np.hstack([features, np.zeros((ROWS, 200), dtype=np.float32)])
    settings = ReproductionSettings(completeness_normaliser="width")
    both = [score_factors(x, factors, groups, settings, width=30).completeness for x in (features, wider)]
    np.testing.assert_allclose(*both, atol=1e-9)


def test_score_factors_predicts_noise_only_in_sample():
    rng = np.random.default_rng(0)
    features, factors = rng.standard_normal((ROWS, 400)).astype(np.float32), rng.standard_normal((ROWS, 6))
    groups = np.repeat(["a", "b", "c", "d", "e"], ROWS // 5)
    assert scored(features, factors, groups).r2.mean() > 0.15
    assert scored(features, factors, groups, lasso_r2="unseen_singers").r2.mean() < 0.0


def test_score_factors_unseen_singers_matches_a_loop():
    features, factors, groups = problem()
    found = scored(features, factors, groups, lasso_r2="unseen_singers").r2
    error, spread = np.zeros(3), np.zeros(3)
    for singer in "abcde":
        out = groups == singer
        x, y = features[~out].astype(np.float64), factors[~out]
        xs, ys = (x - x.mean(0)) / x.std(0), (y - y.mean(0)) / y.std(0)
        predicted = (
            Lasso(alpha=0.1, tol=1e-8, max_iter=10000).fit(xs, ys).predict((features[out] - x.mean(0)) / x.std(0))
        )
        away = (factors[out] - y.mean(0)) / y.std(0)
        error += ((away - predicted) ** 2).sum(0)
        spread += (away**2).sum(0)
    np.testing.assert_allclose(found, 1 - error / spread, atol=1e-4)


def test_mean_over_top_ranks_by_the_given_values():
    values, by = np.array([0.1, 0.9, np.nan, 0.5]), np.array([3.0, 1.0, 9.0, 2.0])
    settings = ReproductionSettings()
    assert mean_over_top(values, by=by, settings=settings).members.tolist() == [2, 0, 3, 1]
    assert mean_over_top(values, by=by, settings=settings).mean == pytest.approx(0.5)
    many = np.linspace(0, 1, 21)
    assert mean_over_top(many, by=many, settings=settings).mean == pytest.approx(many[-10:].mean())
    assert mean_over_top(many, by=many, settings=ReproductionSettings(factors_averaged="all")).mean == pytest.approx(
        0.5
    )
    nothing = np.full(3, np.nan)
    assert np.isnan(mean_over_top(nothing, by=nothing, settings=settings).mean)


def test_entropy_bits_of_given_histograms_and_included_factors():
    even, lone = np.arange(100.0), np.zeros(100)
    lone[7] = 50.0
    factors = np.stack([even, lone], axis=1)
    assert entropy_bits(factors) == pytest.approx([np.log2(10), 0.0808], abs=1e-3)
    assert included_factors(factors, ReproductionSettings()).tolist() == [True, True]
    assert included_factors(factors, ReproductionSettings(degenerate_factors="drop")).tolist() == [True, False]


@pytest.mark.shared
def test_count_categories_by_substring_matches_the_paper(shared):
    names = pl.read_csv(shared / "paper" / "vocalset_train_egemaps.csv.gz", n_rows=1).columns[1:]
    names = [name for name in names if category(name) != "other"]
    assert len(names) == 88
    theirs = count_categories(names, ReproductionSettings())
    # PAPER 1.3, 9
    sizes = {"pitch": 14, "formants": 18, "voice quality": 6, "mfcc": 16, "spectral": 17, "rhythm": 5, "loudness": 12}
    assert theirs == sizes
    assert count_categories(names, ReproductionSettings(categories="egemaps"))["pitch"] == 10


def test_score_factors_disentanglement_average_switch():
    features, factors, groups = problem()
    mean, total = (
        scored(features, factors, groups, disentanglement_average=s).disentanglement for s in ("mean", "sum")
    )
    assert total == pytest.approx(30 * mean)
    assert 0 < total <= 1
