"""Cross-fitting: every group is tested once, by readers that other groups fitted and tuned."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otoscope.config.strict import StrictSettings
from otoscope.corpus.splits import Splits, assign_folds
from otoscope.corpus.table import COLUMNS
from otoscope.errors import SplitError
from otoscope.linear.lasso import fit_factors
from otoscope.metrics.probes import fit_probe
from otoscope.metrics.record import Record
from otoscope.metrics.sparse_regression import SparseProbeSettings, SparseSettings, sparse_probe, sparse_regression
from otoscope.protocols.held_out import HeldOutSettings, measure_representation
from otoscope.protocols.strict.regression import fit_ridge_scores
from otoscope.protocols.strict.structure import score_representation
from otoscope.protocols.strict.tasks import Repetitions, evaluate_task, prepare_factors, single_label_task
from otoscope.resampling.groups import each_split, fold_splits, r2_from_sums
from otoscope.runs.codes import as_of_folds
from otoscope.runs.inputs import Clips, unprobeable_reason

GROUPS, EACH = 6, 25
GROUP = np.repeat(np.arange(GROUPS), EACH)
FOLD = np.array([0, 1, 2, 3, 4, 0])[GROUP]
SPLITS = fold_splits(FOLD)
ABOUT = Record(metric="l0", value=0.0, split="test", representation="dense", layer=0)


def planted() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return features, a label and two values that they hold; some values are missing."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((GROUPS * EACH, 12))
    label = np.where(features[:, 0] + 0.3 * rng.standard_normal(len(features)) > 0, "high", "low")
    factors = features[:, :2] + 0.3 * rng.standard_normal((len(features), 2)) + 0.5 * GROUP[:, None]
    factors[::7, 1] = np.nan
    label[::9] = ""
    return features, label, factors


def clips_of(fold: np.ndarray | None = FOLD) -> Clips:
    _, label, factors = planted()
    return Clips(SPLITS[0], GROUP, {"level": label}, factors, ("one", "two"), fold=fold)


@given(groups=st.integers(3, 20), folds=st.integers(3, 8))
def test_fold_splits_test_every_row_once_and_never_fit_it_in_its_own_fold(groups: int, folds: int) -> None:
    fold = np.arange(groups) % min(folds, groups)
    splits = fold_splits(fold)
    assert ((splits == "test").sum(axis=0) == 1).all()
    assert ((splits == "valid").sum(axis=0) == 1).all()
    assert all({"train", "valid", "test"} == set(split) for split in splits)


@given(women=st.integers(0, 9), men=st.integers(0, 9), cross=st.integers(3, 7), seed=st.integers(0, 5))
def test_assign_folds_spreads_groups_and_strata_evenly(women: int, men: int, cross: int, seed: int) -> None:
    sexes = ["f"] * women + ["m"] * men
    if len(sexes) < 3:
        return
    clips = pl.DataFrame({"group": [f"s{i}" for i in range(len(sexes))], "label_sex": sexes, "split": None})
    dealt = assign_folds(pl.concat([clips, clips]), Splits(cross=cross, seed=seed))
    by_group = dealt.unique()
    assert by_group.height == len(sexes)
    sizes = by_group.group_by("fold").len()["len"].to_list()
    assert len(sizes) == min(cross, len(sexes))
    assert max(sizes) - min(sizes) <= 1
    if min(women, men) > 1:
        for sex in "fm":
            held = by_group.filter(pl.col("label_sex") == sex)["fold"].value_counts()["count"].to_list()
            held += [0] * (len(sizes) - len(held))
            assert max(held) - min(held) <= 1


@pytest.mark.parametrize(
    ("groups", "stated", "splits", "folds"),
    [
        (14, None, Splits(), 5),
        (4, None, Splits(), 4),
        (15, None, Splits(), None),
        (14, "train", Splits(), None),
        (14, None, Splits(test_groups=("s1",)), None),
        (14, None, Splits(cross=0), None),
        (15, "train", Splits(cross=3), 3),
    ],
)
def test_assign_folds_by_default_for_few_groups_without_stated_splits(
    groups: int, stated: str | None, splits: Splits, folds: int | None
) -> None:
    names = [f"s{i}" for i in range(groups)]
    clips = pl.DataFrame(
        {"group": names, "split": [stated, *[None] * (groups - 1)]}, schema_overrides={"split": pl.String}
    )
    dealt = assign_folds(clips, splits)
    assert (dealt["fold"].n_unique() if "fold" in dealt.columns else None) == folds


@pytest.mark.parametrize("cross", [1, 2, -1])
def test_splits_refuse_too_few_folds(cross: int) -> None:
    with pytest.raises(ValueError, match=r"3 or more folds|greater than or equal to 0"):
        Splits(cross=cross)


@pytest.mark.parametrize(("groups", "stated"), [(15, None), (6, "train")])
def test_assign_folds_refuses_dictionaries_per_fold_without_folds(groups: int, stated: str | None) -> None:
    names = [f"s{i}" for i in range(groups)]
    clips = pl.DataFrame(
        {"group": names, "split": [stated, *[None] * (groups - 1)]}, schema_overrides={"split": pl.String}
    )
    reason = "its splits are stated" if stated else "it has 15 groups or more"
    with pytest.raises(SplitError, match=f"per_fold, but the corpus is not cross-fitted because {reason}"):
        assign_folds(clips, Splits(dictionaries="per_fold"))
    assert "fold" in assign_folds(clips, Splits(dictionaries="per_fold", cross=3)).columns


def test_splits_refuse_dictionaries_per_fold_of_one_split() -> None:
    with pytest.raises(ValueError, match="dictionaries=per_fold: cross=0 makes one split"):
        Splits(cross=0, dictionaries="per_fold")


def turned() -> tuple[np.ndarray, np.ndarray]:
    """Return features, and the same with their columns in another order in each fold."""
    features, _, _ = planted()
    orders = [np.random.default_rng(fold).permutation(features.shape[1]) for fold in range(len(SPLITS))]
    return features, np.stack([features[:, order] for order in orders])


def test_readers_of_a_fold_read_the_features_of_that_fold() -> None:
    (features, own), (_, label, factors) = turned(), planted()
    shared, per_fold = (fit_probe(x, label, groups=GROUP, split=SPLITS) for x in (features, own))
    assert (shared.predicted == per_fold.predicted).mean() > 0.98
    shared, per_fold = (fit_factors(x, factors, groups=GROUP, split=SPLITS) for x in (features, own))
    np.testing.assert_allclose(shared.predicted, per_fold.predicted, rtol=1e-3, atol=1e-3)
    few = SparseSettings((1, 4))
    shared, per_fold = (
        sparse_regression(x, factors, groups=GROUP, split=SPLITS, settings=few) for x in (features, own)
    )
    np.testing.assert_allclose(shared.r2, per_fold.r2, rtol=1e-6)
    shared, per_fold = (
        sparse_probe(x, label, groups=GROUP, split=SPLITS, settings=SparseProbeSettings((1, 4)))
        for x in (features, own)
    )
    assert [score.value for score in shared.scores] == pytest.approx(
        [score.value for score in per_fold.scores], abs=0.02
    )
    targets = prepare_factors(clips_of(), {}, near_duplicates=0.999)
    shared, per_fold = (fit_ridge_scores(x, targets, folds=4) for x in (features, own))
    np.testing.assert_allclose(shared.squares, per_fold.squares, rtol=1e-6)
    shared, per_fold = (score_representation(x, targets, StrictSettings(sizes=(1, 2))) for x in (features, own))
    np.testing.assert_allclose(shared.r2, per_fold.r2, atol=1e-3)
    np.testing.assert_allclose(shared.gaps, per_fold.gaps, rtol=1e-6)
    np.testing.assert_allclose(shared.explicitness, per_fold.explicitness, atol=1e-3)
    task = single_label_task("level", label)
    shared, per_fold = (
        evaluate_task(task, x, split=SPLITS, groups=GROUP, repeat=Repetitions(4), about=ABOUT) for x in (features, own)
    )
    assert shared.records[0].value == pytest.approx(per_fold.records[0].value, abs=0.02)


def test_fit_factors_with_features_of_each_fold_has_the_weights_of_the_first() -> None:
    (features, own), (_, _, factors) = turned(), planted()
    alone = fit_factors(own[0], factors, groups=GROUP, split=SPLITS[0])
    weights = fit_factors(own, factors, groups=GROUP, split=SPLITS).weights
    # several folds are solved together, so sums may differ by rounding
    np.testing.assert_allclose(weights, alone.weights, rtol=1e-12, atol=1e-15)
    # a mean over other orders of the columns would be of no column
    assert np.abs(fit_factors(features, factors, groups=GROUP, split=SPLITS).weights - alone.weights).max() > 0.1


def test_effective_dimensions_are_those_of_the_first_fold_for_activations_and_codes_alike() -> None:
    (features, own), clips = turned(), clips_of()

    def sizes(units: np.ndarray, of: Clips = clips) -> list[float]:
        records = measure_representation(units, of, HeldOutSettings(), ABOUT).records
        return [record.value for record in records if record.metric == "effective_latents"]

    layer = as_of_folds(features, clips.folds, own=True)
    assert sizes(layer) == pytest.approx(sizes(own), rel=0.05)
    assert as_of_folds(features, clips.folds, own=False) is features
    # the mean over folds has weights in more dimensions: activations would seem less compact than codes
    assert all(shared > 1.1 * one for shared, one in zip(sizes(features), sizes(layer), strict=True))


def test_fit_probe_over_folds_adds_up_its_folds() -> None:
    features, label, _ = planted()
    found = fit_probe(features, label, groups=GROUP, split=SPLITS)
    alone = [fit_probe(features, label, groups=GROUP, split=split) for split in each_split(SPLITS)]
    np.testing.assert_array_equal(found.confusion, sum(probe.confusion for probe in alone))
    assert (found.n, found.groups) == ((label != "").sum(), GROUPS)
    assert found.valid_accuracy == pytest.approx(np.mean([probe.valid_accuracy for probe in alone]))


def test_fit_probe_leaves_out_a_class_of_one_group_only() -> None:
    features, label, _ = planted()
    label = np.where((GROUP == 0) & (label != ""), "rare", label)
    found = fit_probe(features, label, groups=GROUP, split=SPLITS)
    assert found.n == ((label != "") & (label != "rare")).sum()


@pytest.mark.parametrize(
    ("unknown", "reason"),
    [
        ([0, 5], None),
        ([1, 3], None),
        (
            [0, 1, 3, 5],
            "in a fold of the cross-fit, no clip of train has it; add recordings of each class by further groups",
        ),
    ],
)
def test_unprobeable_reason_names_a_fold_without_training_clips(unknown: list[int], reason: str | None) -> None:
    groups = [f"s{g}" for g in range(GROUPS)]
    rows = {name: pl.Series([None] * GROUPS, dtype=kind) for name, kind in COLUMNS.items()}
    levels = [[None if g in unknown else level for g in range(GROUPS)] for level in ("high", "low")]
    clips = pl.concat(
        pl.DataFrame(rows).with_columns(
            clip_id=pl.Series([f"{level}{g}" for g in groups]),
            group=pl.Series(groups),
            split=pl.lit("train"),
            fold=pl.Series([0, 1, 2, 3, 4, 0]),
            label_level=pl.Series(level, dtype=pl.String()),
        )
        for level in levels
    )
    assert unprobeable_reason(clips, clips["label_level"]) == reason


def test_fit_probe_skips_folds_without_the_label() -> None:
    features, label, _ = planted()
    label = np.where(np.isin(FOLD, [1, 3]), "", label)
    found = fit_probe(features, label, groups=GROUP, split=SPLITS)
    assert (found.n, found.groups) == ((label != "").sum(), GROUPS - 2)


def test_fit_factors_over_folds_predicts_each_from_the_others() -> None:
    features, _, factors = planted()
    found = fit_factors(features, factors, groups=GROUP, split=SPLITS)
    assert np.array_equal(np.isnan(found.predicted), np.isnan(factors))
    for split in each_split(SPLITS):
        alone = fit_factors(features, factors, groups=GROUP, split=split)
        np.testing.assert_array_equal(found.predicted[split == "test"], alone.predicted[split == "test"])
    known = ~np.isnan(factors[:, 0])
    error = (factors[known, 0] - found.predicted[known, 0]) ** 2
    away = (factors[known, 0] - found.centre[known, 0]) ** 2
    assert found.r2[0] == pytest.approx(1 - error.sum() / away.sum())
    assert found.n.tolist() == (~np.isnan(factors)).sum(axis=0).tolist()


def test_fit_ridge_scores_over_folds_have_one_row_per_group() -> None:
    features, _, _ = planted()
    targets = prepare_factors(clips_of(), {}, near_duplicates=0.999)
    found = fit_ridge_scores(features, targets, folds=4)
    assert found.squares.shape == (GROUPS, 2, 2)
    assert (r2_from_sums(found.squares.sum(axis=0)) > 0.3).all()
    for split in each_split(SPLITS):
        # the targets of all folds are those of all clips
        one = replace(targets, clips=replace(targets.clips, split=split, fold=None))
        alone = fit_ridge_scores(features, one, folds=4)
        np.testing.assert_allclose(found.squares[np.unique(GROUP[split == "test"])], alone.squares, rtol=1e-9)


def test_evaluate_task_over_folds_sums_over_every_group() -> None:
    features, label, _ = planted()
    task = single_label_task("level", label)

    def evaluate(split: np.ndarray):
        return evaluate_task(task, features, split=split, groups=GROUP, repeat=Repetitions(4), about=ABOUT)

    found = evaluate(SPLITS)
    assert found.records[0].groups == GROUPS
    assert found.records[0].n == (label != "").sum()
    for split in each_split(SPLITS):
        np.testing.assert_array_equal(found.sums[np.unique(GROUP[split == "test"])], evaluate(split).sums)


def test_evaluate_task_leaves_out_classes_that_no_fitted_clip_has() -> None:
    features, label, _ = planted()
    label = np.where((GROUP == 0) & (label != ""), "rare", label)
    task = single_label_task("level", label)
    found = evaluate_task(task, features, split=SPLITS[0], groups=GROUP, repeat=Repetitions(4), about=ABOUT)
    assert found.records[0].n == ((label != "") & (label != "rare") & (SPLITS[0] == "test")).sum()
    assert found.records[0].value > 0.8


def test_sparse_curves_over_folds_cover_every_group() -> None:
    features, label, factors = planted()
    curve = sparse_regression(features, factors, groups=GROUP, split=SPLITS, settings=SparseSettings((1, 4)))
    assert curve.groups.tolist() == [GROUPS, GROUPS]
    assert (curve.r2 > 0.3).all()
    probe = sparse_probe(features, label, groups=GROUP, split=SPLITS, settings=SparseProbeSettings((1, 4)))
    assert (probe.n, probe.groups) == ((label != "").sum(), GROUPS)
    assert probe.scores[0].value > 0.8


def test_score_representation_covers_every_group() -> None:
    features, _, _ = planted()
    targets = prepare_factors(clips_of(GROUP % 3), {}, near_duplicates=0.999)
    found = score_representation(features, targets, StrictSettings(sizes=(1, 2)))
    assert found.lasso.groups.tolist() == [GROUPS, GROUPS]
    assert np.isfinite(found.gaps).all()


def test_measure_representation_rests_on_every_group_with_cross_fitting_only() -> None:
    features, _, _ = planted()
    for fold, groups in ((FOLD, GROUPS), (None, 2)):
        records = measure_representation(features, clips_of(fold), HeldOutSettings(), ABOUT).records
        tested = [
            record for record in records if record.split == "test" and record.metric.startswith(("probe", "factor"))
        ]
        assert {record.groups for record in tested} == {groups}
