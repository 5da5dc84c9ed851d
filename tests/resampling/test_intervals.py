from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from otoscope.errors import EvaluationError
from otoscope.resampling.groups import group_sums, r2_from_sums
from otoscope.resampling.intervals import (
    FISHER,
    R2_SCALE,
    Interval,
    jackknife_sums,
    leave_one_out,
    recall_interval,
    share_interval,
)

Statistic = Callable[[Any], Any]


def mean(sums: np.ndarray) -> np.ndarray:
    return sums[..., 0] / sums[..., 1]


def test_leave_one_out_equals_leaving_out_the_rows() -> None:
    rng = np.random.default_rng(0)
    scores, groups = rng.random(60), rng.integers(0, 7, 60)
    value, without = leave_one_out(group_sums(np.stack([scores, np.ones(60)], axis=1), groups), mean)
    assert value == pytest.approx(scores.mean())
    np.testing.assert_allclose(without, [scores[groups != group].mean() for group in range(7)])


def test_jackknife_of_a_mean_of_equal_groups_is_the_t_interval_of_their_means() -> None:
    means = np.random.default_rng(1).normal(size=6)
    found = jackknife_sums(np.stack([means * 5, np.full(6, 5.0)], axis=1), mean)
    expected = stats.t.interval(0.95, 5, loc=means.mean(), scale=stats.sem(means))
    np.testing.assert_allclose(found, [means.mean(), *expected])


def test_jackknife_of_one_group_has_no_interval_and_of_none_is_refused() -> None:
    value, low, high = jackknife_sums(np.array([[3.0, 2.0]]), mean)
    assert value == 1.5
    assert np.isnan([low, high]).all()
    with pytest.raises(EvaluationError, match="at least one"):
        jackknife_sums(np.zeros((0, 2)), mean)


def test_jackknife_has_no_interval_where_a_statistic_needs_one_group() -> None:
    value, low, high = jackknife_sums(np.array([[0.0, 0.0], [0.0, 0.0], [1.0, 2.0]]), r2_from_sums)
    assert value == 0.5
    assert np.isnan([low, high]).all()


def test_jackknife_intervals_stay_within_the_bounds_of_their_scale() -> None:
    r2 = jackknife_sums(np.array([[0.0, 1.0], [0.1, 1.0], [0.9, 1.0]]), r2_from_sums, scale=R2_SCALE)
    assert r2[2] == 1


def test_recall_interval_of_few_groups_that_agree_is_no_point() -> None:
    found = recall_interval(np.full((2, 1), 8.0), np.full((2, 1), 10.0), np.array([20.0]))
    assert found.low < 0.65
    assert found.high > 0.9


def test_recall_interval_of_three_groups_near_the_bound_does_not_widen_with_their_clips() -> None:
    found = [recall_interval(n * np.array([[0.9], [1], [1]]), np.full((3, 1), n), np.array([3 * n])) for n in (10, 60)]
    for one in found:
        assert 0.49 < one.low < 0.51
        assert one.high > 0.999


def test_share_interval_is_at_least_that_of_independent_rows_and_mirrors() -> None:
    exact = stats.binomtest(27, 30).proportion_ci(method="exact")
    found = share_interval(0.9, 0.0, n_groups=3, n=30)
    np.testing.assert_allclose(found[1:], [exact.low, exact.high])
    wide, mirrored = share_interval(0.9, 0.05, n_groups=4, n=30), share_interval(0.1, 0.05, n_groups=4, n=30)
    np.testing.assert_allclose(wide[1:], [1 - mirrored.high, 1 - mirrored.low])
    assert wide.low < found.low < 0.9 < wide.high
    assert np.isnan(share_interval(0.9, np.nan, n_groups=3, n=30)[1:]).all()


def test_recall_interval_without_hits_mirrors_that_without_errors() -> None:
    rows, units = np.full((4, 2), 5.0), np.array([20.0, 20.0])
    none, all_right = recall_interval(0 * rows, rows, units), recall_interval(rows, rows, units)
    assert (none.value, none.low) == (0, 0)
    assert none.high == pytest.approx(1 - all_right.low)


def test_recall_interval_of_one_group_or_no_rows_has_no_ends() -> None:
    assert np.isnan(recall_interval(np.ones((1, 1)), np.ones((1, 1)), np.ones(1))[1:]).all()
    assert np.isnan(recall_interval(np.zeros((3, 2)), np.zeros((3, 2)), np.zeros(2))).all()


DRAWS = 3000
MANY = 20_000

Kind = Callable[[np.random.Generator, int, int], float]


def covered(low: np.ndarray, high: np.ndarray, truth: float) -> float:
    return float(((low <= truth) & (truth <= high)).mean())


def of_means(rng: np.random.Generator, groups: int, draws: int) -> float:
    """Means of normal group effects and noise, with 5 to 60 clips per group."""
    clips = rng.integers(5, 60, (groups, draws))
    centre = rng.normal(size=(groups, draws)) + rng.normal(size=(groups, draws)) / np.sqrt(clips)
    _, low, high = jackknife_sums(np.stack([centre * clips, clips], axis=-1), mean)
    return covered(low, high, 0.0)


