"""Paired differences: coverage, power against separate intervals, agreement with textbook formulas."""

import math

import numpy as np
import pytest
from scipy import stats

from otoscope.errors import EvaluationError
from otoscope.resampling.intervals import Interval, unseen_error
from otoscope.resampling.paired import (
    Variance,
    answer_interval,
    jackknife_variance,
    paired_difference,
    score_interval,
    spread_over_seeds,
    student_interval,
)


def ratio(sums: np.ndarray) -> np.ndarray:
    return sums[:, 0] / sums[:, 1]


def answers(
    rng: np.random.Generator, groups: int, loss: float, *, clips: int = 20, accuracy: float = 0.7
) -> tuple[np.ndarray, np.ndarray]:
    """Return which clips of each group codes and layer have right; they share the difficulty of each clip.

    A clip is right where its difficulty, of which half of the variance belongs to its singer, is below a threshold.
    """
    difficulty = rng.normal(size=(groups, 1)) + rng.normal(size=(groups, clips))
    layer, codes = (difficulty + 0.7 * rng.normal(size=difficulty.shape) for _ in range(2))
    scale = math.sqrt(2 + 0.49)
    return codes < scale * stats.norm.ppf(accuracy - loss), layer < scale * stats.norm.ppf(accuracy)


def summed(hits: np.ndarray) -> np.ndarray:
    return np.stack([hits.sum(axis=1), np.full(len(hits), hits.shape[1])], axis=1).astype(float)


def classified(rng: np.random.Generator, groups: int, loss: float) -> tuple[np.ndarray, np.ndarray]:
    """Return hits and sizes per group of codes and layer."""
    codes, dense = answers(rng, groups, loss)
    return summed(codes), summed(dense)


def separately(sums: np.ndarray) -> tuple[float, float]:
    """Return a proportion and the half width of its own interval over groups."""
    total = sums.sum(axis=0)
    variance = jackknife_variance(ratio(total - sums))
    return float(ratio(total[None])[0]), float(stats.t.ppf(0.975, len(sums) - 1) * math.sqrt(variance))


@pytest.mark.parametrize("groups", [5, 10])
def test_paired_difference_covers_the_truth_and_finds_more_than_separate_intervals(groups: int):
    rng, runs, loss = np.random.default_rng(0), 400, 0.1
    covered = paired = separate = 0
    for _ in range(runs):
        codes, dense = classified(rng, groups, loss)
        found = paired_difference([codes], dense, ratio)
        covered += found.low <= -loss <= found.high
        paired += found.high < 0
        (one, error), (other, other_error) = separately(codes), separately(dense)
        separate += one - other + math.hypot(error, other_error) < 0
    assert covered / runs > 0.92
    assert paired / runs > 2 * separate / runs + 0.3, (paired, separate)


@pytest.mark.parametrize("groups", [3, 5, 10])
@pytest.mark.parametrize("accuracy", [0.97, 0.95, 0.8])
@pytest.mark.parametrize("loss", [0.0, 0.02])
def test_answer_interval_covers_differences_near_the_ceiling(groups: int, accuracy: float, loss: float):
    """The interval over groups alone covers 83 to 87 % of differences of 2 points from 97 %."""
    rng, runs = np.random.default_rng(3), 300
    covered = kept = 0
    for _ in range(runs):
        codes, dense = answers(rng, groups, loss, clips=60, accuracy=accuracy)
        over_groups = paired_difference([summed(codes)], summed(dense), ratio)
        change = (codes.astype(float) - dense).ravel() / codes.size
        found = answer_interval(over_groups, change, [codes.size])
        assert found.low < over_groups.value == found.value < found.high
        covered += found.low <= -loss <= found.high
        kept += found.low > -loss
    assert covered / runs > 0.9
    assert kept / runs < 0.1


def test_answer_interval_is_not_a_point_where_groups_change_alike():
    """One more error in each of three groups of 20, where rounding may leave an interval of 1e-16."""
    change = np.repeat([-1 / 60, 0.0], [3, 57])
    for half in (0.0, 3e-16):
        found = answer_interval(Interval(-0.05, -0.05 - half, -0.05 + half), change, [60])
        assert found.low < -0.1
        assert found.high > 0


def test_answer_interval_has_no_ends_without_those_over_groups():
    found = answer_interval(Interval(-0.05, math.nan, math.nan), np.repeat([-1 / 60, 0.0], [3, 57]), [60])
    assert found.value == -0.05
    assert math.isnan(found.low)


