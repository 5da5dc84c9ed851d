import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otoscope.resampling.exchange import PERMUTATIONS, exchange, score_factors, within_r2
from otoscope.resampling.groups import null_summary


def test_rows_of_a_target_that_varies_within_groups_stay_in_their_group() -> None:
    groups = np.random.default_rng(0).integers(0, 5, 200)
    found = exchange(np.arange(200.0), groups)
    assert found.within
    assert found.testable
    orders = [order.copy() for order in found.orders(permutations=20)]
    for order in orders:
        assert sorted(order) == list(range(200))
        np.testing.assert_array_equal(groups[order], groups)
    assert (orders[0] != orders[1]).any()
    assert [o.tolist() for o in found.orders(permutations=20)] == [o.tolist() for o in orders]


def test_a_target_that_is_constant_within_groups_is_dealt_out_group_by_group() -> None:
    groups = np.repeat(np.arange(8), 10)
    sex = np.repeat(list("ffmmmfmf"), 10)
    found = exchange(sex, groups)
    assert not found.within
    orders = list(found.orders(permutations=30))
    for order in orders:
        dealt = sex[order].reshape(8, 10)
        assert (dealt == dealt[:, :1]).all()
        assert (dealt[:, 0] == "f").sum() == 4
    assert len({tuple(sex[order]) for order in orders}) > 10


@pytest.mark.parametrize(
    ("labels", "groups", "testable"),
    [
        # 20 ways to deal 3 of 6 groups give no p below 1 / 20 beyond chance, 70 of 8 do
        ("fffmmm", range(6), False),
        ("ffffmmmm", range(8), True),
        # 3 rows per group: 3 ** 2 = 9 and 3 ** 3 = 27 arrangements of one row in three
        ("xyyxyy", [0, 0, 0, 1, 1, 1], False),
        ("xyyxyyxyy", [0, 0, 0, 1, 1, 1, 2, 2, 2], True),
        ("xxxx", [0, 0, 1, 1], False),
        ("", [], False),
    ],
)
def test_a_test_needs_more_arrangements_than_twenty(labels: str, groups: list[int], *, testable: bool) -> None:
    found = exchange(np.array(list(labels)), np.array(list(groups), dtype=int))
    assert found.testable == testable
    assert len(list(found.orders(permutations=3))) == 3 * testable


def test_what_cannot_be_tested_never_exceeds_its_null() -> None:
    truth = np.repeat([0.0, 1.0, 2.0], 5)[:, None]
    found = score_factors(truth, truth, np.ones(1), np.repeat(np.arange(3), 5))
    assert found.r2[0] == 1
    assert found.null_high[0] == 1
    assert np.isnan([found.null_mean[0], found.within[0]]).all()


def test_null_summary_is_the_largest_value_with_a_p_of_five_percent() -> None:
    null = np.arange(PERMUTATIONS, dtype=float)
    _, high = null_summary(null)
    assert (1 + (null >= high + 0.5).sum()) / (1 + PERMUTATIONS) <= 0.05
    assert (1 + (null >= high).sum()) / (1 + PERMUTATIONS) > 0.05


@given(st.integers(0, 2**31 - 1))
def test_within_r2_ignores_differences_between_groups(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = rng.integers(4, size=60)
    truth, noise = rng.normal(size=(60, 2)), 0.5 * rng.normal(size=(60, 2))
    plain = within_r2(truth, truth + noise, groups, strata=groups)
    offset = rng.normal(size=(2, 4, 2)) * 5
    moved = within_r2(truth + offset[0][groups], truth + noise + offset[1][groups], groups, strata=groups)
    for one, other in zip(plain, moved, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-9)


def test_between_groups_alone_is_within_the_null() -> None:
    """A predictor that knows each singer's mean and nothing else, as one of the singer's sex does of pitch."""
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(6), 30)
    level = 3 * rng.normal(size=6)[groups]
    truth = (level + rng.normal(size=180))[:, None]
    knows = np.stack([level + 0.3 * rng.normal(size=180)], axis=1)
    found = score_factors(truth, knows, truth.mean(axis=0), groups)
    assert found.r2[0] > 0.7
    assert found.r2[0] <= found.null_high[0]
    assert found.null_mean[0] > 0.7
    assert found.within[0] < 0.1
    better = score_factors(truth, truth + 0.5, truth.mean(axis=0), groups)
    assert better.r2[0] > better.null_high[0]
    assert better.within[0] == pytest.approx(1)


EFFECTS = {"independent": 0.0, "of the group": 1.0}
"""Share of the factor's own level of each group that the predictions know."""


@pytest.mark.parametrize("n_groups", [2, 4, 10])
@pytest.mark.parametrize("effect", list(EFFECTS))
def test_predictions_that_know_groups_only_exceed_their_null_in_five_percent(effect: str, n_groups: int) -> None:
    exceed = []
    for seed in range(12):
        rng, groups = np.random.default_rng(seed), np.repeat(np.arange(n_groups), 20)
        levels, others = 2 * rng.normal(size=(2, n_groups, 40))
        truth = levels[groups] + rng.normal(size=(len(groups), 40))
        known = EFFECTS[effect] * levels + (1 - EFFECTS[effect]) * others
        found = score_factors(
            truth, known[groups] + 0.5 * rng.normal(size=truth.shape), np.zeros(40), groups, seed=seed
        )
        exceed.append(found.r2 > found.null_high)
    # 480 tests have a standard error of 1 %; an R2 of independent predictions is rarely above 0
    assert np.mean(exceed) <= 0.08
    assert np.mean(exceed) >= 0.02 * EFFECTS[effect]


def test_scores_of_predictions_equal_plain_sums() -> None:
    rng = np.random.default_rng(4)
    truth, guess = rng.normal(size=(50, 3)), rng.normal(size=(50, 3))
    groups = np.repeat(np.arange(5), 10)
    found = score_factors(truth, guess, np.zeros(3), groups)
    np.testing.assert_allclose(found.r2, 1 - ((truth - guess) ** 2).sum(axis=0) / (truth**2).sum(axis=0))
    order = next(exchange(truth[:, 0], groups).orders())
    assert not math.isnan(found.null_mean[0])
    assert ((truth[order] - guess) ** 2).sum() != pytest.approx(((truth - guess) ** 2).sum())
