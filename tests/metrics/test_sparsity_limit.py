import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otoscope.errors import EvaluationError
from otoscope.metrics.sparsity_limit import sparsity_limit

LEVELS = np.array([0.75, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999])


def curve(at: float = 0.95, top: float = 0.9, slope: float = 0.3) -> np.ndarray:
    """Curve that is flat up to a sparsity, then falls by `slope` per decade of active latents."""
    return top - slope * np.maximum(np.log10(1 - at) - np.log10(1 - LEVELS), 0)


def test_sparsity_limit_is_last_level_before_the_drop() -> None:
    found = sparsity_limit(LEVELS, curve(), margin=0.02)
    assert found.limit.value == 0.95
    assert not found.censored
    np.testing.assert_allclose(found.loss, 0.9 - curve(), atol=1e-12)
    assert np.isnan([found.limit.low, found.knee.high]).all()


def test_sparsity_limit_with_wide_margin_is_censored() -> None:
    assert sparsity_limit(LEVELS, curve(), margin=0.15).limit.value == 0.98
    found = sparsity_limit(LEVELS, curve(), margin=1)
    assert found.limit.value == 0.999
    assert found.censored


def test_sparsity_limit_ignores_levels_after_first_loss() -> None:
    values = np.array([0.9, 0.9, 0.5, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9])
    assert sparsity_limit(LEVELS, values).limit.value == 0.8


def test_sparsity_limit_knee_is_at_the_bend() -> None:
    assert sparsity_limit(LEVELS, curve(0.95)).knee.value == pytest.approx(0.95, abs=0.003)
    assert sparsity_limit(LEVELS, curve(0.9)).knee.value == pytest.approx(0.9, abs=0.004)
    straight = 0.5 + 0.2 * np.log10(1 - LEVELS)
    assert np.isnan(sparsity_limit(LEVELS, straight).knee.value)
    assert np.isnan(sparsity_limit(LEVELS[:3], straight[:3]).knee.value)


def test_sparsity_limit_cancels_common_variation_of_groups() -> None:
    rng = np.random.default_rng(0)
    found = sparsity_limit(LEVELS, curve(), without=curve() + 0.1 * rng.normal(size=(12, 1)))
    assert (found.limit.low, found.limit.high) == (0.95, 0.95)
    np.testing.assert_allclose(found.low, found.loss, atol=1e-9)
    wide = sparsity_limit(LEVELS, curve(), without=curve() + 0.01 * rng.normal(size=(12, 9)))
    assert wide.limit.low < 0.95
    assert wide.limit.high > 0.95
    assert wide.knee.low < 0.95 < wide.knee.high


def test_sparsity_limit_has_no_interval_if_undefined_without_a_group() -> None:
    without = np.stack([curve(), curve(), np.full(9, np.nan)])
    found = sparsity_limit(LEVELS, curve(), without=without)
    assert found.limit.value == 0.95
    assert np.isnan([found.limit.low, found.knee.high, found.low[3]]).all()


@given(st.integers(0, 2**31 - 1), st.floats(0, 0.3), st.floats(0, 0.3))
def test_sparsity_limit_is_monotonic_in_margin(seed: int, one: float, other: float) -> None:
    values = np.random.default_rng(seed).uniform(0.5, 1, 9)
    narrow, wide = (sparsity_limit(LEVELS, values, margin=m).limit.value for m in sorted((one, other)))
    assert narrow in LEVELS
    assert narrow <= wide
    shifted = sparsity_limit(LEVELS, values - 0.25, margin=one)
    assert shifted.limit.value == sparsity_limit(LEVELS, values, margin=one).limit.value


def test_sparsity_limit_bad_input_is_refused() -> None:
    with pytest.raises(EvaluationError, match="increasing levels"):
        sparsity_limit(LEVELS[::-1].copy(), curve())
    with pytest.raises(EvaluationError, match="from 0 to below 1"):
        sparsity_limit(np.array([0.5, 1.0]), np.ones(2))
    with pytest.raises(EvaluationError, match="one a level"):
        sparsity_limit(LEVELS, curve()[1:])
    with pytest.raises(EvaluationError, match="without must be"):
        sparsity_limit(LEVELS, curve(), without=np.ones((3, 2)))
    with pytest.raises(EvaluationError, match="margin must be"):
        sparsity_limit(LEVELS, curve(), margin=-1)