def of_r2(rng: np.random.Generator, groups: int, draws: int) -> float:
    """R2 of 30 clips per group whose level and whose error share a group effect."""
    level, bias = rng.normal(size=(groups, draws, 1)), 0.3 * rng.normal(size=(groups, draws, 1))
    errors = ((bias + 0.6 * rng.normal(size=(groups, draws, 30))) ** 2).sum(axis=-1)
    away = ((level + rng.normal(size=(groups, draws, 30))) ** 2).sum(axis=-1)
    _, low, high = jackknife_sums(np.stack([errors, away], axis=-1), r2_from_sums, scale=R2_SCALE)
    return covered(low, high, 1 - (0.09 + 0.36) / 2)


def of_correlations(rng: np.random.Generator, groups: int, draws: int) -> float:
    """Correlation of 0.5 between and within groups of 20 clips."""
    turn = np.array([[1, 0], [0.5, np.sqrt(0.75)]])
    x, y = np.moveaxis(
        rng.normal(size=(groups, draws, 1, 2)) @ turn.T + rng.normal(size=(groups, draws, 20, 2)) @ turn.T, -1, 0
    )
    terms = (np.ones_like(x), x, y, x * x, y * y, x * y)

    def pearson(sums: np.ndarray) -> np.ndarray:
        n, a, b, aa, bb, ab = np.moveaxis(sums, -1, 0)
        return (ab - a * b / n) / np.sqrt((aa - a**2 / n) * (bb - b**2 / n))

    sums = np.stack([term.sum(axis=-1) for term in terms], axis=-1)
    _, low, high = jackknife_sums(sums, pearson, scale=FISHER)
    return covered(low, high, 0.5)


def _recalls(rng: np.random.Generator, rows: np.ndarray, units: np.ndarray, centre: float) -> float:
    logit = centre + rng.normal(size=rows.shape)
    truth = float((1 / (1 + np.exp(-(centre + rng.normal(size=200_000))))).mean())
    hits = rng.binomial(rows, 1 / (1 + np.exp(-logit)))
    found = [recall_interval(h.astype(float), r.astype(float), u) for h, r, u in zip(hits, rows, units, strict=True)]
    ends = np.asarray([each[1:] for each in found])
    return covered(ends[:, 0], ends[:, 1], truth)


def of_accuracies(rng: np.random.Generator, groups: int, draws: int) -> float:
    """Accuracies around 93 % that differ between groups of 20 clips; at 5 groups 1 % of the draws are all right."""
    rows = np.full((draws // 2, groups, 1), 20)
    return _recalls(rng, rows, rows.sum(axis=1).astype(float), 3.0)


def of_balanced_accuracies(rng: np.random.Generator, groups: int, draws: int) -> float:
    """Mean recall of three classes with 60, 30 and 10 % of 60 clips per group."""
    rows = rng.multinomial(60, [0.6, 0.3, 0.1], size=(draws // 2, groups))
    return _recalls(rng, rows, rows.sum(axis=1).astype(float), 2.0)


KINDS = (of_means, of_r2, of_correlations, of_accuracies, of_balanced_accuracies)


@pytest.mark.parametrize("groups", [5, 10, 20])
@pytest.mark.parametrize("kind", KINDS)
def test_interval_covers_the_truth(kind: Kind, groups: int) -> None:
    # 3,000 draws have a standard error of 0.4 %, 1,500 of 0.6 %
    assert 0.92 <= kind(np.random.default_rng(groups), groups, DRAWS) <= 0.99


def test_interval_of_three_groups_is_wide_instead_of_wrong() -> None:
    for kind in KINDS:
        assert kind(np.random.default_rng(3), 3, DRAWS) >= 0.9, kind.__name__


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_interval_has_the_documented_coverage(kind: Kind) -> None:
    found = [100 * kind(np.random.default_rng(groups), groups, MANY) for groups in (3, 5, 10, 20)]
    row = f"| {kind.__name__.removeprefix('of_').replace('_', ' ')} | " + " | ".join(f"{x:.0f}" for x in found) + " |"
    assert row.replace("r2", "R²") in (Path(__file__).parents[2] / "docs/methods.md").read_text(encoding="utf-8")


def test_a_paired_difference_is_narrower_than_the_difference_of_intervals() -> None:
    rng = np.random.default_rng(5)
    rows = np.full(6, 40.0)
    layer = rng.uniform(0.6, 0.95, 6) * rows
    codes = layer - 0.03 * rows + rng.normal(size=6) * 0.2
    both = np.stack([codes, layer, rows], axis=1)
    paired = Interval(*(float(x) for x in jackknife_sums(both, lambda s: (s[..., 0] - s[..., 1]) / s[..., 2])))
    alone = jackknife_sums(both[:, [1, 2]], mean)
    assert paired.value == pytest.approx(-0.03, abs=0.01)
    assert paired.high < 0
    assert paired.high - paired.low < (alone[2] - alone[1]) / 5
