"""Protocol compared with outputs of the authors' code, on real eGeMAPS rows."""

from pathlib import Path

import numpy as np
import pytest

from otoscope.errors import EvaluationError
from otoscope.protocols.mariotte2025 import completeness, disentanglement, lasso_importance, sae_forward


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, np.ndarray]:
    with np.load(shared / "paper" / "golden_small.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.mark.shared
def test_codes_and_reconstruction_equal_published_code(golden: dict[str, np.ndarray]) -> None:
    weights = (golden[name] for name in ("enc_weight", "enc_bias", "dec_weight"))
    made = sae_forward(golden["hidden"], *weights, float(golden["sparsity"]))
    np.testing.assert_allclose(made.codes, golden["codes"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(made.reconstruction, golden["reconstruction"], rtol=0, atol=1e-5)


@pytest.mark.shared
@pytest.mark.parametrize("side", ["codes", "hidden"])
def test_protocol_from_codes_to_scores_equals_published_code(golden: dict[str, np.ndarray], side: str) -> None:
    fitted = lasso_importance(golden[side], golden["factors"])
    np.testing.assert_allclose(fitted.r2, golden[f"{side}_r2"], atol=1e-3)
    np.testing.assert_allclose(completeness(fitted.abs_weights), golden[f"{side}_completeness"], atol=1e-3)


@pytest.mark.shared
@pytest.mark.parametrize("side", ["codes", "hidden"])
def test_scores_of_the_authors_weights_equal_published_code(golden: dict[str, np.ndarray], side: str) -> None:
    weights = golden[f"{side}_lasso_abs_weights"]
    np.testing.assert_allclose(completeness(weights), golden[f"{side}_completeness"], atol=1e-5)
    found = disentanglement(weights)
    np.testing.assert_allclose(found.scores, golden[f"{side}_disentanglement"], atol=1e-4)
    np.testing.assert_allclose(found.code_importance, golden[f"{side}_code_importance"], atol=1e-6)
    assert found.average == pytest.approx(float(golden[f"{side}_disentanglement_avg_paper"]), abs=1e-7)


def test_protocol_reproduces_the_authors_defects() -> None:
    assert completeness(np.zeros((8, 3))).tolist() == [1.0, 1.0, 1.0]
    appended = np.vstack([np.ones((8, 2)), np.zeros((8, 2))])
    assert (completeness(appended) > completeness(np.ones((8, 2))) + 0.2).all()
    assert disentanglement(np.eye(8)).average == pytest.approx(1 / 8)


def test_protocol_invalid_importance_is_refused() -> None:
    for bad, told in ((np.array([1.0]), "at least 2"), (-np.eye(2), "0 or more"), (np.full((2, 2), np.nan), "finite")):
        with pytest.raises(EvaluationError, match=told):
            completeness(bad)
