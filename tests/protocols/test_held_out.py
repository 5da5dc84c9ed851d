"""Answers on planted arrays are what was planted."""

import math
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from otoscope.metrics.reconstruction import ReconstructionMeter
from otoscope.metrics.record import Record, to_table
from otoscope.protocols.held_out import HeldOutSettings, measure_representation, reconstruction_records
from otoscope.runs.inputs import Clips, Features

GROUPS, EACH, LATENTS = 20, 20, 12
ABOUT = Record(
    metric="l0", value=0.0, split="test", representation="sae", layer=3, sae_id="planted", protocol="held_out"
)
SETTINGS = HeldOutSettings(permutations=20, resamples=200)


@pytest.fixture(scope="module")
def codes() -> np.ndarray:
    """Sparse codes: every latent fires on a third of the clips."""
    rng = np.random.default_rng(3)
    shape = (GROUPS * EACH, LATENTS)
    return np.where(rng.random(shape) < 1 / 3, rng.gamma(4.0, 0.25, shape), 0.0).astype(np.float32)


@pytest.fixture(scope="module")
def clips(codes: np.ndarray) -> Clips:
    """One factor in latent 2, one in latents 4 to 7 alike, one in none; a label by latent 0, one by nothing."""
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


def judged(codes: np.ndarray, clips: Clips, settings: HeldOutSettings = SETTINGS) -> pl.DataFrame:
    return to_table(measure_representation(Features(codes, codes), clips, settings, ABOUT))


@pytest.fixture(scope="module")
def table(codes: np.ndarray, clips: Clips) -> pl.DataFrame:
    return judged(codes, clips)


def row(table: pl.DataFrame, metric: str, target: str = "", split: str = "test") -> dict:
    found = table.filter((pl.col("metric") == metric) & (pl.col("target") == target) & (pl.col("split") == split))
    assert found.height == 1
    return found.row(0, named=True)


def test_what_was_planted_is_found_above_its_null(table: pl.DataFrame) -> None:
    for target in ("one", "four"):
        found = row(table, "factor_r2", target)
        assert found["value"] > 0.9
        assert found["low"] > found["null_high"]
        assert abs(found["null_mean"]) < 0.1
        assert row(table, "factor_r2", target, "valid")["value"] > 0.9
    label = row(table, "probe_accuracy", "fires")
    assert label["value"] > 0.9
    assert label["low"] > label["null_high"]


def test_what_was_not_planted_is_at_its_null(table: pl.DataFrame) -> None:
    assert row(table, "factor_r2", "none")["value"] < 0.05
    chance = row(table, "probe_accuracy", "by chance")
    assert chance["value"] < chance["null_high"] + 0.08


def test_codes_of_other_clips_say_nothing(codes: np.ndarray, clips: Clips) -> None:
    """Codes dealt anew among all clips: every number falls to its null, none survives on its own strength."""
    shuffled = judged(np.random.default_rng(5).permutation(codes), clips)
    for target in clips.factor_names:
        assert row(shuffled, "factor_r2", target)["value"] < 0.05
        assert math.isnan(row(shuffled, "completeness", target)["value"])
    assert row(shuffled, "probe_balanced_accuracy", "fires")["value"] == pytest.approx(0.5, abs=0.12)
    assert math.isnan(row(shuffled, "disentanglement")["value"])


def test_completeness_counts_the_latents_behind_a_factor(table: pl.DataFrame) -> None:
    assert row(table, "completeness", "one")["value"] > 0.9
    assert row(table, "effective_latents", "one")["value"] == pytest.approx(1.0, abs=0.3)
    assert row(table, "effective_latents", "four")["value"] == pytest.approx(4.0, abs=0.3)
    assert row(table, "completeness", "four")["value"] < row(table, "completeness", "one")["value"]


def test_a_factor_that_nothing_predicts_has_no_completeness(table: pl.DataFrame) -> None:
    assert math.isnan(row(table, "completeness", "none")["value"])
    assert math.isnan(row(table, "effective_latents", "none")["value"])


def test_latents_that_serve_one_factor_each_are_disentangled(table: pl.DataFrame) -> None:
    found = row(table, "disentanglement")
    assert found["value"] > 0.9
    assert (found["n"], found["groups"]) == (2, 6)


