"""Properties of every metric of disentanglement: invariance to order, scale and dead latents; bounds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otoscope.metrics.registry import METRICS
from tests.support.score_card import NAMES, score_card, top

SEEDS = st.integers(0, 2**31 - 1)
GROUPS = np.repeat(np.arange(12), 15)
SPLIT = np.repeat(["train", "valid", "test"], [105, 30, 45])


def clips(seed: int, *, sparse: bool) -> tuple[np.ndarray, np.ndarray]:
    """Codes of three factors; the fourth is missing on some rows, the fifth is constant, the sixth always missing."""
    rng = np.random.default_rng(seed)
    codes = rng.normal(size=(180, 8))
    if sparse:
        codes = np.maximum(codes, 0)
    factors = np.full((180, 6), np.nan)
    factors[:, :4] = codes[:, :4] + codes[:, 4:8] * rng.uniform(0, 0.5, 4) + 0.2 * rng.normal(size=(180, 4))
    factors[rng.random(180) < 0.1, 3] = np.nan
    factors[:, 4] = 2.5
    return codes, factors


def card(codes: np.ndarray, factors: np.ndarray) -> dict[str, np.ndarray]:
    return score_card(codes, factors, groups=GROUPS, split=SPLIT)


def agree(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    for name, values in one.items():
        np.testing.assert_allclose(other[name], values, rtol=1e-4, atol=1e-5, err_msg=name)


@settings(max_examples=6)
@given(SEEDS, st.booleans())
def test_disentanglement_ignores_order_scale_and_dead_latents(seed: int, sparse: bool) -> None:
    codes, factors = clips(seed, sparse=sparse)
    rng = np.random.default_rng(seed)
    plain = card(codes, factors)
    agree(plain, card(codes[:, rng.permutation(8)], factors))
    agree(plain, card(codes * rng.uniform(0.01, 100, 8), factors))
    dead = np.concatenate([np.zeros((180, 5)), np.full((180, 2), 3.0)], axis=1)
    agree(plain, card(np.concatenate([codes, dead], axis=1), factors))


@settings(max_examples=6)
@given(SEEDS, st.booleans())
def test_disentanglement_bounds_and_undefined_values(seed: int, sparse: bool) -> None:
    codes, factors = clips(seed, sparse=sparse)
    found = card(codes, factors)
    assert set(found) == set(NAMES)
    for name, values in found.items():
        low, high = METRICS[name].bounds
        known = values[~np.isnan(values)]
        assert ((known >= low) & (known <= high)).all(), name
        assert not np.isnan(values[0]), name
        if len(values) == 7:
            np.testing.assert_array_equal(np.isnan(values[5:]), [True, True], err_msg=name)


@settings(max_examples=6)
@given(SEEDS, st.booleans())
def test_disentanglement_ignores_scale_of_factors(seed: int, sparse: bool) -> None:
    codes, factors = clips(seed, sparse=sparse)
    agree(card(codes, factors), card(codes, 40 * factors + 7))


@pytest.mark.parametrize("seed", range(3))
def test_disentanglement_of_random_codes_is_nan_or_near_zero(seed: int) -> None:
    codes, _ = clips(seed, sparse=True)
    known = np.random.default_rng(seed).normal(size=(180, 4))
    found = top(card(codes, known))
    for name in ("mig", "infom", "infoc", "completeness", "disentanglement"):
        assert np.isnan(found[name]), name
    assert found["sap"] < 0.05
    assert found["infoe"] < 0.05
    assert found["sparse_r2"] < 0.05
