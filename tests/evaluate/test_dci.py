import numpy as np
import pytest

from otoscope.errors import EvaluationError
from otoscope.metrics.dci import _score, explicitness, relative_size

GROUPS = np.repeat(np.arange(20), 20)
SPLIT = np.repeat(["train", "valid", "test"], [240, 60, 100])


def factors(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(400, 3))


def test_the_area_is_worked_out_by_hand() -> None:
    curves = np.array(
        [
            [0.2, 0.2, 0.2],  # all at once
            [1.0, 0.6, 0.2],  # evenly from nothing
            [1.0, 1.0, 0.0],  # only the last probe: 3/2 of the triangle
            [0.5, 0.1, 0.3],  # lowest in the middle: area 0.2 of 0.9
            [1.1, 1.0, 1.2],  # nothing
        ]
    )
    np.testing.assert_allclose(_score(curves), [1, 0, -0.5, 1 - 0.2 / 0.9, np.nan], atol=1e-12)


def test_a_linear_code_is_explicit_and_a_bent_one_less_so() -> None:
    known = factors()
    mixed = known @ np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    plain = explicitness(mixed, known, groups=GROUPS, split=SPLIT)
    less = explicitness(np.exp(known), known, groups=GROUPS, split=SPLIT)
    assert plain.value > 0.99
    assert plain.linear.r2.min() > 0.99
    assert less.value < plain.value - 0.05
    assert (less.losses[:, -1] < less.losses[:, 0] - 0.05).all()


def test_what_only_a_curve_reads_is_not_explicit() -> None:
    # a parabola: no line reads it, radial functions do
    code = np.random.default_rng(2).normal(size=(400, 1))
    found = explicitness(code, code**2, groups=GROUPS, split=SPLIT)
    assert found.losses[0, 0] > 0.9
    assert found.losses[0, 1:].min() < 0.2
    assert found.value < 0.95


def test_unpredicted_factors_are_nan() -> None:
    known = factors()
    found = explicitness(known, known, groups=GROUPS, split=SPLIT, predicted=np.array([True, False, True]))
    np.testing.assert_array_equal(np.isnan(found.factors), [False, True, False])


def test_larger_codes_pay_for_their_size() -> None:
    assert relative_size(16, np.ones(64, dtype=bool)) == 0.25
    assert relative_size(16, np.arange(64) < 32) == 0.5
    assert relative_size(80, np.ones(64, dtype=bool)) == 1.0
    assert np.isnan(relative_size(3, np.zeros(2, dtype=bool)))


def test_capacities_must_increase() -> None:
    with pytest.raises(EvaluationError, match="increase from 0"):
        explicitness(factors(), factors(), groups=GROUPS, split=SPLIT, capacities=(0, 8, 8))
