from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm, spearmanr

from otoscope.config.strict import StrictSettings
from otoscope.errors import EvaluationError
from otoscope.metrics.robust_factors import DUPLICATE, effective_rank, make_robust, normal_scores, without_sentinels

EVERY = np.ones(200, dtype=bool)


def table(seed: int = 0) -> tuple[np.ndarray, list[str]]:
    rng = np.random.default_rng(seed)
    pitch, tilt, mean = rng.normal(size=(3, 200))
    columns = {
        "pitch": pitch,
        "pitch_doubled": np.exp(2 * pitch) + 1e-3 * rng.normal(size=200),
        "tilt": tilt,
        "tilt_down": -tilt,
        "flat": np.full(200, 3.0),
        "rare": np.where(np.arange(200) < 4, pitch, np.nan),
        "mfcc9_stddevNorm": (1 + rng.random(200)) / mean,
        "loudness_stddevNorm": (1 + rng.random(200)) / (5 + rng.random(200)),
    }
    return np.stack(list(columns.values()), axis=1), list(columns)


def test_make_robust_drops_unusable_factors_with_reason() -> None:
    found = make_robust(*table(), train=EVERY)
    assert set(found.names) - {"pitch", "pitch_doubled"} == {"tilt", "loudness_stddevNorm"}
    assert len(found.names) == 3
    assert set(found.dropped) == {"flat", "rare", "mfcc9_stddevNorm"}
    assert "does not vary" in found.dropped["flat"]
    assert "4 training values" in found.dropped["rare"]
    assert "mean near zero" in found.dropped["mfcc9_stddevNorm"]


def test_make_robust_groups_near_duplicates_under_one_name() -> None:
    found = make_robust(*table(), train=EVERY)
    groups = {frozenset(members) for members in found.stands_for.values()}
    assert groups == {
        frozenset({"pitch", "pitch_doubled"}),
        frozenset({"tilt", "tilt_down"}),
        frozenset({found.names[2]}),
    }
    assert all(members[0] == name for name, members in found.stands_for.items())
    assert len(make_robust(*table(), train=EVERY, duplicate=1.0).names) == 5


def test_robust_scores_are_normal_and_insensitive_to_outlier() -> None:
    values, names = table()
    found = make_robust(values, names, train=EVERY)
    scores = found.apply(values)
    for column in scores.T:
        np.testing.assert_allclose(np.sort(column), norm.ppf(np.arange(1, 201) / 201), atol=1e-9)
    wild = values.copy()
    wild[17, names.index("tilt")] = 1e9
    changed = make_robust(wild, names, train=EVERY, duplicate=1.0).apply(wild)
    plain = make_robust(values, names, train=EVERY, duplicate=1.0).apply(values)
    assert np.abs(np.delete(changed - plain, 17, axis=0)).max() < 0.3


def test_robust_apply_uses_training_rows_only() -> None:
    values, names = table()
    train = np.arange(200) < 120
    one = make_robust(values, names, train=train)
    other = values.copy()
    other[~train] = other[~train] * 3 - 1
    two = make_robust(other, names, train=train)
    assert one.names == two.names
    np.testing.assert_array_equal(one.apply(values), two.apply(values))
    beyond = one.apply(np.full((1, len(names)), 1e6))
    np.testing.assert_allclose(beyond, one.apply(values[train]).max(axis=0)[None])


def test_normal_scores_of_ties_are_equal_and_missing_stay_missing() -> None:
    column = np.array([0.0, 0, 0, 1, 2, np.nan])[:, None]
    scores = normal_scores(column)[:, 0]
    np.testing.assert_allclose(scores[:5], norm.ppf(np.array([2, 2, 2, 4, 5]) / 6))
    assert np.isnan(scores[5])


@given(st.integers(0, 2**31 - 1))
def test_normal_scores_keep_order_and_ignore_scale(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(60, 3)).round(1)
    scores = normal_scores(values)
    np.testing.assert_allclose(normal_scores(np.exp(values)), scores)
    for one, other in zip(values.T, scores.T, strict=True):
        assert spearmanr(one, other).statistic == pytest.approx(1)


