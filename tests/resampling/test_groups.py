import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otoscope.errors import EvaluationError
from otoscope.resampling.groups import (
    group_folds,
    group_sums,
    null_summary,
)


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
