"""The k largest of a row: exact, ties to the lowest position, nothing that is not above 0."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otoscope.sae._kernels.tables import padded
from otoscope.sae._kernels.topk import choose, keep_only, make_keys


def chosen(values, k, *, bias=None, wanted=None):
    values = np.array(values)
    keys, single = np.zeros(padded(len(values)), np.int16), np.zeros(len(values), np.float32)
    places = np.full(len(values) + 16, -1, np.int32)
    make_keys(values, np.zeros_like(values) if bias is None else bias, single, keys)
    if wanted is not None:
        keep_only(keys, wanted)
    return places[: choose(values, keys, k, places)]


def expected(values, k):
    best = np.argsort(-np.asarray(values), kind="stable")[:k]
    return np.sort(best[np.asarray(values)[best] > 0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("latents", "k"), [(1, 1), (5, 5), (33, 7), (2048, 1), (2048, 102), (2048, 2047), (6144, 50)])
def test_the_largest_are_found_in_ascending_positions(latents, k, dtype):
    rng = np.random.default_rng(latents + k)
    for _ in range(20):
        values = rng.standard_normal(latents).astype(dtype)
        assert (chosen(values, k) == expected(values, k)).all()


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from([-1.0, 0.0, 0.5, 1.0, 1.0000001, 1.001, 2.0]), min_size=1, max_size=70), st.data())
def test_of_equal_values_the_lowest_position_wins(values, data):
    k = data.draw(st.integers(1, len(values)))
    values = np.array(values, np.float32)
    assert (chosen(values, k) == expected(values, k)).all()


def test_values_that_share_their_upper_bits_are_told_apart():
    values = np.float32(1) + np.arange(300, dtype=np.float32) * np.float32(2**-23)
    np.random.default_rng(0).shuffle(values)
    assert (chosen(values, 40) == expected(values, 40)).all()


def test_a_constant_row_gives_its_first_positions():
    assert chosen(np.ones(100, np.float32), 10).tolist() == list(range(10))


def test_nothing_is_chosen_from_a_row_without_positive_values():
    assert len(chosen(np.array([-1.0, -0.0, 0.0, np.nan, -np.inf], np.float32), 3)) == 0


def test_infinity_comes_first_and_nan_never():
    values = np.array([1.0, np.nan, np.inf, 3e38, 2.0], np.float32)
    assert chosen(values, 2).tolist() == [2, 3]


def test_the_bias_counts_and_unwanted_latents_do_not():
    values, bias = np.array([3.0, 2.0, 1.0, 0.5], np.float32), np.array([-5.0, 0.0, 0.0, 9.0], np.float32)
    assert chosen(values, 2, bias=bias).tolist() == [1, 3]
    assert chosen(values, 2, bias=bias, wanted=np.array([-1, 0, -1, -1], np.int16)).tolist() == [2, 3]
