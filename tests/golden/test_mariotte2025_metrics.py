"""Metrics compared with outputs of the code published with arXiv:2509.24793, on real eGeMAPS rows."""

from pathlib import Path

import numpy as np
import pytest

from otoscope.linear.lasso import lasso_weights
from otoscope.metrics.dci import completeness, disentanglement

pytestmark = pytest.mark.shared


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, np.ndarray]:
    with np.load(shared / "paper" / "golden_small.npz") as file:
        return dict(file)


@pytest.mark.parametrize("side", ["codes", "hidden"])
def test_lasso_at_the_papers_penalty_equals_published_code(golden: dict[str, np.ndarray], side: str) -> None:
    weights, r2 = lasso_weights(golden[side], golden["factors"], alpha=0.1)
    np.testing.assert_allclose(r2, golden[f"{side}_r2"], atol=1e-3)
    np.testing.assert_allclose(np.abs(weights), golden[f"{side}_lasso_abs_weights"], atol=5e-3)


@pytest.mark.parametrize("side", ["codes", "hidden"])
def test_completeness_with_the_papers_normaliser_equals_published(golden: dict[str, np.ndarray], side: str) -> None:
    importance = golden[f"{side}_lasso_abs_weights"].astype(np.float64)
    # the authors divide by the log of all columns, dead ones included, and score an empty column 1
    ours = completeness(importance, live=np.ones(len(importance), dtype=bool)).completeness
    theirs = golden[f"{side}_completeness"]
    empty = ~importance.any(axis=0)
    np.testing.assert_allclose(ours[~empty], theirs[~empty], atol=1e-3)
    assert np.isnan(ours[empty]).all()
    np.testing.assert_allclose(theirs[empty], 1, atol=1e-3)


@pytest.mark.parametrize("side", ["codes", "hidden"])
def test_disentanglement_before_second_division_equals_published(golden: dict[str, np.ndarray], side: str) -> None:
    importance = golden[f"{side}_lasso_abs_weights"].astype(np.float64)
    found = disentanglement(importance)
    used = importance.any(axis=1)
    np.testing.assert_allclose(found.latents[used], golden[f"{side}_disentanglement"][used], atol=1e-3)
    np.testing.assert_allclose(found.share, golden[f"{side}_code_importance"], atol=1e-3)
    theirs = float(golden[f"{side}_disentanglement_avg_paper"]) * len(importance)
    assert found.value == pytest.approx(theirs, rel=1e-3)
