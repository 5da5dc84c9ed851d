"""Measured eGeMAPS factors lead to the same conclusions as true factors, except for formants."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.stats import spearmanr

from otoscope.corpus.synth import SynthCorpus
from otoscope.corpus.synth.dataset import render_task
from otoscope.metrics.latent_metrics import information_gap
from otoscope.metrics.mutual_information import measure_halves, measure_information
from otoscope.metrics.robust_factors import make_robust
from otoscope.metrics.sparse_regression import SparseSettings, sparse_regression

PAIRS = {
    "f0_mean_hz": "F0semitoneFrom27.5Hz_sma3nz_amean",
    "loudness_db": "equivalentSoundLevel_dBp",
    "f2_hz": "F2frequency_sma3nz_amean",
}
"""True factors and the openSMILE functionals of the same quantity."""

AGREE = ("f0_mean_hz", "loudness_db")
"""Factors for which openSMILE agrees with the truth."""


@pytest.fixture(scope="module")
def both() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True and measured factors, one column per pair, and the singer of each clip."""
    pytest.importorskip("opensmile")
    from otoscope.factors.egemaps import measure_egemaps

    spec = SynthCorpus(singers=8, takes=5, duration_s=0.6, techniques=("straight", "vibrato", "belt"))
    tasks = spec.tasks()
    sung = {task.path: render_task(task, spec) for task in tasks}
    clips = pl.DataFrame(
        {
            "clip_id": list(sung),
            "path": list(sung),
            "start_s": 0.0,
            "duration_s": spec.duration_s,
            "digest": list(sung),
        }
    )
    measured = measure_egemaps(clips, Path(), load=lambda row: sung[str(row["path"])].wave)
    assert not len(measured.failed)
    true = np.array([[clip.factors[name] for name in PAIRS] for clip in sung.values()])
    found = measured.table.select(PAIRS.values()).to_numpy()
    return true, found, np.array([task.who.name for task in tasks])


@pytest.fixture(scope="module")
def codes(both: tuple[np.ndarray, np.ndarray, np.ndarray]) -> np.ndarray:
    """Six latents per true factor, each tuned to a part of its range, and twelve uninformative ones."""
    true, _, _ = both
    rng = np.random.default_rng(0)
    place = make_robust(true, list(PAIRS), train=np.ones(len(true), dtype=bool), duplicate=1.0).apply(true)
    tuned = 1 - np.abs(place[:, :, None] + 0.1 * rng.normal(size=(*place.shape, 1)) - np.linspace(-1.5, 1.5, 6))
    noise = rng.normal(size=(len(true), 12)) - 0.7
    return np.maximum(np.concatenate([tuned.reshape(len(true), -1), noise], axis=1), 0)


def test_egemaps_and_truth_select_latents_of_the_same_factor(
    both: tuple[np.ndarray, np.ndarray, np.ndarray], codes: np.ndarray
) -> None:
    true, found, _ = both
    known, measured = measure_information(codes, true), measure_information(codes, found)
    best = [information_gap(measure_halves(codes, factors)).best for factors in (true, found)]
    for j, name in enumerate(PAIRS):
        assert best[0][j] // 6 == j, name
    for j, name in enumerate(AGREE):
        assert best[1][j] // 6 == j, name
        # the information of each latent is the same
        np.testing.assert_allclose(measured.share[:18, j], known.share[:18, j], atol=0.05, err_msg=name)
    assert np.abs(measured.share[18:]).max() < 0.05


def test_egemaps_formants_disagree_with_truth(
    both: tuple[np.ndarray, np.ndarray, np.ndarray], codes: np.ndarray
) -> None:
    """The roots that eGeMAPS reports as formants hardly follow the resonances (docs/synthesiser.md)."""
    true, found, _ = both
    followed = [float(np.asarray(spearmanr(true[:, j], found[:, j]))[0]) for j in range(3)]
    assert min(followed[:2]) > 0.98
    assert abs(followed[2]) < 0.3
    formant = slice(12, 18)
    assert measure_information(codes, true).share[formant, 2].min() > 0.2
    assert measure_information(codes, found).share[formant, 2].max() < 0.2


def test_egemaps_and_truth_agree_on_latents_for_pitch(
    both: tuple[np.ndarray, np.ndarray, np.ndarray], codes: np.ndarray
) -> None:
    true, found, singers = both
    turns = ["train", "test", "train", "valid", "train", "test", "train", "test"]  # women, then men
    sides = dict(zip(sorted(set(singers)), turns, strict=True))
    split = np.array([sides[name] for name in singers])
    curves = []
    for factors in (true, found):
        robust = make_robust(factors, list(PAIRS), train=split == "train", duplicate=1.0).apply(factors)
        brief = SparseSettings(sizes=(1, 2, 4, 8))
        curves.append(sparse_regression(codes, robust, groups=singers, split=split, settings=brief))
    known, measured = curves
    pitch = 0
    np.testing.assert_allclose(measured.r2[pitch], known.r2[pitch], atol=0.15)
    assert (measured.r2[pitch, 2:] > measured.null_high[pitch, 2:]).all()
    shared = set(measured.chosen[pitch, :2]) & set(known.chosen[pitch, :2])
    assert len(shared) == 2
    assert all(latent < 6 for latent in shared)
