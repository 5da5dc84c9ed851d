"""Records of the study on one representation."""

import numpy as np
import pytest

from otoscope.config.mariotte2025 import ReproductionSettings
from otoscope.metrics.record import Record, to_table
from otoscope.protocols.mariotte2025.measure import (
    ClipTargets,
    SplitFeatures,
    measure_factors,
    measure_probes,
    measure_reconstruction,
)

ABOUT = Record(metric="l0", value=0.0, split="test", representation="dense", layer=1, protocol="mariotte2025")
NAMES = (*(f"mfcc{i}_sma3_amean" for i in (1, 2, 3, 4)), "F0semitoneFrom27.5Hz_sma3nz_amean")


def made(*, missing: bool = False) -> tuple[SplitFeatures, ClipTargets]:
    """Return three classes encoded in the first columns, and five factors, the last in one column."""
    rng = np.random.default_rng(0)

    def side(rows: int, seed: int) -> np.ndarray:
        noise = np.random.default_rng(seed).standard_normal((rows, 8))
        return (3 * np.eye(3, 8)[np.arange(rows) % 3] + noise).astype(np.float32)

    test = side(60, 3)
    factors = rng.standard_normal((60, 5))
    factors[:, 4] = test[:, 7]
    if missing:
        factors[:, 0] = np.nan
        factors[3, 2] = np.nan
    label = {"technique": np.array(["a", "b", "c"] * 20)}
    known = ClipTargets(
        train_labels=label,
        valid_labels={"technique": label["technique"][:30]},
        test_labels=label,
        test_groups=np.repeat(["f2", "m3"], 30),
        whole_groups=np.repeat(["f2", "m3"], 30),
        factors=factors,
        factor_names=NAMES,
    )
    return SplitFeatures(side(60, 1)[None], side(30, 2), test, test), known


def values(records, metric: str) -> dict[str, float]:
    return {r.target: r.value for r in records if r.metric == metric}


def test_measure_probes_scores_planted_labels_with_clip_counts():
    views, known = made()
    records = list(measure_probes(views, known, ReproductionSettings(probe_epochs=400), ABOUT))
    (test,) = [r for r in records if r.split == "test"]
    assert (test.metric, test.target, test.n, test.groups) == ("probe_accuracy", "technique", 60, 2)
    assert test.value > 0.85
    assert to_table(records).height == 2


def test_measure_probes_excludes_clips_without_a_label():
    views, known = made()
    known.test_labels["technique"] = np.where(np.arange(60) < 10, known.test_labels["technique"], "")
    test = next(
        r for r in measure_probes(views, known, ReproductionSettings(probe_epochs=5), ABOUT) if r.split == "test"
    )
    assert (test.n, test.groups) == (10, 1)


def test_measure_factors_recovers_a_factor_of_one_dimension():
    views, known = made()
    records = list(measure_factors(views, known, ReproductionSettings(), ABOUT, width=8, dense=True))
    assert values(records, "factor_r2_in_sample")[NAMES[4]] == pytest.approx(0.99, abs=0.01)
    assert values(records, "completeness")[NAMES[4]] == pytest.approx(1.0, abs=0.01)
    assert values(records, "category_count")["pitch"] == 1
    assert values(records, "category_count")["mfcc"] == 4
    assert set(values(records, "factor_entropy")) == set(NAMES)
    assert values(records, "top_r2_in_sample")[""] == pytest.approx(
        np.mean(list(values(records, "factor_r2_in_sample").values()))
    )
    assert -1 <= values(records, "completeness_against_entropy")[""] <= 1


def test_measure_factors_ranks_dense_by_r2_and_codes_by_completeness():
    rng = np.random.default_rng(4)
    features = rng.standard_normal((80, 30)).astype(np.float32)
    spread = features[:, :15].sum(axis=1)
    # ten factors predicted by many columns, ten by nothing: the latter are perfectly complete
    planted = spread[:, None] + 0.1 * rng.standard_normal((80, 10))
    factors = np.hstack([planted, rng.standard_normal((80, 10))])
    views = SplitFeatures(features[None], features, features, features)
    names = tuple(f"f{i}" for i in range(20))
    none = {"technique": np.array([""] * 80)}
    known = ClipTargets(none, none, none, np.array(["a"] * 80), np.array(["a"] * 80), factors, names)
    strong = ReproductionSettings(alpha=0.3)

    def mean_of(settings: ReproductionSettings, *, dense: bool) -> float:
        return values(list(measure_factors(views, known, settings, ABOUT, width=30, dense=dense)), "top_completeness")[
            ""
        ]

    assert mean_of(strong, dense=True) < 0.8
    assert mean_of(strong, dense=False) == pytest.approx(1.0, abs=0.05)
    like = strong.model_copy(update={"reference_ranking": "completeness"})
    assert mean_of(like, dense=True) == mean_of(like, dense=False)


def test_measure_factors_excludes_missing_clips_and_empty_factors():
    views, known = made(missing=True)
    records = list(measure_factors(views, known, ReproductionSettings(), ABOUT, width=8, dense=False))
    found = [r for r in records if r.metric == "factor_r2_in_sample"]
    assert {r.target for r in found} == set(NAMES[1:])
    assert {r.n for r in found} == {59}
    assert values(records, "factor_entropy") == {}


def test_measure_factors_without_factors_is_empty():
    views, known = made()
    empty = ClipTargets(**{**vars(known), "factors": np.full((60, 5), np.nan)})
    assert list(measure_factors(views, empty, ReproductionSettings(), ABOUT, width=8, dense=True)) == []


def test_measure_reconstruction_of_given_rows():
    rows = np.array([[0.0, 0.0], [2.0, 2.0]], dtype=np.float32)
    codes = np.array([[1.0, 0.0, 0.0], [1.0, 2.0, 0.0]], dtype=np.float32)
    records = list(measure_reconstruction(rows, rows + 0.5, codes, np.array([1.0, 1.0]), ABOUT))
    assert {r.metric: r.value for r in records} == pytest.approx(
        {"mse": 0.25, "explained_variance": 0.75, "l0": 1.5, "dead_fraction": 1 / 3}
    )
