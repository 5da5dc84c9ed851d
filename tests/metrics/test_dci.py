import numpy as np
import pytest

from otoscope.errors import EvaluationError
from otoscope.metrics.dci import _score, completeness, disentanglement, explicitness, relative_size

GROUPS = np.repeat(np.arange(20), 20)
SPLIT = np.repeat(["train", "valid", "test"], [240, 60, 100])


def factors(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(400, 3))


def test_explicitness_score_of_hand_computed_curves() -> None:
    curves = np.array(
        [
            [0.2, 0.2, 0.2],  # all at once
            [1.0, 0.6, 0.2],  # linear from 1
            [1.0, 1.0, 0.0],  # only the last probe: 3/2 of the triangle
            [0.5, 0.1, 0.3],  # minimum in the middle: area 0.2 of 0.9
            [1.1, 1.0, 1.2],  # never below 1
        ]
    )
    np.testing.assert_allclose(_score(curves), [1, 0, -0.5, 1 - 0.2 / 0.9, np.nan], atol=1e-12)


def test_explicitness_is_lower_for_nonlinear_code() -> None:
    known = factors()
    mixed = known @ np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    plain = explicitness(mixed, known, groups=GROUPS, split=SPLIT)
    less = explicitness(np.exp(known), known, groups=GROUPS, split=SPLIT)
    assert plain.value > 0.99
    assert plain.linear.r2.min() > 0.99
    assert less.value < plain.value - 0.05
    assert (less.losses[:, -1] < less.losses[:, 0] - 0.05).all()


def test_explicitness_of_parabola_is_low() -> None:
    # a parabola: no line predicts it, radial functions do
    code = np.random.default_rng(2).normal(size=(400, 1))
    found = explicitness(code, code**2, groups=GROUPS, split=SPLIT)
    assert found.losses[0, 0] > 0.9
    assert found.losses[0, 1:].min() < 0.2
    assert found.value < 0.95


def test_relative_size_decreases_with_live_latents() -> None:
    assert relative_size(16, np.ones(64, dtype=bool)) == 0.25
    assert relative_size(16, np.arange(64) < 32) == 0.5
    assert relative_size(80, np.ones(64, dtype=bool)) == 1.0
    assert np.isnan(relative_size(3, np.zeros(2, dtype=bool)))


def test_explicitness_capacities_must_increase() -> None:
    with pytest.raises(EvaluationError, match="increase from 0"):
        explicitness(factors(), factors(), groups=GROUPS, split=SPLIT, capacities=(0, 8, 8))


def every(n: int) -> np.ndarray:
    return np.ones(n, dtype=bool)


def test_dci_of_one_latent_per_factor_is_one() -> None:
    found = completeness(np.eye(4), live=every(4))
    np.testing.assert_array_equal(found.completeness, np.ones(4))
    np.testing.assert_array_equal(found.effective_latents, np.ones(4))
    assert disentanglement(np.eye(4)).value == 1.0


def test_dci_of_equal_importances_is_zero() -> None:
    found = completeness(np.ones((16, 3)), live=every(16))
    np.testing.assert_allclose(found.completeness, np.zeros(3), atol=1e-12)
    np.testing.assert_allclose(found.effective_latents, np.full(3, 16))
    assert disentanglement(np.ones((16, 3))).value == pytest.approx(0, abs=1e-12)


def test_effective_latents_double_with_duplicated_latents() -> None:
    importance = np.random.default_rng(0).random((5, 3))
    once = completeness(importance, live=every(5)).effective_latents
    twice = completeness(np.repeat(importance, 2, axis=0), live=every(10)).effective_latents
    np.testing.assert_allclose(twice, 2 * once)


def test_completeness_is_higher_in_wider_code_for_equal_latents() -> None:
    # the reason to report effective_latents next to completeness (1 - log 15.2 / log p; 0.59 at 768 and 0.643 at 2,048)
    column = np.zeros((2048, 1))
    column[:15] = 1
    narrow = completeness(column[:768], live=every(768))
    wide = completeness(column, live=every(2048))
    assert narrow.effective_latents == pytest.approx(wide.effective_latents)
    assert wide.completeness[0] - narrow.completeness[0] == pytest.approx(0.05, abs=0.01)


def test_completeness_of_unpredicted_factor_is_nan() -> None:
    importance = np.array([[1.0, 0, 2], [1, 0, 0]])
    found = completeness(importance, live=every(2), predicted=np.array([True, True, False]))
    np.testing.assert_array_equal(np.isnan(found.completeness), [False, True, True])
    np.testing.assert_array_equal(np.isnan(found.effective_latents), [False, True, True])


def test_disentanglement_counts_predicted_factors_only() -> None:
    importance = np.array([[1.0, 0, 9], [0, 1, 9]])
    assert disentanglement(importance).value < 0.75
    assert disentanglement(importance, predicted=np.array([True, True, False])).value == 1.0


def test_dci_undefined_values_are_nan() -> None:
    assert np.isnan(disentanglement(np.zeros((3, 2))).value)
    assert np.isnan(disentanglement(np.ones((3, 1))).value)
    one = completeness(np.array([[1.0], [0.0]]), live=np.array([True, False]))
    assert np.isnan(one.completeness[0])
    assert one.effective_latents[0] == 1
    unused = disentanglement(np.array([[1.0, 0], [0, 0]]))
    assert unused.value == 1
    assert np.isnan(unused.latents[1])


def test_disentanglement_shares_sum_to_one() -> None:
    assert disentanglement(np.random.default_rng(1).random((7, 4))).share.sum() == pytest.approx(1)


def test_dci_bad_input_is_refused() -> None:
    with pytest.raises(EvaluationError, match="0 or more"):
        completeness(-np.eye(2), live=every(2))
    with pytest.raises(EvaluationError, match="one boolean a latent"):
        completeness(np.eye(2), live=every(3))
    with pytest.raises(EvaluationError, match="not live carries importance"):
        completeness(np.eye(2), live=np.array([True, False]))
    with pytest.raises(EvaluationError, match="latents, factors"):
        disentanglement(np.ones(3))
