"""MIG, InfoMEC and SAP with scores computed by hand."""

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from otoscope.errors import EvaluationError
from otoscope.metrics.latent_metrics import gap_of, infomec, information_gap, predictability_gap
from otoscope.metrics.mutual_information import InformationHalves, measure_halves

SPLIT = np.repeat(["train", "valid", "test"], [150, 50, 100])


def halves(
    first: list[list[float]], second: list[list[float]] | None = None, deviation: float = 0.01
) -> InformationHalves:
    tables = [np.array(first), np.array(second or first)]
    live = np.any([table.any(axis=1) for table in tables], axis=0)
    return InformationHalves(*tables, np.full(tables[0].shape[1], deviation), live)


def test_information_gap_is_that_of_the_two_latents_that_the_other_half_chose() -> None:
    found = information_gap(
        halves([[0.9, 0.2, 0], [0.3, 0.1, 0], [0, 0.0, 0]], [[0.7, 0.1, 0], [0.4, 0.2, 0], [0, 0, 0]])
    )
    # the first factor's latents are 0 and 1 on both halves; the second's best differs between them
    np.testing.assert_allclose(found.factors, [(0.3 + 0.6) / 2, ((0.1 - 0.2) + (0.1 - 0.2)) / 2, 0], atol=1e-12)
    np.testing.assert_array_equal(found.best[:2], [0, 0])
    assert found.value == pytest.approx((0.45 - 0.1) / 3)


def test_information_gap_of_latents_without_information_is_zero_on_average() -> None:
    """The largest of 500 idle latents has information by chance; measured on other clips it has none."""
    rng = np.random.default_rng(0)
    gaps = []
    for _ in range(20):
        factors = rng.normal(size=(200, 10))
        idle = (rng.random((200, 500)) < 0.05) * rng.random((200, 500))
        found = measure_halves(idle, factors)
        assert np.isnan(information_gap(found).value)
        # latents of the first five factors make the sum exceed chance
        told = measure_halves(np.column_stack([factors[:, :5], idle[:, :100]]), factors)
        gaps.append(information_gap(told).factors[5:])
    assert abs(np.mean(gaps)) < 0.005
    assert found.first.max(axis=0).min() > 0.02


def test_gap_of_single_latent_is_its_score() -> None:
    assert gap_of(np.array([[0.4]])).value == 0.4


def test_infomec_is_the_share_of_what_the_other_half_chose() -> None:
    first, second = [[0.6, 0.2], [0.1, 0.3], [0, 0]], [[0.5, 0.3], [0.2, 0.1], [0, 0]]
    found = infomec(halves(first, second))
    total = 1.2 + 1.1
    # latents choose columns 0 and 1 on the first half, 0 and 0 on the second; factors rows 0 and 1, then 0 and 0
    own, of_factors = (0.5 + 0.1) + (0.6 + 0.1), (0.5 + 0.1) + (0.6 + 0.2)
    assert found.modularity == pytest.approx((own / total - 0.5) / 0.5)
    assert found.compactness == pytest.approx((of_factors / total - 0.5) / 0.5)


def test_infomec_averages_equal_maxima() -> None:
    found = infomec(halves([[0.4, 0.4], [0.0, 0.2]], [[0.6, 0.2], [0.0, 0.2]]))
    assert found.modularity == pytest.approx((((0.4 + 0.2) + (0.4 + 0.2)) / 2.0 - 0.5) / 0.5)


def test_latent_metrics_count_predicted_factors_only() -> None:
    found, first = halves([[0.9, 0.9], [0, 0.1]]), np.array([True, False])
    assert information_gap(found, predicted=first).value == pytest.approx(0.9)
    assert np.isnan(information_gap(found, predicted=first).factors[1])
    assert infomec(found, predicted=first).compactness == 1
    assert np.isnan(infomec(found, predicted=first).modularity)


def test_latent_metrics_without_information_are_nan() -> None:
    found = halves([[0.01, -0.01], [0.02, 0.0]])
    for value in (information_gap(found).value, *infomec(found)):
        assert np.isnan(value)


