import numpy as np
import pytest
from sklearn.decomposition import PCA

from otoscope.errors import EvaluationError
from otoscope.metrics.reconstruction import ComponentsMeter, ReconstructionMeter
from tests.support.reconstruction import measure_reconstruction

RNG = np.random.default_rng(0)
ROWS = (RNG.normal(size=(40, 6)) + 5).astype(np.float32)
MEAN = ROWS[:20].mean(axis=0)
CODES = np.maximum(RNG.normal(size=(40, 9)), 0).astype(np.float32)
GROUPS = np.repeat(["a", "b", "c", "d"], 10)


def test_explained_variance_of_perfect_reconstruction_is_one() -> None:
    found = measure_reconstruction(ROWS, ROWS, CODES, GROUPS, mean_train=MEAN)
    assert found.explained_variance == (1.0, 1.0, 1.0)
    assert found.mse.value == 0
    assert found.cosine.value == pytest.approx(1, abs=1e-12)
    assert (found.rows, found.groups) == (40, 4)


def test_explained_variance_of_training_mean_is_zero() -> None:
    constant = np.broadcast_to(MEAN, ROWS.shape)
    assert measure_reconstruction(ROWS, constant, CODES, GROUPS, mean_train=MEAN).explained_variance.value == 0
    zeros = np.zeros_like(ROWS)
    worse = measure_reconstruction(ROWS, zeros, CODES, GROUPS, mean_train=MEAN)
    assert worse.explained_variance.value < -5
    assert worse.cosine.value == 0


def test_explained_variance_is_not_inflated_by_an_offset() -> None:
    shifted = ROWS + 3
    own_mean = np.broadcast_to(shifted.mean(axis=0), ROWS.shape)
    spread = ((shifted - MEAN) ** 2).sum()
    found = measure_reconstruction(shifted, own_mean, CODES, GROUPS, mean_train=MEAN)
    assert found.explained_variance.value == pytest.approx(1 - ((shifted - own_mean) ** 2).sum() / spread, rel=1e-6)


def test_firing_figures_of_hand_computed_codes() -> None:
    codes = np.array([[1.0, 0, 2, 0], [1, 0, 0, 0], [3, 0, 0, 4]])
    rows = np.ones((3, 2))
    found = measure_reconstruction(rows, rows, codes, np.array([0, 0, 1]), mean_train=np.zeros(2))
    assert found.l0.value == pytest.approx(5 / 3)
    assert found.dead_fraction == 0.25
    assert found.always_on_fraction == 0.25


def test_meter_result_does_not_depend_on_batches() -> None:
    rebuilt = ROWS + 0.3 * RNG.normal(size=ROWS.shape).astype(np.float32)
    whole = measure_reconstruction(ROWS, rebuilt, CODES, GROUPS, mean_train=MEAN)
    meter = ReconstructionMeter(MEAN)
    for part in (slice(25, 40), slice(0, 7), slice(7, 25)):
        meter.update(ROWS[part], rebuilt[part], CODES[part], GROUPS[part])
    streamed = meter.result()
    for one, other in zip(whole, streamed, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


def test_explained_variance_of_constant_rows_is_nan() -> None:
    rows = np.broadcast_to(MEAN, (4, 6))
    found = measure_reconstruction(rows, rows, CODES[:4], GROUPS[:4], mean_train=MEAN)
    assert np.isnan(found.explained_variance.value)


def test_meter_bad_input_is_refused() -> None:
    meter = ReconstructionMeter(MEAN)
    with pytest.raises(EvaluationError, match="no rows were added"):
        meter.result()
    with pytest.raises(EvaluationError, match=r"reconstruction \(40, 5\)"):
        meter.update(ROWS, ROWS[:, :5], CODES, GROUPS)
    with pytest.raises(EvaluationError, match="40 rows but 39 codes"):
        meter.update(ROWS, ROWS, CODES[1:], GROUPS)
    with pytest.raises(EvaluationError, match="NaN or infinity"):
        meter.update(ROWS, np.full_like(ROWS, np.nan), CODES, GROUPS)
    meter.update(ROWS, ROWS, CODES, GROUPS)
    with pytest.raises(EvaluationError, match="codes of 8 latents after codes of 9"):
        meter.update(ROWS, ROWS, CODES[:, 1:], GROUPS)


def test_components_meter_agrees_with_scikit_learn_in_any_order_of_batches() -> None:
    rng = np.random.default_rng(3)
    train, test = (rng.normal(size=(n, 8)) @ rng.normal(size=(8, 8)) + 2.0 for n in (200, 90))
    mean = train.mean(axis=0)
    groups = np.repeat(["a", "b", "c"], 30)
    meters = [ComponentsMeter(mean, (train - mean).T @ (train - mean)) for _ in range(2)]
    meters[0].update(test, groups)
    for rows in np.array_split(np.arange(90)[::-1], 7):
        meters[1].update(test[rows], groups[rows])
    assert (meters[0].rows, meters[0].groups) == (90, 3)
    for k in (1, 3, 8):
        fitted = PCA(k).fit(train)
        missed = test - fitted.inverse_transform(fitted.transform(test))
        found = meters[0].explained(k)
        assert found.value == pytest.approx(1 - (missed**2).sum() / ((test - mean) ** 2).sum())
        np.testing.assert_allclose(found, meters[1].explained(k), rtol=1e-12)
    assert meters[0].explained(8).value == pytest.approx(1.0)
