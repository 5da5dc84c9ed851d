import numpy as np
import pytest
import torch

from otoscope import ArrayRows
from otoscope.errors import TrainingError
from otoscope.sae.statistics import Scaling, ScalingName, compute_statistics


def rows(height: int = 10_000, width: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(height, width)).astype(np.float32)


def test_equals_numpy_over_chunk_borders():
    x = rows() * [1, 10, 0.1, 3] + [0, 5, -2, 100]
    x = x.astype(np.float32)
    found = compute_statistics(ArrayRows(x))
    np.testing.assert_allclose(found.mean, x.mean(axis=0, dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(found.variance, x.var(axis=0, dtype=np.float64), rtol=1e-9)
    assert found.spread == pytest.approx(np.sqrt(x.var(axis=0, dtype=np.float64).mean()))


def test_a_small_spread_beside_a_large_mean_survives():
    x = (rows() * 1e-2 + 1000).astype(np.float32)
    np.testing.assert_allclose(compute_statistics(ArrayRows(x)).variance, x.var(axis=0, dtype=np.float64), rtol=1e-9)


def test_scaling_makes_unit_spread():
    x = rows() * 7 + 3
    moments = compute_statistics(ArrayRows(x))
    centre, scale = moments.scaling("rows", centred=True)
    inner = (torch.from_numpy(x) - centre) / scale
    assert inner.square().mean().item() == pytest.approx(1.0, rel=1e-5)
    assert inner.mean(dim=0).abs().max() < 1e-5


def test_scaling_by_dimension_leaves_constant_dimensions_alone():
    x = rows()
    x[:, 2] = 41.0
    moments = compute_statistics(ArrayRows(x))
    assert moments.n_constant == 1
    _, scale = moments.scaling("dimensions", centred=True)
    assert scale[2] == pytest.approx(moments.spread, rel=1e-6)
    assert scale.min() > 0.5


def test_no_scaling_and_no_centring_is_the_identity():
    centre, scale = compute_statistics(ArrayRows(rows() + 3)).scaling("none", centred=False)
    assert not centre.any()
    assert scale == 1.0


def test_an_outlier_dimension_is_diagnosed():
    x = rows()
    x[:, 1] *= 100
    assert compute_statistics(ArrayRows(x)).largest_variance_share > 0.99


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_says_which_row_is_not_finite(bad: float):
    x = rows()
    x[5003, 1] = bad
    with pytest.raises(TrainingError, match=r"training row 5003 holds NaN or Inf"):
        compute_statistics(ArrayRows(x))


@pytest.mark.parametrize("height", [0, 1])
def test_refuses_too_few_rows(height: int):
    with pytest.raises(TrainingError, match=rf"{height} training row\(s\): an SAE needs at least 2"):
        compute_statistics(ArrayRows(rows(height)))


def test_refuses_rows_that_never_vary():
    same = ArrayRows(np.ones((9, 3), dtype=np.float32), [f'clip "{i}.wav" at layer 2' for i in range(9)])
    with pytest.raises(TrainingError, match=r'all 9 training rows equal training row 0 \(clip "0.wav" at layer 2\)'):
        compute_statistics(same)


def test_dimensions_covary_as_numpy_says(monkeypatch: pytest.MonkeyPatch):
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
def test_axes_are_those_of_the_rows_as_the_model_sees_them(wanted: ScalingName, centred: bool):
    x = (rows() * [1, 5, 0.1, 3] @ np.random.default_rng(1).normal(size=(4, 4)) + [0, 5, -2, 9]).astype(np.float32)
    moments = compute_statistics(ArrayRows(x))
    centre, scale = moments.scaling(wanted, centred=centred)
    inner = ((torch.from_numpy(x) - centre) / scale).numpy()
    axes = moments.axes(wanted, centred=centred).directions.numpy()
    np.testing.assert_allclose(axes @ axes.T, np.eye(4), atol=1e-6)
    expected = np.linalg.svd(inner, full_matrices=False)[2]
    np.testing.assert_allclose(np.abs((axes * expected).sum(axis=1)), 1, atol=1e-4)


@pytest.mark.parametrize(("factor", "settled"), [(1, "rows"), (100, "dimensions")])
def test_an_outlier_dimension_decides_the_scaling(factor: float, settled: Scaling):
    x = rows()
    x[:, 1] *= factor
    moments = compute_statistics(ArrayRows(x))
    assert moments.resolve_scaling("auto") == settled
    assert torch.equal(moments.scaling("auto", centred=True)[1], moments.scaling(settled, centred=True)[1])
    told = moments.warnings("auto")
    assert (
        told
        == ["dimension 1 carries 100 % of the variance: each dimension is divided by its own standard deviation"][
            : len(told)
        ]
    )
    assert len(told) == (settled == "dimensions")
