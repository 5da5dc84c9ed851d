"""MIG, modularity, InfoMEC and SAP with scores computed by hand."""

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from otoscope.errors import EvaluationError
from otoscope.metrics.latent_metrics import gap_of, infomec, information_gap, modularity, predictability_gap
from otoscope.metrics.mutual_information import Information

SPLIT = np.repeat(["train", "valid", "test"], [150, 50, 100])


def told(adjusted: list[list[float]], live: list[bool] | None = None) -> Information:
    table = np.array(adjusted, dtype=np.float64)
    alive = np.ones(len(table), dtype=bool) if live is None else np.array(live)
    return Information(table, table, np.zeros_like(table), np.ones(table.shape[1]), alive)


def test_information_gap_is_between_best_two_latents() -> None:
    found = information_gap(told([[0.9, 0.2, 0], [0.3, 0.2, 0], [0, 0.1, 0]]))
    np.testing.assert_allclose(found.factors, [0.6, 0, np.nan])
    np.testing.assert_array_equal(found.best, [0, 0, -1])
    assert found.value == pytest.approx(0.3)


def test_gap_of_single_latent_is_its_score() -> None:
    assert gap_of(np.array([[0.4]])).value == 0.4


def test_modularity_of_hand_computed_latents() -> None:
    found = modularity(told([[1.0, 0, 0], [0.5, 0.5, 0.5], [0.8, 0.4, 0], [0, 0, 0]]))
    expected = [1, 0, 1 - 0.25 / 2]
    np.testing.assert_allclose(found.latents, [*expected, np.nan])
    assert found.unweighted == pytest.approx(np.mean(expected))
    assert found.value == pytest.approx(np.average(expected, weights=[1.0, 0.5, 0.8]))


def test_infomec_rescales_the_largest_share() -> None:
    found = infomec(told([[0.6, 0.2], [0, 0.2], [0, 0]], live=[True, True, False]), r2=np.array([0.5, -3]))
    np.testing.assert_allclose(found.latents, [(0.75 - 0.5) / 0.5, 1, np.nan])
    np.testing.assert_allclose(found.factors, [1, 0])
    assert (found.modularity, found.compactness, found.explicitness) == pytest.approx((0.75, 0.5, 0.25))


def test_latent_metrics_count_predicted_factors_only() -> None:
    table = told([[0.9, 0.9], [0, 0.1]])
    first = np.array([True, False])
    assert information_gap(table, predicted=first).value == pytest.approx(0.9)
    assert np.isnan(information_gap(table, predicted=first).factors[1])
    assert np.isnan(modularity(table, predicted=first).value)
    assert infomec(table, predicted=first).compactness == 1
    assert infomec(table, r2=np.array([0.25, 1.0]), predicted=first).explicitness == 0.25


def test_latent_metrics_without_information_are_nan() -> None:
    table = told([[0.0, 0], [0, 0]])
    for value in (information_gap(table).value, modularity(table).value, *infomec(table)[:3]):
        assert np.isnan(value)


def test_latent_metrics_of_duplicated_latents_as_documented() -> None:
    once = told([[0.8, 0.1], [0.2, 0.7]])
    twice = told([[0.8, 0.1], [0.2, 0.7], [0.8, 0.1], [0.2, 0.7]])
    assert information_gap(twice).value == 0
    assert modularity(twice).value == pytest.approx(modularity(once).value)
    assert infomec(twice).modularity == pytest.approx(infomec(once).modularity)
    # a factor's largest share halves: 0.8 of 1 becomes 0.8 of 2, rescaled from 1/4
    np.testing.assert_allclose(infomec(twice).factors, [(0.4 - 0.25) / 0.75, (0.4375 - 0.25) / 0.75])


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
    with pytest.raises(EvaluationError, match="one number a factor"):
        infomec(told([[1.0, 0]]), r2=np.array([1.0]))
