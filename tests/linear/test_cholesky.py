import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from otoscope.linear.cholesky import NO_FEATURE, ROUTINES, empty_active_set, solve, update_factor


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31 - 1), st.integers(1, 25))
def test_after_any_changes_the_factor_is_that_of_the_features_with_weight(seed: int, p: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2 * p + 5, p))
    gram = x.T @ x / len(x)
    support = empty_active_set(p)
    for _ in range(6):
        weights = rng.normal(size=p) * (rng.random(p) < rng.random())
        assert update_factor(ROUTINES, gram, weights, support) == NO_FEATURE
        size = support.size[0]
        order = support.order[:size]
        assert sorted(order) == np.flatnonzero(weights).tolist()
        factor = np.tril(support.factor[:size, :size])
        np.testing.assert_allclose(factor @ factor.T, gram[np.ix_(order, order)], atol=1e-10)
        right = rng.normal(size=size)
        x_solved = right.copy()
        if size:
            solve(ROUTINES, support.factor, size, x_solved)
        np.testing.assert_allclose(gram[np.ix_(order, order)] @ x_solved, right, atol=1e-6)


def test_a_feature_that_others_determine_is_named_and_left_out() -> None:
    x = np.random.default_rng(0).normal(size=(30, 4))
    x = np.concatenate([x, x[:, :1] + x[:, 1:2]], axis=1)
    support = empty_active_set(5)
    assert update_factor(ROUTINES, x.T @ x / 30, np.array([5.0, 4.0, 3.0, 2.0, 1.0]), support) == 4
    assert support.order[: support.size[0]].tolist() == [0, 1, 2, 3]


def test_what_there_is_no_room_for_is_named() -> None:
    support = empty_active_set(2)
    assert update_factor(ROUTINES, np.eye(4), np.array([0.1, 3.0, 0.2, 2.0]), support) == 2
    assert support.order[: support.size[0]].tolist() == [1, 3]
