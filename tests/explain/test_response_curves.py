"""Response curves of units with a known tuning."""

import numpy as np
import pytest

from otoscope.errors import EvaluationError
from otoscope.explain.response_curves import (
    band_bins,
    best_band_r2,
    explained_shares,
    response_curve,
    response_curves,
    selectivity,
)

GROUPS, CLIPS, FRAMES = 6, 5, 120


def contours(seed: int) -> np.ndarray:
    """Smooth contours between 5 and 45, clip after clip."""
    rng = np.random.default_rng(seed)
    walks = np.cumsum(rng.normal(size=(GROUPS * CLIPS, FRAMES)), axis=1)
    low, high = walks.min(axis=1, keepdims=True), walks.max(axis=1, keepdims=True)
    return (5 + 40 * (walks - low) / (high - low)).ravel()


@pytest.fixture(scope="module")
def rows() -> dict[str, np.ndarray]:
    clips = np.repeat(np.arange(GROUPS * CLIPS), FRAMES)
    return {"pitch": contours(0), "level": contours(1), "clips": clips, "groups": clips // CLIPS}


def bell(values: np.ndarray, centre: float, width: float) -> np.ndarray:
    return np.exp(-4 * np.log(2) * ((values - centre) / width) ** 2)


@pytest.mark.parametrize(("centre", "width"), [(14.0, 8.0), (25.0, 6.0), (36.0, 10.0)])
def test_response_curve_recovers_centre_and_width_of_a_planted_bell(
    rows: dict[str, np.ndarray], centre: float, width: float
) -> None:
    noise = np.random.default_rng(2).exponential(0.1, len(rows["pitch"]))
    activations = np.maximum(bell(rows["pitch"], centre, width) + noise - 0.1, 0)
    curve = response_curve(activations, rows["pitch"], groups=rows["groups"], clips=rows["clips"], bins=20)
    assert curve is not None
    assert curve.centre == pytest.approx(centre, abs=1.5)
    assert curve.width == pytest.approx(width, rel=0.35)
    assert curve.responds
    assert curve.r2 > 0.8
    assert ((curve.low <= curve.mean + 1e-9) & (curve.mean <= curve.high + 1e-9)).all()
    assert (curve.groups, curve.rows) == (GROUPS, len(activations))


def test_response_to_an_unrelated_quantity_stays_within_its_null(rows: dict[str, np.ndarray]) -> None:
    activations = bell(rows["pitch"], 25.0, 6.0)
    beyond = 0
    for seed in range(20):
        curve = response_curve(
            activations, contours(10 + seed), groups=rows["groups"], clips=rows["clips"], rotations=39, seed=seed
        )
        assert curve is not None
        beyond += curve.responds
    assert beyond <= 4  # 5 % of 20 expected; at most 4 with a probability of 99.7 %


def test_r2_counts_unseen_groups_only(rows: dict[str, np.ndarray]) -> None:
    """Each group has its own optimum: within groups the curve is perfect, across groups it predicts nothing."""
    centres = np.array([8.0, 14.0, 20.0, 27.0, 34.0, 41.0])[rows["groups"]]
    activations = bell(rows["pitch"] - centres, 0.0, 4.0)
    curve = response_curve(activations, rows["pitch"], groups=rows["groups"], clips=rows["clips"])
    assert curve is not None
    assert curve.r2 < 0.1


def test_explained_shares_separate_a_factor_from_an_interaction(rows: dict[str, np.ndarray]) -> None:
    quantities = {"pitch": rows["pitch"], "level": rows["level"]}
    alone = explained_shares(bell(rows["pitch"], 25.0, 12.0), quantities, groups=rows["groups"])
    assert alone["pitch",] > 0.9
    assert abs(alone["level",]) < 0.1
    both = (rows["pitch"] > 25) ^ (rows["level"] > 25)
    joint = explained_shares(both.astype(float), quantities, groups=rows["groups"])
    assert joint["pitch", "level"] > 0.5 > max(joint["pitch",], joint["level",]) + 0.3


def test_best_band_finds_a_latent_that_is_a_mel_band(rows: dict[str, np.ndarray]) -> None:
    spectra = np.random.default_rng(0).normal(size=(len(rows["pitch"]), 5))
    bins = band_bins(spectra)
    assert best_band_r2(np.maximum(spectra[:, 3], 0), bins, groups=rows["groups"]) > 0.9
    assert best_band_r2(bell(rows["pitch"], 25.0, 6.0), bins, groups=rows["groups"]) < 0.1


def test_response_curve_needs_rows_groups_and_equal_lengths(rows: dict[str, np.ndarray]) -> None:
    activations, pitch = np.ones(len(rows["pitch"])), rows["pitch"].copy()
    pitch[50:] = np.nan
    assert response_curve(activations, pitch, groups=rows["groups"], clips=rows["clips"]) is None
    one = np.zeros(len(pitch))
    assert response_curve(activations, rows["pitch"], groups=one, clips=rows["clips"]) is None
    constant = np.full(len(pitch), 3.0)
    assert response_curve(activations, constant, groups=rows["groups"], clips=rows["clips"]) is None
    with pytest.raises(EvaluationError, match="give one of each per row"):
        response_curve(activations[1:], pitch, groups=rows["groups"], clips=rows["clips"])


def test_a_latent_that_never_fires_has_a_flat_curve(rows: dict[str, np.ndarray]) -> None:
    silent = np.zeros(len(rows["pitch"]))
    curve = response_curve(silent, rows["pitch"], groups=rows["groups"], clips=rows["clips"])
    assert curve is not None
    assert not curve.responds
    assert np.isnan(curve.centre)
    assert curve.selectivity == selectivity(np.zeros(4)) == 0


def test_response_curves_of_several_latents_are_those_of_each(rows: dict[str, np.ndarray]) -> None:
    rng = np.random.default_rng(3)
    latents = {latent: np.maximum(rng.standard_normal(len(rows["pitch"])), 0) for latent in (2, 5)}
    quantities = {"pitch": rows["pitch"], "level": rng.standard_normal(len(rows["pitch"]))}
    quantities["constant"] = np.ones(len(rows["pitch"]))
    known = {"groups": rows["groups"], "clips": rows["clips"]}
    found = response_curves(latents, quantities, **known)
    assert found.keys() == {(latent, name) for latent in latents for name in ("pitch", "level")}
    for (latent, name), curve in found.items():
        alone = response_curve(latents[latent], quantities[name], **known)
        assert alone is not None
        assert (curve.r2, curve.centre) == (alone.r2, alone.centre)
        np.testing.assert_array_equal(curve.null, alone.null)
