"""Erasure: LEACE against its defining properties."""

import numpy as np
import pytest
import torch

from otoscope.errors import EvaluationError
from otoscope.explain.erasure import leace


def correlated(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    z = (rng.random((2000, 2)) < 0.4).astype(np.float64)
    x = rng.normal(size=(2000, 8)) @ rng.normal(size=(8, 8)) + z @ rng.normal(size=(2, 8)) + 3.0
    return x, z


def erased(x: np.ndarray, z: np.ndarray) -> np.ndarray:
    return leace(x, z)(torch.from_numpy(x)).numpy()


def test_leace_leaves_nothing_that_a_linear_readout_could_use() -> None:
    x, z = correlated()
    after = erased(x, z)
    covariance = (after - after.mean(0)).T @ (z - z.mean(0)) / len(x)
    assert np.abs(covariance).max() < 1e-4
    design = np.concatenate([after, np.ones((len(x), 1))], axis=1)
    fitted = design @ np.linalg.lstsq(design, z, rcond=1e-9)[0]
    assert ((z - fitted) ** 2).sum() == pytest.approx(((z - z.mean(0)) ** 2).sum(), rel=1e-5)


def test_leace_is_idempotent_keeps_the_mean_and_changes_less_than_orthogonal_projection() -> None:
    x, z = correlated(1)
    eraser = leace(x, z)
    after = eraser(torch.from_numpy(x))
    assert np.allclose(eraser(after), after, atol=1e-4)
    assert np.allclose(after.mean(0), x.mean(0), atol=1e-4)
    directions, _ = np.linalg.qr((x - x.mean(0)).T @ (z - z.mean(0)))
    projected = x - (x - x.mean(0)) @ directions @ directions.T  # the same guarantee, a larger change
    assert np.square(after.numpy() - x).sum() < np.square(projected - x).sum()


def test_leace_ignores_unknown_values_and_refuses_constant_ones() -> None:
    x, z = correlated(2)
    gaps = np.concatenate([z, np.full((50, 2), np.nan)])
    rows = np.concatenate([x, np.full((50, 8), 9.0)])
    assert np.allclose(leace(rows, gaps).right, leace(x, z).right)
    with pytest.raises(EvaluationError, match="nothing to erase"):
        leace(x, np.ones((len(x), 1)))