def test_latent_metrics_of_duplicated_latents_as_documented() -> None:
    once, twice = halves([[0.8, 0.1], [0.2, 0.7]]), halves([[0.8, 0.1], [0.2, 0.7], [0.8, 0.1], [0.2, 0.7]])
    assert information_gap(once).value == pytest.approx(0.6)
    assert information_gap(twice).value == 0
    one, other = infomec(once), infomec(twice)
    assert other.modularity == pytest.approx(one.modularity)
    # 1.5 of 1.8 becomes 1.5 of 3.6, rescaled from 1/4
    assert other.compactness == pytest.approx((1.5 / 3.6 - 0.25) / 0.75)


def planted(clips: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return 64 sparse features, 20 factors that equal the first, and the largest 20 of 256 random directions."""
    rng = np.random.default_rng(seed)
    features = (rng.random((clips, 64)) < 0.15) * rng.gamma(2, 1, (clips, 64))
    rows = features @ rng.normal(size=(64, 128)) / 128**0.5 + 0.1 * rng.normal(size=(clips, 128))
    directions = rng.normal(size=(128, 256))
    projected = np.maximum(rows @ directions, 0)
    return features, features[:, :20], np.where(projected >= np.sort(projected, axis=1)[:, [-20]], projected, 0)


@pytest.mark.parametrize("clips", [200, 420])
def test_random_directions_are_far_below_the_true_dictionary_for_any_number_of_clips(clips: int) -> None:
    for seed in range(2):
        features, factors, random = planted(clips, seed)
        true, low = (infomec(measure_halves(codes, factors)) for codes in (features, random))
        assert min(true.modularity, true.compactness) > 0.95
        gaps = [information_gap(measure_halves(codes, factors)).value for codes in (features, random)]
        assert gaps[0] > 0.9 > 0.1 > gaps[1]
        # with a test for every pair, both were above .8 here, and lower with more clips
        assert low.modularity < 0.3
        assert low.compactness < 0.1


def test_latents_without_information_do_not_change_infomec() -> None:
    features, factors, _ = planted(420, 0)
    rng = np.random.default_rng(1)
    idle = (rng.random((420, 500)) < 0.05) * rng.random((420, 500))
    alone, among = (infomec(measure_halves(codes, factors)) for codes in (features, np.hstack([features, idle])))
    assert among.modularity == pytest.approx(alone.modularity, abs=0.05)
    assert among.compactness == pytest.approx(alone.compactness, abs=0.05)
    assert np.isnan(infomec(measure_halves(idle, factors)).modularity)


def test_predictability_gap_equals_held_out_lines() -> None:
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(300, 4))
    factors = codes @ rng.normal(size=(4, 3)) + 0.3 * rng.normal(size=(300, 3))
    fitted, judged = SPLIT != "test", SPLIT == "test"
    scores = np.empty((4, 3))
    for i in range(4):
        for j in range(3):
            line = LinearRegression().fit(codes[fitted, i : i + 1], factors[fitted, j])
            wrong = factors[judged, j] - line.predict(codes[judged, i : i + 1])
            away = factors[judged, j] - factors[fitted, j].mean()
            scores[i, j] = max(1 - (wrong**2).sum() / (away**2).sum(), 0)
    top = np.sort(scores, axis=0)
    found = predictability_gap(codes, factors, split=SPLIT)
    np.testing.assert_allclose(found.factors, top[-1] - top[-2])
    np.testing.assert_array_equal(found.best, scores.argmax(axis=0))


def test_latent_metrics_bad_input_is_refused() -> None:
    codes = np.random.default_rng(0).normal(size=(300, 2))
    with pytest.raises(EvaluationError, match="rows of codes but"):
        predictability_gap(codes, codes[:5], split=SPLIT)
    with pytest.raises(EvaluationError, match="must be finite"):
        predictability_gap(codes * np.nan, codes, split=SPLIT)
