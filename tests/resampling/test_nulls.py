import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otoscope.errors import EvaluationError
from otoscope.resampling.nulls import (
    compare_with_maximum,
    permutation_p,
    permute_rows,
    permuted_order,
    random_dictionary,
    random_sparse_codes,
)


def sparse(rows: int = 60, latents: int = 40, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    codes = rng.gamma(2.0, size=(rows, latents)) * rng.gamma(1.0, size=latents)
    kept = codes >= np.partition(codes, -8, axis=1)[:, -8][:, None]
    return np.where(kept, codes, 0)


def test_random_codes_keep_the_l0_of_every_row_and_the_values_of_every_latent() -> None:
    codes = sparse()
    found = random_sparse_codes(codes, seed=1)
    np.testing.assert_array_equal((found != 0).sum(axis=1), (codes != 0).sum(axis=1))
    np.testing.assert_array_equal(np.sort(found, axis=0), np.sort(codes, axis=0))


def test_random_codes_forget_which_rows_were_alike() -> None:
    kinds = np.repeat(np.arange(6), 20)
    codes = np.zeros((120, 60))
    for row, kind in enumerate(kinds):
        codes[row, 10 * kind : 10 * kind + 5] = 1 + np.random.default_rng(row).random(5)

    def likeness(c: np.ndarray) -> float:
        unit = c / np.linalg.norm(c, axis=1, keepdims=True)
        same = (kinds[:, None] == kinds) & ~np.eye(120, dtype=bool)
        return float((unit @ unit.T)[same].mean())

    assert likeness(codes) > 0.9
    assert likeness(random_sparse_codes(codes, seed=0)) < 0.3


def test_random_codes_are_seeded() -> None:
    codes = sparse()
    np.testing.assert_array_equal(random_sparse_codes(codes, seed=1), random_sparse_codes(codes, seed=1))
    assert (random_sparse_codes(codes, seed=1) != random_sparse_codes(codes, seed=2)).any()


def test_permuting_within_groups_keeps_every_row_in_its_group() -> None:
    groups = np.random.default_rng(0).integers(0, 5, 200)
    order = permuted_order(200, seed=0, groups=groups)
    assert sorted(order) == list(range(200))
    np.testing.assert_array_equal(groups[order], groups)
    assert (order != np.arange(200)).mean() > 0.9


def test_permuting_freely_moves_rows_and_keeps_them_whole() -> None:
    codes = sparse()
    found = permute_rows(codes, seed=3)
    assert sorted(map(tuple, found)) == sorted(map(tuple, codes))
    assert (found != codes).any()


def test_random_directions_have_length_one_and_no_preferred_direction() -> None:
    directions = random_dictionary(4000, 8, seed=0)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1, rtol=1e-5)
    # the mean of n unit vectors of width d has entries of standard deviation 1 / sqrt(n d) = 0.0056
    assert np.abs(directions.mean(axis=0)).max() < 0.025


def test_groups_of_another_length_are_refused() -> None:
    with pytest.raises(EvaluationError, match="3 rows but 2 groups"):
        permuted_order(3, seed=0, groups=np.array([0, 1]))


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