def test_every_row_knows_its_groups_and_what_it_is_about(table: pl.DataFrame) -> None:
    assert set(table["layer"]) == {3}
    assert set(table["sae_id"]) == {"planted"}
    scored = table.filter((pl.col("split") == "test") & pl.col("metric").is_in(["probe_accuracy", "factor_r2"]))
    assert set(scored["groups"]) == {6}
    assert set(scored["n"]) == {6 * EACH}


def test_clips_without_a_label_or_a_factor_are_left_out(codes: np.ndarray, clips: Clips) -> None:
    label = np.where(np.arange(len(codes)) % 4 == 0, "", clips.labels["fires"])
    factors = clips.factors.copy()
    factors[::2, 0] = np.nan
    table = judged(codes, replace(clips, labels={"fires": label}, factors=factors))
    tests = clips.split == "test"
    assert row(table, "probe_accuracy", "fires")["n"] == (tests & (label != "")).sum()
    assert row(table, "factor_r2", "one")["n"] == (tests & np.isfinite(factors[:, 0])).sum()
    assert row(table, "factor_r2", "one")["value"] > 0.9


def test_a_dictionary_that_is_dead_gets_rows_without_values(codes: np.ndarray, clips: Clips) -> None:
    table = judged(np.zeros_like(codes), clips)
    for metric in ("probe_accuracy", "probe_balanced_accuracy", "probe_macro_f1"):
        assert math.isnan(row(table, metric, "fires")["value"])
    assert math.isnan(row(table, "completeness", "one")["value"])
    assert not row(table, "factor_r2", "one")["value"] > 0.05


def test_a_constant_factor_has_no_r2(codes: np.ndarray, clips: Clips) -> None:
    table = judged(codes, replace(clips, factors=np.ones_like(clips.factors)))
    assert math.isnan(row(table, "factor_r2", "one")["value"])
    assert math.isnan(row(table, "completeness", "one")["value"])


def test_nothing_asked_gives_no_rows(codes: np.ndarray, clips: Clips) -> None:
    asked = replace(clips, labels={}, factors=np.zeros((len(codes), 0)), factor_names=())
    assert judged(codes, asked).is_empty()


def test_test_groups_never_touch_what_is_fitted(codes: np.ndarray, clips: Clips, table: pl.DataFrame) -> None:
    """Another label in a test group changes what it scores, and nothing that was chosen before."""
    labels = {"fires": np.where(clips.split == "test", "yes", clips.labels["fires"])}
    other = judged(codes, replace(clips, labels=labels))
    held, moved = (row(t, "probe_balanced_accuracy", "fires", "valid")["value"] for t in (table, other))
    assert held == moved
    assert row(other, "probe_accuracy", "fires")["value"] < row(table, "probe_accuracy", "fires")["value"]


def test_the_same_seed_gives_the_same_numbers(codes: np.ndarray, clips: Clips, table: pl.DataFrame) -> None:
    assert judged(codes, clips).equals(table, null_equal=True)


def test_reconstruction_rows_carry_intervals_and_counts(codes: np.ndarray, clips: Clips) -> None:
    rng = np.random.default_rng(6)
    rows = codes @ rng.standard_normal((LATENTS, 6)).astype(np.float32) + 1.0  # no row is zero, which has no direction
    meter = ReconstructionMeter(rows.mean(axis=0))
    meter.update(rows, rows.copy(), codes, clips.groups)
    found = to_table(reconstruction_records(meter.result(resamples=100), "test", ABOUT))
    values = dict(found.select("metric", "value").iter_rows())
    assert values["explained_variance"] == pytest.approx(1.0)
    assert values["mse"] == pytest.approx(0.0)
    assert values["cosine"] == pytest.approx(1.0, abs=1e-5)
    assert values["l0"] == pytest.approx((codes > 0).sum(axis=1).mean())
    assert (values["dead_fraction"], values["always_on_fraction"]) == (0.0, 0.0)
    assert set(found["n"]) == {len(rows)}
    assert set(found["groups"]) == {GROUPS}
