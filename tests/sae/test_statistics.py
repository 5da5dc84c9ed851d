import numpy as np
import pytest
import torch

from otoscope import ArrayRows
from otoscope.errors import TrainingError
from otoscope.sae.statistics import Scaling, ScalingName, compute_statistics


def rows(height: int = 10_000, width: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(height, width)).astype(np.float32)


def test_compute_statistics_equals_numpy_over_chunks():
    x = rows() * [1, 10, 0.1, 3] + [0, 5, -2, 100]
    x = x.astype(np.float32)
    actual = compute_statistics(ArrayRows(x))
    np.testing.assert_allclose(actual.mean, x.mean(axis=0, dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(actual.variance, x.var(axis=0, dtype=np.float64), rtol=1e-9)
    assert actual.spread == pytest.approx(np.sqrt(x.var(axis=0, dtype=np.float64).mean()))


def test_compute_statistics_small_spread_large_mean():
    x = (rows() * 1e-2 + 1000).astype(np.float32)
    np.testing.assert_allclose(compute_statistics(ArrayRows(x)).variance, x.var(axis=0, dtype=np.float64), rtol=1e-9)


def test_scaling_rows_gives_unit_spread():
    x = rows() * 7 + 3
    statistics = compute_statistics(ArrayRows(x))
    centre, scale = statistics.scaling("rows", centred=True)
    inner = (torch.from_numpy(x) - centre) / scale
    assert inner.square().mean().item() == pytest.approx(1.0, rel=1e-5)
    assert inner.mean(dim=0).abs().max() < 1e-5


def test_scaling_dimensions_keeps_constant_dimensions():
    x = rows()
    x[:, 2] = 41.0
    statistics = compute_statistics(ArrayRows(x))
    assert statistics.n_constant == 1
    _, scale = statistics.scaling("dimensions", centred=True)
    assert scale[2] == pytest.approx(statistics.spread, rel=1e-6)
    assert scale.min() > 0.5


def test_scaling_none_is_the_identity():
    centre, scale = compute_statistics(ArrayRows(rows() + 3)).scaling("none", centred=False)
    assert not centre.any()
    assert scale == 1.0


def test_largest_variance_share_of_an_outlier():
    x = rows()
    x[:, 1] *= 100
    assert compute_statistics(ArrayRows(x)).largest_variance_share > 0.99


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_compute_statistics_non_finite_error(bad: float):
    x = rows()
    x[5003, 1] = bad
    with pytest.raises(TrainingError, match=r"training row 5003 holds NaN or Inf"):
        compute_statistics(ArrayRows(x))


@pytest.mark.parametrize("height", [0, 1])
def test_compute_statistics_too_few_rows_error(height: int):
    with pytest.raises(TrainingError, match=rf"{height} training row\(s\): an SAE needs at least 2"):
        compute_statistics(ArrayRows(rows(height)))


def test_compute_statistics_constant_rows_error():
    same = ArrayRows(np.ones((9, 3), dtype=np.float32), [f'clip "{i}.wav" at layer 2' for i in range(9)])
    with pytest.raises(TrainingError, match=r'all 9 training rows equal training row 0 \(clip "0.wav" at layer 2\)'):
        compute_statistics(same)


def test_covariance_equals_numpy(monkeypatch: pytest.MonkeyPatch):
    x = (rows() @ np.random.default_rng(1).normal(size=(4, 4)) + [0, 5, -2, 100]).astype(np.float32)
    np.testing.assert_allclose(
        compute_statistics(ArrayRows(x)).covariance, np.cov(x.T, bias=True), rtol=1e-6, atol=1e-9
    )
    monkeypatch.setattr("otoscope.sae.statistics.COVARIANCE_ROWS", 3000)
    np.testing.assert_allclose(
        compute_statistics(ArrayRows(x)).covariance, np.cov(x[::4].T, bias=True), rtol=1e-6, atol=1e-9
    )


@pytest.mark.parametrize("wanted", ["rows", "dimensions", "none"])
@pytest.mark.parametrize("centred", [True, False])
def test_axes_equal_svd_of_normalised_rows(wanted: ScalingName, centred: bool):
    x = (rows() * [1, 5, 0.1, 3] @ np.random.default_rng(1).normal(size=(4, 4)) + [0, 5, -2, 9]).astype(np.float32)
    statistics = compute_statistics(ArrayRows(x))
    centre, scale = statistics.scaling(wanted, centred=centred)
    inner = ((torch.from_numpy(x) - centre) / scale).numpy()
    axes = statistics.axes(wanted, centred=centred).directions.numpy()
    np.testing.assert_allclose(axes @ axes.T, np.eye(4), atol=1e-6)
    expected = np.linalg.svd(inner, full_matrices=False)[2]
    np.testing.assert_allclose(np.abs((axes * expected).sum(axis=1)), 1, atol=1e-4)


@pytest.mark.parametrize(("factor", "settled"), [(1, "rows"), (100, "dimensions")])
def test_resolve_scaling_auto_depends_on_outliers(factor: float, settled: Scaling):
    x = rows()
    x[:, 1] *= factor
    statistics = compute_statistics(ArrayRows(x))
    assert statistics.resolve_scaling("auto") == settled
    assert torch.equal(statistics.scaling("auto", centred=True)[1], statistics.scaling(settled, centred=True)[1])
    message = statistics.warnings("auto")
    assert (
        message
        == ["dimension 1 carries 100 % of the variance: each dimension is divided by its own standard deviation"][
            : len(message)
        ]
    )
    assert len(message) == (settled == "dimensions")
