"""Scores of planted arrays match the planted signal."""

import math
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from otoscope.metrics.reconstruction import ReconstructionMeter
from otoscope.metrics.record import Record, to_table
from otoscope.protocols.held_out import HeldOutSettings, measure_representation, reconstruction_records
from otoscope.runs.inputs import Clips
from tests.support.planted_claims import clean_latents

GROUPS, EACH, LATENTS = 20, 20, 12
ABOUT = Record(
    metric="l0", value=0.0, split="test", representation="sae", layer=3, sae_id="planted", protocol="held_out"
)
SETTINGS = HeldOutSettings()


@pytest.fixture(scope="module")
def codes() -> np.ndarray:
    """Return sparse codes; every latent fires on a third of the clips."""
    rng = np.random.default_rng(3)
    shape = (GROUPS * EACH, LATENTS)
    return np.where(rng.random(shape) < 1 / 3, rng.gamma(4.0, 0.25, shape), 0.0).astype(np.float32)


@pytest.fixture(scope="module")
def clips(codes: np.ndarray) -> Clips:
    """Return factors in latent 2, in latents 4 to 7 and in none, a label from latent 0 and a random one."""
    rng = np.random.default_rng(4)
    noise = rng.standard_normal((len(codes), 3))
    factors = np.stack(
        [codes[:, 2] + 0.1 * noise[:, 0], codes[:, 4:8].sum(axis=1) + 0.1 * noise[:, 1], noise[:, 2]], axis=1
    )
    group = np.repeat(np.arange(GROUPS), EACH)
    return Clips(
        split=np.array(["train"] * 10 + ["valid"] * 4 + ["test"] * 6)[group],
        groups=np.array([f"singer{g:02d}" for g in group]),
        labels={
            "fires": np.where(codes[:, 0] > 0, "yes", "no"),
            "by chance": rng.choice(["yes", "no"], len(codes)),
        },
        factors=factors,
        factor_names=("one", "four", "none"),
    )


def measured_table(codes: np.ndarray, clips: Clips, settings: HeldOutSettings = SETTINGS) -> pl.DataFrame:
    return to_table(measure_representation(codes, clips, settings, ABOUT).records)


@pytest.fixture(scope="module")
def table(codes: np.ndarray, clips: Clips) -> pl.DataFrame:
    return measured_table(codes, clips)


def row(table: pl.DataFrame, metric: str, target: str = "", split: str = "test") -> dict:
    found = table.filter((pl.col("metric") == metric) & (pl.col("target") == target) & (pl.col("split") == split))
    assert found.height == 1
    return found.row(0, named=True)


def test_measure_representation_scores_planted_signal_above_null(table: pl.DataFrame) -> None:
    for target in ("one", "four"):
        found = row(table, "factor_r2", target)
        assert found["value"] > 0.9
        assert found["low"] > found["null_high"]
        assert abs(found["null_mean"]) < 0.1
        assert row(table, "factor_r2", target, "valid")["value"] > 0.9
    label = row(table, "probe_accuracy", "fires")
    assert label["value"] > 0.9
    assert label["low"] > label["null_high"]


def test_measure_representation_reads_clean_latents_among_idle_ones_as_well_as_the_layer() -> None:
    codes, layer, labels, groups, split = clean_latents(0)
    clips = Clips(split, groups.astype(str), {"louder": labels}, np.zeros((len(labels), 0)), ())
    of_codes, of_layer = (
        row(measured_table(features, clips), "probe_balanced_accuracy", "louder") for features in (codes, layer)
    )
    assert (of_codes["reader"], of_layer["reader"]) == ("4 dimensions", "all dimensions")
    assert of_codes["value"] >= of_layer["value"] - 0.02
    assert of_codes["low"] > of_codes["null_high"]


def test_measure_representation_scores_absent_signal_at_null(table: pl.DataFrame) -> None:
    assert row(table, "factor_r2", "none")["value"] < 0.05
    chance = row(table, "probe_accuracy", "by chance")
    assert chance["value"] < chance["null_high"] + 0.08


def test_measure_representation_of_permuted_codes_is_at_null(codes: np.ndarray, clips: Clips) -> None:
    """With codes permuted over all clips every score falls to its null."""
    shuffled = measured_table(np.random.default_rng(5).permutation(codes), clips)
    for target in clips.factor_names:
        assert row(shuffled, "factor_r2", target)["value"] < 0.05
        assert math.isnan(row(shuffled, "completeness", target)["value"])
    assert row(shuffled, "probe_balanced_accuracy", "fires")["value"] == pytest.approx(0.5, abs=0.12)
    assert math.isnan(row(shuffled, "disentanglement")["value"])


