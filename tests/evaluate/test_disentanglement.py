import numpy as np
import pytest

from otoscope.errors import EvaluationError
from otoscope.metrics.dci import completeness, disentanglement


def every(n: int) -> np.ndarray:
    return np.ones(n, dtype=bool)


def test_one_latent_a_factor_is_complete_and_disentangled() -> None:
    found = completeness(np.eye(4), live=every(4))
    np.testing.assert_array_equal(found.completeness, np.ones(4))
    np.testing.assert_array_equal(found.effective_latents, np.ones(4))
    assert disentanglement(np.eye(4)).value == 1.0


def test_all_latents_alike_is_the_other_end() -> None:
    found = completeness(np.ones((16, 3)), live=every(16))
    np.testing.assert_allclose(found.completeness, np.zeros(3), atol=1e-12)
    np.testing.assert_allclose(found.effective_latents, np.full(3, 16))
    assert disentanglement(np.ones((16, 3))).value == pytest.approx(0, abs=1e-12)


def test_duplicated_latents_double_the_effective_number() -> None:
    importance = np.random.default_rng(0).random((5, 3))
    once = completeness(importance, live=every(5)).effective_latents
    twice = completeness(np.repeat(importance, 2, axis=0), live=every(10)).effective_latents
    np.testing.assert_allclose(twice, 2 * once)


def test_the_same_effective_number_scores_higher_in_a_wider_code() -> None:
    # why effective_latents stands beside completeness (1 - log 15.2 / log p; 0.59 at 768 and 0.643 at 2,048)
    column = np.zeros((2048, 1))
    column[:15] = 1
    narrow = completeness(column[:768], live=every(768))
    wide = completeness(column, live=every(2048))
    assert narrow.effective_latents == pytest.approx(wide.effective_latents)
    assert wide.completeness[0] - narrow.completeness[0] == pytest.approx(0.05, abs=0.01)


def test_a_factor_that_nothing_predicts_is_undefined_not_perfect() -> None:
    importance = np.array([[1.0, 0, 2], [1, 0, 0]])
    found = completeness(importance, live=every(2), predicted=np.array([True, True, False]))
    np.testing.assert_array_equal(np.isnan(found.completeness), [False, True, True])
    np.testing.assert_array_equal(np.isnan(found.effective_latents), [False, True, True])


def test_disentanglement_counts_predicted_factors_only() -> None:
    importance = np.array([[1.0, 0, 9], [0, 1, 9]])
    assert disentanglement(importance).value < 0.75
    assert disentanglement(importance, predicted=np.array([True, True, False])).value == 1.0


def test_what_is_undefined_is_nan() -> None:
    assert np.isnan(disentanglement(np.zeros((3, 2))).value)
    assert np.isnan(disentanglement(np.ones((3, 1))).value)
    one = completeness(np.array([[1.0], [0.0]]), live=np.array([True, False]))
    assert np.isnan(one.completeness[0])
    assert one.effective_latents[0] == 1
    unused = disentanglement(np.array([[1.0, 0], [0, 0]]))
    assert unused.value == 1
    assert np.isnan(unused.latents[1])


def test_shares_sum_to_one() -> None:
    assert disentanglement(np.random.default_rng(1).random((7, 4))).share.sum() == pytest.approx(1)


def test_bad_input_is_refused() -> None:
    with pytest.raises(EvaluationError, match="0 or more"):
        completeness(-np.eye(2), live=every(2))
    with pytest.raises(EvaluationError, match="one boolean a latent"):
        completeness(np.eye(2), live=every(3))
    with pytest.raises(EvaluationError, match="not live carries importance"):
        completeness(np.eye(2), live=np.array([True, False]))
    with pytest.raises(EvaluationError, match="latents, factors"):
        disentanglement(np.ones(3))
