import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otoscope.errors import EvaluationError
from otoscope.resampling.groups import group_folds


@given(st.lists(st.integers(0, 9), min_size=2, max_size=60).filter(lambda g: len(set(g)) > 1), st.integers(2, 6))
def test_groups_stay_whole_and_no_fold_is_empty(names: list[int], folds: int) -> None:
    groups = np.array(names)
    found = group_folds(groups, folds)
    assert set(found) == set(range(min(folds, len(set(names)))))
    assert all(len(set(found[groups == name])) == 1 for name in set(names))


def test_equal_groups_make_equal_folds() -> None:
    found = group_folds(np.repeat(np.arange(20), 8), 5)
    np.testing.assert_array_equal(np.bincount(found), np.full(5, 32))


def test_what_cannot_be_folded_is_refused() -> None:
    with pytest.raises(EvaluationError, match="5 folds over 1 groups"):
        group_folds(np.zeros(4), 5)
    with pytest.raises(EvaluationError, match="1 folds over 2 groups"):
        group_folds(np.array([0, 1]), 1)