def test_completeness_counts_the_latents_of_a_factor(table: pl.DataFrame) -> None:
    assert row(table, "completeness", "one")["value"] > 0.9
    assert row(table, "effective_latents", "one")["value"] == pytest.approx(1.0, abs=0.3)
    assert row(table, "effective_latents", "four")["value"] == pytest.approx(4.0, abs=0.3)
    assert row(table, "completeness", "four")["value"] < row(table, "completeness", "one")["value"]


def test_completeness_of_an_unpredicted_factor_is_nan(table: pl.DataFrame) -> None:
    assert math.isnan(row(table, "completeness", "none")["value"])
    assert math.isnan(row(table, "effective_latents", "none")["value"])


def test_disentanglement_is_high_for_one_factor_per_latent(table: pl.DataFrame) -> None:
    found = row(table, "disentanglement")
    assert found["value"] > 0.9
    assert (found["n"], found["groups"]) == (2, 6)


def test_measure_representation_rows_have_groups_and_keys(table: pl.DataFrame) -> None:
    assert set(table["layer"]) == {3}
    assert set(table["sae_id"]) == {"planted"}
    scored = table.filter((pl.col("split") == "test") & pl.col("metric").is_in(["probe_accuracy", "factor_r2"]))
    assert set(scored["groups"]) == {6}
    assert set(scored["n"]) == {6 * EACH}


def test_measure_representation_excludes_unknown_values(codes: np.ndarray, clips: Clips) -> None:
    label = np.where(np.arange(len(codes)) % 4 == 0, "", clips.labels["fires"])
    factors = clips.factors.copy()
    factors[::2, 0] = np.nan
    table = measured_table(codes, replace(clips, labels={"fires": label}, factors=factors))
    tests = clips.split == "test"
    assert row(table, "probe_accuracy", "fires")["n"] == (tests & (label != "")).sum()
    assert row(table, "factor_r2", "one")["n"] == (tests & np.isfinite(factors[:, 0])).sum()
    assert row(table, "factor_r2", "one")["value"] > 0.9


def test_measure_representation_of_dead_codes_has_no_values(codes: np.ndarray, clips: Clips) -> None:
    table = measured_table(np.zeros_like(codes), clips)
    for metric in ("probe_accuracy", "probe_balanced_accuracy", "probe_macro_f1"):
        assert math.isnan(row(table, metric, "fires")["value"])
    assert math.isnan(row(table, "completeness", "one")["value"])
    assert not row(table, "factor_r2", "one")["value"] > 0.05


def test_factor_r2_of_a_constant_factor_is_nan(codes: np.ndarray, clips: Clips) -> None:
    table = measured_table(codes, replace(clips, factors=np.ones_like(clips.factors)))
    assert math.isnan(row(table, "factor_r2", "one")["value"])
    assert math.isnan(row(table, "completeness", "one")["value"])


def test_measure_representation_without_targets_is_empty(codes: np.ndarray, clips: Clips) -> None:
    without_targets = replace(clips, labels={}, factors=np.zeros((len(codes), 0)), factor_names=())
    assert measured_table(codes, without_targets).is_empty()


def test_measure_representation_does_not_fit_on_test_groups(
    codes: np.ndarray, clips: Clips, table: pl.DataFrame
) -> None:
    """A changed label in a test group changes test scores, but no selection."""
    labels = {"fires": np.where(clips.split == "test", "yes", clips.labels["fires"])}
    other = measured_table(codes, replace(clips, labels=labels))
    held, moved = (row(t, "probe_balanced_accuracy", "fires", "valid")["value"] for t in (table, other))
    assert held == moved
    assert row(other, "probe_accuracy", "fires")["value"] < row(table, "probe_accuracy", "fires")["value"]


def test_measure_representation_is_deterministic_by_seed(codes: np.ndarray, clips: Clips, table: pl.DataFrame) -> None:
    assert measured_table(codes, clips).equals(table, null_equal=True)


def test_reconstruction_records_have_intervals_and_counts(codes: np.ndarray, clips: Clips) -> None:
    rng = np.random.default_rng(6)
    rows = codes @ rng.standard_normal((LATENTS, 6)).astype(np.float32) + 1.0  # no row is zero, which has no direction
    meter = ReconstructionMeter(rows.mean(axis=0))
    meter.update(rows, rows.copy(), codes, clips.groups)
    found = to_table(reconstruction_records(meter.result(), "test", ABOUT))
    values = dict(found.select("metric", "value").iter_rows())
    assert values["explained_variance"] == pytest.approx(1.0)
    assert values["mse"] == pytest.approx(0.0)
    assert values["cosine"] == pytest.approx(1.0, abs=1e-5)
    assert values["l0"] == pytest.approx((codes > 0).sum(axis=1).mean())
    assert (values["dead_fraction"], values["always_on_fraction"]) == (0.0, 0.0)
    assert set(found["n"]) == {len(rows)}
    assert set(found["groups"]) == {GROUPS}
