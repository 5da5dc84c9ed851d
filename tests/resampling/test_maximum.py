import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otoscope.resampling.maximum import compare_with_maximum, permutation_p


def test_p_is_that_of_the_largest_member_in_each_permutation() -> None:
    rng = np.random.default_rng(0)
    null, values = rng.normal(size=(199, 6)), np.array([0.5, 1.0, 2.0, 3.0, 4.0, -1.0])
    found = compare_with_maximum(values, null)
    rows = np.concatenate([values[None], null])
    middle, upper = np.sort(rows, axis=0)[[100, 190]]
    largest = ((null - middle) / (upper - middle)).max(axis=1)
    expected = [(1 + sum(largest >= one)) / 200 for one in (values - middle) / (upper - middle)]
    np.testing.assert_allclose(found.p_value, expected)


@given(st.integers(0, 2**31 - 1), st.sampled_from([20, 199, 999]))
def test_a_value_is_above_the_threshold_where_p_is_at_most_five_percent(seed: int, permutations: int) -> None:
    rng = np.random.default_rng(seed)
    null = rng.normal(size=(permutations, 8)) * rng.uniform(0.1, 10, 8) + rng.normal(size=8)
    values = null.mean(axis=0) + null.std(axis=0) * rng.uniform(-1, 5, 8)
    found = compare_with_maximum(values, null)
    np.testing.assert_array_equal(values > found.high, found.p_value <= 0.05)


def test_scale_and_offset_of_a_member_do_not_matter() -> None:
    rng = np.random.default_rng(1)
    null, values = rng.normal(size=(99, 5)), rng.normal(size=5) + 2
    scale, offset = rng.uniform(0.1, 10, 5), rng.normal(size=5)
    one, other = (
        compare_with_maximum(values, null),
        compare_with_maximum(values * scale + offset, null * scale + offset),
    )
    np.testing.assert_allclose(one.p_value, other.p_value)
    np.testing.assert_allclose(one.high * scale + offset, other.high)


def test_members_without_a_null_are_left_out() -> None:
    rng = np.random.default_rng(2)
    null, values = rng.normal(size=(99, 4)), np.array([9.0, 9.0, np.nan, 9.0])
    null[:, 1] = np.nan
    found = compare_with_maximum(values, null)
    assert np.isnan(found.p_value).tolist() == [False, True, True, False]
    assert np.isinf(found.high).tolist() == [False, True, True, False]
    np.testing.assert_array_equal(found.p_value[[0, 3]], compare_with_maximum(values[[0, 3]], null[:, [0, 3]]).p_value)
    assert np.isnan(compare_with_maximum(values, null[:0]).p_value).all()
    constant = compare_with_maximum(np.ones(1), np.ones((99, 1)))
    assert constant.p_value == 1
    assert not (constant.high < 1).any()


@pytest.mark.parametrize("permutations", [20, 199])
@pytest.mark.parametrize("skewed", [False, True])
def test_at_most_five_percent_of_families_without_effect_have_a_significant_member(
    permutations: int, *, skewed: bool
) -> None:
    rng = np.random.default_rng(3)
    any_member, own = [], []
    for _ in range(600):
        rows = rng.normal(size=(permutations + 1, 30)) + rng.normal(size=(permutations + 1, 1))
        rows = np.exp(rows) if skewed else rows
        any_member.append((compare_with_maximum(rows[0], rows[1:]).p_value <= 0.05).any())
        own.append((permutation_p(rows[0], rows[1:]) <= 0.05).any())
    # 600 families: standard error .9 %
    assert 0.02 <= np.mean(any_member) <= 0.07
    assert np.mean(own) > 0.3
