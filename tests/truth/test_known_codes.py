"""Metrics of codes with known properties, on arrays and on synthesised clips.

The second half computes the table in docs/methods.md and asserts its figures.
"""

from pathlib import Path

import numpy as np
import pytest

from otoscope.metrics.dci import completeness
from otoscope.protocols.mariotte2025 import completeness as published_completeness
from otoscope.resampling.nulls import random_sparse_codes
from tests.support.score_card import Card, one_hot_bins, rotation, score_card, top
from tests.truth.conftest import Sung

GROUPS = np.repeat(np.arange(20), 30)
SPLIT = np.repeat(["train", "valid", "test"], [360, 90, 150])
STRUCTURE = ("mig", "infom", "infoc", "sap", "completeness", "disentanglement", "sparse_r2")
"""Metrics that a rotation must lower."""


def judge(codes: np.ndarray, factors: np.ndarray) -> dict[str, float]:
    return top(score_card(codes, factors, groups=GROUPS, split=SPLIT))


@pytest.fixture(scope="module")
def independent() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(600, 6))


def test_metrics_of_the_factors_themselves_are_near_one(independent: np.ndarray) -> None:
    for codes in (independent, 3 * independent[:, ::-1] + 1):
        for name, value in judge(codes, independent).items():
            assert value > 0.97, name


def test_metrics_of_rotation_keep_information_and_lose_structure(independent: np.ndarray) -> None:
    mixed = judge(independent @ rotation(6, np.random.default_rng(3)), independent)
    assert mixed["infoe"] > 0.99
    assert mixed["explicitness"] > 0.99
    for name in STRUCTURE:
        assert mixed[name] < 0.55, name


def test_metrics_of_permuted_codes_are_nan_or_zero(independent: np.ndarray) -> None:
    found = judge(independent[np.random.default_rng(1).permutation(600)], independent)
    for name in ("mig", "infom", "infoc", "completeness", "disentanglement"):
        assert np.isnan(found[name]), name
    for name in ("infoe", "sap", "sparse_r2"):
        assert found[name] < 0.02, name


def test_metrics_of_random_codes_with_equal_firing_are_nan(independent: np.ndarray) -> None:
    sparse = np.maximum(np.concatenate([independent, -independent], axis=1) - 0.8, 0)
    real, random = judge(sparse, independent), judge(random_sparse_codes(sparse, seed=0), independent)
    for name in ("mig", "infom", "infoc", "completeness", "disentanglement"):
        assert real[name] > 0, name
        assert np.isnan(random[name]), name
    assert real["sparse_r2"] > 0.4 > 0.02 > random["sparse_r2"]


def test_metrics_of_duplicated_latents_as_documented(independent: np.ndarray) -> None:
    noisy = independent + 0.3 * np.random.default_rng(2).normal(size=independent.shape)
    once, twice = judge(noisy, independent), judge(np.repeat(noisy, 2, axis=1), independent)
    for name in ("mig", "sap"):
        assert once[name] > 0.4, name
        assert twice[name] == pytest.approx(0, abs=1e-9), name
    for name in ("infom", "infoe", "disentanglement", "sparse_r2"):
        assert twice[name] == pytest.approx(once[name], abs=0.01), name
    assert twice["infoc"] == pytest.approx(once["infoc"] / 2, abs=0.05)


def test_metrics_of_one_hot_bins_are_modular_but_not_compact(independent: np.ndarray) -> None:
    bins, mixed = (
        judge(codes, independent)
        for codes in (one_hot_bins(independent), independent @ rotation(6, np.random.default_rng(3)))
    )
    for name in ("infom", "disentanglement"):
        assert bins[name] > 0.9, name
    # five latents share each factor: metrics that require one latent per factor are low by design
    for name in ("mig", "sap"):
        assert bins[name] < 0.1, name
    assert bins["completeness"] > mixed["completeness"] + 0.2


