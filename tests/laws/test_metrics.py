"""Properties of completeness, disentanglement and the predictive fits."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from otoscope.linear.lasso import LassoSettings, fit_factors
from otoscope.metrics.dci import completeness, disentanglement
from otoscope.metrics.probes import ProbeSettings, fit_probe

IMPORTANCES = st.tuples(st.integers(2, 12), st.integers(1, 6)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=st.one_of(st.just(0.0), st.floats(1e-6, 1e6)))
)
SEEDS = st.integers(0, 2**31 - 1)


def figures(importance: np.ndarray, live: np.ndarray) -> np.ndarray:
    spread = completeness(importance, live=live)
    return np.array([*spread.completeness, *spread.effective_latents, disentanglement(importance).value])


@given(IMPORTANCES)
def test_dci_bounds(importance: np.ndarray) -> None:
    spread = completeness(importance, live=np.ones(len(importance), dtype=bool))
    value = disentanglement(importance).value
    defined = ~np.isnan(spread.completeness)
    np.testing.assert_array_equal(defined, importance.any(axis=0))
    assert ((spread.completeness[defined] >= 0) & (spread.completeness[defined] <= 1)).all()
    assert (spread.effective_latents[defined] >= 1).all()
    assert (spread.effective_latents[defined] <= len(importance) * (1 + 1e-9)).all()
    assert np.isnan(value) or 0 <= value <= 1


@given(IMPORTANCES, SEEDS)
def test_dci_ignores_order_of_latents(importance: np.ndarray, seed: int) -> None:
    live = np.ones(len(importance), dtype=bool)
    order = np.random.default_rng(seed).permutation(len(importance))
    np.testing.assert_allclose(figures(importance[order], live), figures(importance, live), rtol=1e-9, atol=1e-9)


@given(IMPORTANCES, st.floats(1e-3, 1e3))
def test_dci_ignores_scale_of_importance(importance: np.ndarray, scale: float) -> None:
    live = np.ones(len(importance), dtype=bool)
    np.testing.assert_allclose(figures(scale * importance, live), figures(importance, live), rtol=1e-9, atol=1e-9)


@given(IMPORTANCES, st.integers(1, 50))
def test_dci_ignores_appended_dead_latents(importance: np.ndarray, dead: int) -> None:
    live = np.ones(len(importance), dtype=bool)
    longer = np.concatenate([importance, np.zeros((dead, importance.shape[1]))])
    longer_live = np.concatenate([live, np.zeros(dead, dtype=bool)])
    np.testing.assert_allclose(figures(longer, longer_live), figures(importance, live), rtol=1e-9, atol=1e-9)


def clips(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(9), 12)
    split = np.repeat(["train", "train", "train", "valid", "test"], [24, 24, 12, 24, 24])
    codes = np.maximum(rng.normal(size=(108, 10)), 0)
    factors = codes[:, :2] @ rng.normal(size=(2, 3)) + 0.3 * rng.normal(size=(108, 3))
    labels = np.where(codes[:, 3] + 0.3 * rng.normal(size=108) > 0.4, "on", "off")
    return codes, factors, labels, groups, split


@settings(max_examples=8, deadline=None)
@given(SEEDS)
def test_lasso_and_probe_ignore_order_scale_and_dead_latents(seed: int) -> None:
    codes, factors, labels, groups, split = clips(seed)
    rng = np.random.default_rng(seed)
    order = rng.permutation(10)
    changed = np.concatenate([codes[:, order] * rng.uniform(0.01, 100, 10), np.zeros((108, 4))], axis=1)
    few = LassoSettings(tolerance=1e-10, choice_tolerance=1e-10)
    one = fit_factors(codes, factors, groups=groups, split=split, settings=few, workers=1)
    other = fit_factors(changed, factors, groups=groups, split=split, settings=few, workers=1)
    for name in ("r2", "low", "high", "null_mean", "alpha"):
        np.testing.assert_allclose(getattr(other, name), getattr(one, name), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(other.weights[:10], one.weights[order], atol=1e-4)
    assert not other.weights[10:].any()
    assert not other.live[10:].any()
    brief = ProbeSettings(tolerance=1e-8)
    read = fit_probe(codes, labels, groups=groups, split=split, settings=brief)
    again = fit_probe(changed, labels, groups=groups, split=split, settings=brief)
    np.testing.assert_array_equal(again.confusion, read.confusion)
    np.testing.assert_allclose(again.accuracy, read.accuracy)
