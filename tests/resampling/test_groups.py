import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otoscope.errors import EvaluationError
from otoscope.resampling.groups import (
    bootstrap_mean,
    bootstrap_sums,
    group_folds,
    group_sums,
    null_summary,
    quantiles,
    resample_counts,
)


def test_the_fast_bootstrap_of_a_mean_is_the_slow_one() -> None:
    rng = np.random.default_rng(0)
    scores, groups = rng.random(60), rng.integers(0, 7, 60)
    fast = bootstrap_mean(scores, groups, resamples=200, seed=3)
    members = [np.flatnonzero(groups == group) for group in range(7)]
    counts = resample_counts(7, resamples=200, seed=3)
    slow = [
        scores[np.concatenate([np.tile(m, times) for m, times in zip(members, row, strict=True)])].mean()
        for row in counts
    ]
    np.testing.assert_allclose(fast[1:], quantiles(np.asarray(slow), 0.95), rtol=1e-12)


def test_identical_groups_leave_no_doubt() -> None:
    found = bootstrap_mean(np.tile([0.0, 1.0], 5), np.repeat(np.arange(5), 2))
    assert found == (0.5, 0.5, 0.5)


def test_one_group_has_a_value_and_no_interval() -> None:
    found = bootstrap_mean(np.array([1.0, 3.0]), np.array(["a", "a"]))
    assert found.value == 2.0
    assert np.isnan([found.low, found.high]).all()


def test_interval_over_groups_is_wider_than_over_rows_when_rows_of_a_group_agree() -> None:
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(8), 50)
    scores = rng.normal(size=8)[groups] + 0.1 * rng.normal(size=400)
    clustered = bootstrap_mean(scores, groups)
    naive = bootstrap_mean(scores, np.arange(400))
    assert clustered.high - clustered.low > 4 * (naive.high - naive.low)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    groups = np.repeat(np.arange(40), 5)
    hits = 0
    for seed in range(200):
        scores = rng.normal(size=40)[groups] + rng.normal(size=200)
        found = bootstrap_mean(scores, groups, resamples=300, seed=seed)
        hits += found.low <= 0 <= found.high
    # 95 % nominal, some less for percentile intervals of 40 groups; 200 trials have a standard error of 1.7 %
    assert 0.88 <= hits / 200 <= 0.99


def test_same_seed_same_interval_other_seed_other_interval() -> None:
    scores, groups = np.arange(20.0), np.arange(20) // 2
    assert bootstrap_mean(scores, groups, seed=1) == bootstrap_mean(scores, groups, seed=1)
    assert bootstrap_mean(scores, groups, seed=1) != bootstrap_mean(scores, groups, seed=2)


def test_resamples_draw_as_many_groups_as_there_are() -> None:
    assert (resample_counts(6, resamples=50).sum(axis=1) == 6).all()


def test_resamples_in_which_a_statistic_is_undefined_are_left_out() -> None:
    sums = np.array([[0.0, 0.0], [1.0, 2.0]])

    def ratio(s: np.ndarray) -> np.ndarray:
        return np.divide(s[..., 0], s[..., 1], out=np.full(s.shape[:-1], np.nan), where=s[..., 1] > 0)

    value, low, high = bootstrap_sums(sums, ratio)
    assert value == low == high == 0.5


def test_groups_are_summed_by_name() -> None:
    sums = group_sums(np.array([1.0, 2.0, 4.0]), np.array(["b", "a", "b"]))
    np.testing.assert_array_equal(sums, [2.0, 5.0])


def test_null_summary_is_the_mean_and_the_largest_of_a_few() -> None:
    mean, high = null_summary(np.array([[0.1, np.nan], [0.3, np.nan]]))
    np.testing.assert_allclose(mean, [0.2, np.nan])
    np.testing.assert_allclose(high, [0.3, np.nan])


def test_bad_input_is_refused() -> None:
    with pytest.raises(EvaluationError, match="3 rows of values but 2 group names"):
        group_sums(np.zeros(3), np.array([0, 1]))
    with pytest.raises(EvaluationError, match="no rows to average"):
        bootstrap_mean(np.zeros(0), np.zeros(0))
    with pytest.raises(EvaluationError, match="between 0 and 1, got 95"):
        quantiles(np.zeros((3, 1)), 95)


@given(st.lists(st.integers(0, 9), min_size=2, max_size=60).filter(lambda g: len(set(g)) > 1), st.integers(2, 6))
def test_group_folds_keep_groups_whole_and_no_fold_empty(names: list[int], folds: int) -> None:
    groups = np.array(names)
    folds_of_rows = group_folds(groups, folds)
    assert set(folds_of_rows) == set(range(min(folds, len(set(names)))))
    assert all(len(set(folds_of_rows[groups == name])) == 1 for name in set(names))


def test_group_folds_of_equal_groups_are_equal() -> None:
    folds_of_rows = group_folds(np.repeat(np.arange(20), 8), 5)
    np.testing.assert_array_equal(np.bincount(folds_of_rows), np.full(5, 32))


def test_group_folds_need_two_folds_and_two_groups() -> None:
    with pytest.raises(EvaluationError, match="5 folds over 1 groups"):
        group_folds(np.zeros(4), 5)
    with pytest.raises(EvaluationError, match="1 folds over 2 groups"):
        group_folds(np.array([0, 1]), 1)