def test_published_completeness_depends_on_dead_latents() -> None:
    alike = np.zeros((768, 2))
    alike[:15, 0] = 1.0
    padded = np.concatenate([alike, np.zeros((1280, 2))])
    before, after = published_completeness(alike), published_completeness(padded)
    assert before[0] == pytest.approx(0.592, abs=5e-4)
    assert after[0] == pytest.approx(0.645, abs=5e-4)
    # no latent predicts the second factor
    assert before[1] == after[1] == 1.0
    for table in (alike, padded):
        ours = completeness(table, live=np.arange(len(table)) < 768)
        assert ours.completeness[0] == pytest.approx(0.592, abs=5e-4)
        assert ours.effective_latents[0] == pytest.approx(15)
        assert np.isnan(ours.completeness[1])


SHOWN = ("mig", "infom", "infoc", "infoe", "sap", "explicitness", "completeness", "disentanglement")
"""Columns of the table in docs/methods.md, before the last, `sparse_r2`."""


@pytest.fixture(scope="module")
def cards(sung: Sung) -> dict[str, Card]:
    """Metrics of codes computed from the true factors of sung clips, by name in docs/methods.md."""
    rng = np.random.default_rng(0)
    standard = (sung.robust - sung.robust.mean(axis=0)) / sung.robust.std(axis=0)
    codes = {
        "the factors themselves": sung.factors,
        "with noise of half their size": standard + 0.5 * rng.normal(size=standard.shape),
        "one-hot fifths": one_hot_bins(sung.robust),
        "every latent twice": np.repeat(sung.factors, 2, axis=1),
        "a rotation": standard @ rotation(standard.shape[1], rng),
        "rows permuted": sung.factors[rng.permutation(len(sung.factors))],
    }
    return {name: score_card(x, sung.robust, groups=sung.groups, split=sung.split) for name, x in codes.items()}


def test_metrics_of_sung_clips_equal_the_documented_table(cards: dict[str, Card]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")
    for name, card in cards.items():
        line = next(line for line in page.splitlines() if line.startswith(f"| {name} |"))
        printed = [float(cell.replace("−", "-")) for cell in line.split("|")[2:-1]]
        values = [top(card)[metric] for metric in (*SHOWN, "sparse_r2")]
        np.testing.assert_allclose(printed, values, atol=0.02, err_msg=name)


@pytest.mark.parametrize("metric", STRUCTURE)
def test_metric_of_sung_truth_exceeds_rotation_and_permutation(cards: dict[str, Card], metric: str) -> None:
    values = {name: top(card)[metric] for name, card in cards.items()}
    assert values["the factors themselves"] > 2 * values["a rotation"]
    assert values["with noise of half their size"] > values["a rotation"] + 0.15
    assert not values["rows permuted"] > 0.02


def test_explicitness_of_sung_truth_is_high_under_rotation(cards: dict[str, Card]) -> None:
    for name in ("the factors themselves", "every latent twice", "a rotation"):
        assert top(cards[name])["explicitness"] > 0.99
        assert top(cards[name])["infoe"] > 0.85
    assert top(cards["rows permuted"])["infoe"] < 0.01


def test_metrics_of_sung_bins_and_duplicates_as_documented(cards: dict[str, Card]) -> None:
    bins, doubled, oracle, rotated = (
        top(cards[name]) for name in ("one-hot fifths", "every latent twice", "the factors themselves", "a rotation")
    )
    for name in ("infom", "disentanglement"):
        assert bins[name] > rotated[name] + 0.2, name
    assert bins["disentanglement"] > oracle["disentanglement"]
    assert bins["mig"] < 0.05
    assert (doubled["mig"], doubled["sap"]) == pytest.approx((0, 0), abs=1e-9)
    assert doubled["infoc"] == pytest.approx(oracle["infoc"] / 2, abs=0.02)
    assert doubled["sparse_r2"] == pytest.approx(oracle["sparse_r2"], abs=1e-6)
