"""Structure over common factors: oracle codes score high, a rotation low, on the same factors."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from otoscope.config.strict import StrictSettings
from otoscope.metrics.record import Record
from otoscope.protocols.strict.differences import TaskScores, curve_differences, structure_differences, task_difference
from otoscope.protocols.strict.layers_and_limits import Level, limit_records
from otoscope.protocols.strict.regression import fit_ridge_scores, predicted_factors, predicted_share_records
from otoscope.protocols.strict.structure import (
    CommonFactors,
    RepresentationScores,
    common_factors,
    jackknife,
    mean_r2_records,
    score_representation,
    structure_records,
)
from otoscope.protocols.strict.tasks import FactorTargets, continuous_target, prepare_factors, single_label_task
from otoscope.runs.inputs import Clips

ABOUT = Record(metric="l0", value=0.0, split="test", representation="sae", layer=1)
SETTINGS = StrictSettings(sizes=(1, 2, 4), folds=3)


def world(n_factors: int = 6, seed: int = 0) -> tuple[FactorTargets, np.ndarray]:
    rng = np.random.default_rng(seed)
    groups = np.repeat([f"g{i:02d}" for i in range(15)], 12)
    split = np.repeat(["train", "valid", "test"], [96, 36, 48])
    factors = rng.standard_normal((180, n_factors))
    names = tuple(f"f{j}" for j in range(n_factors))
    clips = Clips(split, groups, {}, factors, names)
    return prepare_factors(clips, dict.fromkeys(names, "pitch"), near_duplicates=0.9), factors


def measured(targets: FactorTargets, units: np.ndarray) -> RepresentationScores:
    return score_representation(units.astype(np.float32), targets, SETTINGS)


@pytest.fixture(scope="module")
def known() -> dict[str, RepresentationScores]:
    targets, factors = world()
    rotation = np.linalg.qr(np.random.default_rng(5).standard_normal((6, 6)))[0]
    return {
        "oracle": measured(targets, factors),
        "rotated": measured(targets, factors @ rotation),
        "permuted": measured(targets, np.random.default_rng(7).permutation(factors)),
    }


def over_all(
    found: RepresentationScores, common: CommonFactors, null: RepresentationScores | None = None
) -> dict[str, Record]:
    return {r.metric: r for r in structure_records(found, common, ABOUT, null=null) if r.target == ""}


def test_structure_records_rank_factors_above_their_rotation(known: dict[str, RepresentationScores]):
    targets, _ = world()
    mask = common_factors(known["oracle"], [known["rotated"]], min_r2=0.1)
    assert mask.all()
    common = CommonFactors(mask, targets.names, 6.0)
    oracle, rotated = over_all(known["oracle"], common), over_all(known["rotated"], common)
    assert oracle["effective_latents"].value == pytest.approx(1.0, abs=0.2)
    assert rotated["effective_latents"].value > 2
    for metric in ("completeness", "disentanglement", "mig", "sap", "infom", "infoc"):
        assert oracle[metric].value > 0.8, metric
        assert oracle[metric].value > rotated[metric].value + 0.2, metric
    for record in (*oracle.values(), *rotated.values()):
        assert np.isnan(record.low) or record.low <= record.value <= record.high


def test_structure_records_use_permuted_codes_as_null(known: dict[str, RepresentationScores]):
    targets, _ = world()
    assert not predicted_factors(known["permuted"].lasso, 0.1).any()
    common = CommonFactors(np.ones(6, dtype=bool), targets.names, 6.0)
    with_null = over_all(known["oracle"], common, known["permuted"])
    assert with_null["sap"].null_mean < 0.3 or np.isnan(with_null["sap"].null_mean)
    assert np.isnan(with_null["relative_size"].null_mean)
    (share,) = predicted_share_records(known["permuted"].lasso, 0.1, ABOUT, among=common.mask)
    assert share.value == 0


def test_common_factors_excludes_factors_unpredicted_by_one_side(known: dict[str, RepresentationScores]):
    targets, factors = world()
    blind = factors.copy()
    blind[:, 2] = np.random.default_rng(3).standard_normal(len(blind))
    mask = common_factors(known["oracle"], [known["rotated"], measured(targets, blind)], min_r2=0.1)
    assert mask.tolist() == [True, True, False, True, True, True]
    records = list(structure_records(known["oracle"], CommonFactors(mask, targets.names, 5.0), ABOUT))
    assert "f2" not in {record.target for record in records}
    assert {record.n for record in records if record.target == "" and record.metric == "mig"} == {5}


def test_representation_scores_round_trip_through_arrays(known: dict[str, RepresentationScores]):
    again = RepresentationScores.from_arrays(known["oracle"].to_arrays())
    common = CommonFactors(np.ones(6, dtype=bool), tuple("abcdef"), 6.0)
    for metric, record in over_all(again, common).items():
        expected = over_all(known["oracle"], common)[metric].value
        assert record.value == pytest.approx(expected, rel=1e-5), metric


def test_jackknife_matches_the_error_of_a_mean():
    values = np.random.default_rng(0).standard_normal(50)
    common = CommonFactors(np.ones(50, dtype=bool), tuple(map(str, range(50))), 50.0)
    found = jackknife(lambda mask: float(values[mask].mean()), common)
    error = values.std(ddof=1) / np.sqrt(50)
    assert found.high - found.value == pytest.approx(stats.t.ppf(0.975, 49) * error, rel=1e-6)
    halved = jackknife(lambda mask: float(values[mask].mean()), common._replace(effective_rank=25.0))
    assert halved.high - halved.value == pytest.approx(stats.t.ppf(0.975, 24) * error * np.sqrt(2), rel=1e-6)


def test_structure_differences_are_paired_by_factor(known: dict[str, RepresentationScores]):
    """A code that is the oracle with a little noise differs little from it on every factor, whatever the factor."""
    targets, factors = world()
    noisy = factors + 0.3 * np.random.default_rng(4).standard_normal(factors.shape)
    common, other = CommonFactors(np.ones(6, dtype=bool), targets.names, 6.0), measured(targets, noisy)
    found = {
        (r.metric, r.dimensions): r
        for r in (
            *structure_differences([known["rotated"]], other, common, ABOUT),
            *curve_differences([known["rotated"]], other, common, SETTINGS.sizes, ABOUT),
        )
    }
    ratio, one = found["effective_latents_ratio", None], found["sparse_r2_difference", 1]
    assert 1 < ratio.low < ratio.value
    assert one.high < -0.2
    again = structure_differences([known["oracle"]] * 2, known["oracle"], common, ABOUT)
    for record in again:
        neutral = 1.0 if record.metric.endswith("ratio") else 0.0
        assert (record.low, record.value, record.high) == (neutral, neutral, neutral), record.metric


def test_task_difference_of_equal_answers_is_bounded_by_the_number_of_clips():
    labels = np.tile(["a", "b"], 90)
    task = single_label_task("vowel", labels)
    right = TaskScores(np.zeros((4, 2, 2)) + 6.0, np.full(48, 1 / 48))
    found = task_difference(task, [right, right], right, ABOUT)
    assert (found.value, found.groups) == (0.0, 4)
    assert found.high == -found.low == pytest.approx(1 - 0.025 ** (1 / 48))


def test_fit_ridge_scores_handles_missing_values():
    targets, factors = world()
    values = targets.values.copy()
    values[::7, 1] = np.nan
    part = dataclasses.replace(targets, values=values)
    linear = fit_ridge_scores(factors, part, folds=3)
    (record,) = mean_r2_records(linear, CommonFactors(np.ones(6, dtype=bool), targets.names, 6.0), ABOUT)
    assert record.value > 0.9
    assert record.null_mean < 0.1
    assert (linear.held_r2 > 0.9).all()
    assert linear.squares.shape == (4, 6, 2)


def test_continuous_target_prefers_a_pitch():
    targets, _ = world()
    assert continuous_target(targets, None) == "f0"
    assert continuous_target(targets, "f3") == "f3"


def test_prepare_factors_without_usable_factors_is_empty():
    targets, _ = world()
    bare = dataclasses.replace(targets.clips, factors=np.ones((180, 1)), factor_names=("still",))
    assert prepare_factors(bare, {}, near_duplicates=0.9).names == ()
    assert continuous_target(prepare_factors(bare, {}, near_duplicates=0.9), None) is None


def test_limit_records_have_no_limit_where_a_sparser_level_is_better():
    levels = {s: Level(value, np.full(4, value)) for s, value in {0.75: 0.3, 0.9: 0.6, 0.99: 0.55}.items()}
    limit, knee = limit_records(levels, kind="factors", target="default: factors", about=ABOUT)
    assert np.isnan([limit.value, limit.low, limit.high]).all()
    assert knee.metric == "sparsity_knee"
    levels[0.75] = Level(0.61, np.full(4, 0.61))
    assert next(limit_records(levels, kind="factors", target="default: factors", about=ABOUT)).value == 0.9


def test_structure_records_take_the_null_of_infomec_from_random_directions(known: dict[str, RepresentationScores]):
    targets, _ = world()
    common = CommonFactors(np.ones(6, dtype=bool), targets.names, 6.0)
    records = structure_records(known["oracle"], common, ABOUT, null=known["permuted"], random=known["rotated"])
    found = {record.metric: record for record in records if record.target == ""}
    rotated = over_all(known["rotated"], common)
    for metric in ("infom", "infoc"):
        assert found[metric].null_mean == rotated[metric].value
    assert found["sap"].null_mean != rotated["sap"].value