@pytest.mark.parametrize(("gained", "lost", "size"), [(14, 26, 200), (3, 0, 60), (5, 5, 12), (0.4, 2.3, 31.5)])
def test_score_interval_inverts_the_score_test_of_paired_shares(gained: float, lost: float, size: float):
    """The ends have a score statistic of 1.96 where the likelihood is largest under the difference."""
    for end in score_interval(gained / size, lost / size, size):
        shares = np.linspace(max(0.0, -end), (1 - end) / 2, 400_002)[1:-1]  # that only the other answer is right
        likelihood = (
            gained * np.log(shares + end) + lost * np.log(shares) + (size - gained - lost) * np.log1p(-2 * shares - end)
        )
        likely = shares[np.argmax(likelihood)]
        variance = size * (2 * likely + end - end**2)
        assert abs(gained - lost - size * end) / math.sqrt(variance) == pytest.approx(1.96, abs=2e-3)


def test_score_interval_stays_within_differences_of_shares():
    assert score_interval(1.0, 0.0, 40)[1] == 1.0
    assert score_interval(0.0, 1.0, 40)[0] == -1.0
    low, high = score_interval(0.0, 0.0, 40)
    assert -low == pytest.approx(high)


def test_paired_difference_without_a_difference_errs_in_one_of_twenty():
    rng = np.random.default_rng(1)
    excluded = 0
    for _ in range(400):
        codes, dense = classified(rng, 6, 0.0)
        found = paired_difference([codes], dense, ratio)
        excluded += found.low > 0 or found.high < 0
    assert excluded / 400 < 0.08


def test_paired_difference_of_means_is_the_paired_t_interval():
    rng = np.random.default_rng(2)
    one, other = rng.normal(size=(2, 9))
    sums = [np.stack([values, np.ones(9)], axis=1) for values in (one, other)]
    found = paired_difference(sums[:1], sums[1], ratio)
    expected = stats.ttest_rel(one, other).confidence_interval()
    assert (found.low, found.high) == (pytest.approx(expected.low), pytest.approx(expected.high))


def test_paired_difference_adds_the_spread_over_seeds():
    dense = np.array([[8.0, 10], [7, 10], [9, 10]])
    seeds = [dense - [change, 0] for change in (0.0, 1.0, 2.0)]
    found = paired_difference(seeds, dense, ratio)
    assert found.value == pytest.approx(-0.1)
    assert found.high - found.value == pytest.approx(stats.t.ppf(0.975, 2) * 0.1 / math.sqrt(3))


def test_paired_difference_of_recalls_is_free_of_rounding():
    """Four of 200 clips are a loss of 0.02, not of 0.0200000000000001."""
    sums = np.stack([np.full((10, 4), 4.0), np.full((10, 4), 5.0)], axis=-1)
    fewer = sums.copy()
    fewer[:4, 0, 0] -= 1
    found = paired_difference([fewer], sums, lambda total: (total[..., 0] / total[..., 1]).mean(axis=-1))
    assert found.value == -0.02


def test_paired_difference_is_open_where_a_group_cannot_be_left_out():
    """A class of one group only: without the group its recall is undefined."""
    sums = np.array([[[3.0, 4], [2, 2]], [[4, 4], [0, 0]], [[2, 4], [0, 0]]])

    def recall(total: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return (total[..., 0] / total[..., 1]).mean(axis=1)

    found = paired_difference([sums], sums, recall)
    assert found.value == 0
    assert math.isnan(found.low)
    assert math.isnan(paired_difference([sums[:1]], sums[:1], recall).high)


def test_paired_difference_refuses_other_groups():
    with pytest.raises(EvaluationError, match="measure both on the same groups"):
        paired_difference([np.ones((3, 2))], np.ones((4, 2)), ratio)


def test_student_interval_pools_degrees_of_freedom():
    equal = student_interval(0.0, [Variance(1.0, 4), Variance(1.0, 4)])
    assert equal.high == pytest.approx(stats.t.ppf(0.975, 8) * math.sqrt(2))
    assert student_interval(0.0, [Variance(1.0, 4), Variance(0.0, 1)]).high == pytest.approx(stats.t.ppf(0.975, 4))
    assert math.isnan(student_interval(0.0, [Variance(math.nan, 1), Variance(1.0, 4)]).low)
    assert spread_over_seeds([0.5]) == []


@pytest.mark.parametrize("sizes", [[30], [10, 10, 10], [4, 40, 8]])
def test_unseen_error_is_the_largest_mean_error_that_leaves_none(sizes: list[int]):
    bound = unseen_error(sizes)
    rng = np.random.default_rng(3)
    shares = rng.dirichlet(np.ones(len(sizes)), size=20_000) * len(sizes) * bound
    above, below = (np.prod(np.clip(1 - shares * by, 0, 1) ** np.asarray(sizes), axis=1) for by in (1.02, 0.95))
    assert above.max() < 0.025 < below.max()
    assert unseen_error([*sizes, 0]) == bound
    assert bound <= 1 - 0.025 ** (1 / min(sizes))