def test_without_sentinels_removes_level_and_its_deviation() -> None:
    names = ["F1amplitudeLogRelF0_sma3nz_amean", "F1amplitudeLogRelF0_sma3nz_stddevNorm", "loudness_sma3_amean"]
    values = np.array([[-201.0, 0.0, -201.0], [-60.0, 0.3, 1.0]])
    found = without_sentinels(values, names)
    np.testing.assert_array_equal(np.isnan(found), [[True, True, False], [False, False, False]])
    np.testing.assert_array_equal(values[0], [-201, 0, -201])


@pytest.mark.parametrize("noise", [True, False])
def test_without_sentinels_removes_descriptors_of_voiced_frames_from_noise_alone(noise: bool) -> None:
    opensmile = pytest.importorskip("opensmile")
    smile = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.Functionals)
    time_s = np.arange(32000) / 16000
    tone = sum(np.sin(2 * np.pi * 150 * h * time_s) / h for h in range(1, 20))
    wave = np.random.default_rng(0).normal(size=32000) if noise else tone
    values = smile.process_signal((0.05 * wave).astype(np.float32), 16000)
    found = without_sentinels(values.to_numpy(dtype=np.float64), list(values.columns))[0]
    missing = {name for name, value in zip(values.columns, found, strict=True) if np.isnan(value)}
    if not noise:
        assert missing == set()
        return
    assert {name for name in missing if "UV" in name or "sma3nz" not in name} == set()
    for kept in ("loudness_sma3_amean", "spectralFluxUV_sma3nz_amean", "slopeUV0-500_sma3nz_amean"):
        assert kept not in missing
    for gone in ("F0semitoneFrom27.5Hz_sma3nz_percentile50.0", "F2frequency_sma3nz_amean", "slopeV0-500_sma3nz_amean"):
        assert gone in missing


def test_effective_rank_counts_directions() -> None:
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(50, 4)))[0]
    basis -= basis.mean(axis=0)
    independent = np.linalg.qr(basis)[0]
    assert effective_rank(independent) == pytest.approx(4)
    assert effective_rank(np.repeat(independent, 3, axis=1)) == pytest.approx(4)
    assert effective_rank(independent[:, :1]) == pytest.approx(1)
    assert np.isnan(effective_rank(np.ones((5, 2))))


@pytest.mark.shared
@pytest.mark.parametrize(("duplicate", "kept"), [(DUPLICATE, 60), (StrictSettings().near_duplicates, 55)])
def test_make_robust_on_vocalset_egemaps_as_documented(shared: Path, duplicate: float, kept: int) -> None:
    found = pl.read_csv(shared / "paper" / "vocalset_train_egemaps.csv.gz").select(pl.selectors.numeric())
    names = found.columns
    values = without_sentinels(found.to_numpy().astype(np.float64), names)
    robust = make_robust(values, names, train=np.ones(len(values), dtype=bool), duplicate=duplicate)
    # all are ratios to a mean that crosses zero; those of F0, loudness, formant frequencies and bandwidths are kept
    assert len(robust.dropped) == 18
    assert all(name.endswith("_stddevNorm") for name in robust.dropped)
    assert not any(name.startswith(("F0semitone", "loudness", "F1freq")) for name in robust.dropped)
    assert len(robust.names) == kept
    pitch = next(members for members in robust.stands_for.values() if "F0semitoneFrom27.5Hz_sma3nz_amean" in members)
    assert len(pitch) == 3
    assert robust.effective_rank == pytest.approx(19.7, abs=0.06)


def test_robust_factors_bad_input_is_refused() -> None:
    values, names = table()
    with pytest.raises(EvaluationError, match="one name a column"):
        make_robust(values, names[1:], train=EVERY)
    with pytest.raises(EvaluationError, match="one boolean a row"):
        make_robust(values, names, train=EVERY[1:])
    with pytest.raises(EvaluationError, match="hold infinity"):
        make_robust(values * np.inf, names, train=EVERY)
    with pytest.raises(EvaluationError, match="none of the 1 factors"):
        make_robust(values[:, 4:5], names[4:5], train=EVERY)
    with pytest.raises(EvaluationError, match="expected 8 factors"):
        make_robust(values, names, train=EVERY).apply(values[:, :3])
