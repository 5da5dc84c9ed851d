"""Numbers of the three claims from published tables, the study's protocol, and held-out groups."""

from dataclasses import replace
from typing import Any

import pytest

from otoscope.metrics.record import Record
from otoscope.protocols.claim_sources import (
    published_claims,
    reproduced_claims,
    strict_claims,
    study_preset_claims,
)
from otoscope.protocols.claims import Claims, OtherTargets, Reason
from otoscope.protocols.comparison import Verdict
from tests.support.claim_studies import difference, small_study, strict_study, strictly, table


def test_published_claims_are_means_over_the_eight_opened_layers() -> None:
    found = published_claims()
    assert found.task is not None
    assert found.task.layers == 8
    assert found.task.dense.value == pytest.approx((81.8 + 82 + 72.5 + 55 + 73 + 59.8 + 72.5 + 76.2) / 800)
    at_95 = (80 + 82.25 + 72.25 + 53.75 + 69.75 + 56.25 + 69.75 + 68.5) / 800
    assert found.task.codes[0.95].value == pytest.approx(at_95)
    assert found.compactness is not None
    assert found.compactness.completeness.codes.value == pytest.approx(0.6935)
    assert found.ordering is not None
    assert found.ordering.early["pitch"] == pytest.approx((4.8 + 3.7 + 3.7 + 3.5) / 4)
    assert found.ordering.late["formants"] == pytest.approx((2.0 + 2.7 + 0.7 + 3.0) / 4)


def test_reproduced_claims_are_means_over_opened_layers() -> None:
    found = reproduced_claims(table(small_study()))
    assert found.task is not None
    assert (found.task.dense.value, found.task.layers) == (pytest.approx(0.7), 2)
    assert found.task.losses == pytest.approx({0.75: 0.0, 0.95: -0.1})
    assert found.task.sparsity == 0.95
    assert found.compactness is not None
    assert found.compactness.completeness.dense.value == pytest.approx(0.52)
    assert found.ordering is not None
    assert (found.ordering.early["pitch"], found.ordering.late["pitch"]) == (3.0, 1.0)


def test_strict_claims_average_seeds_of_one_sae_per_sparsity() -> None:
    found = strict_claims(table(strict_study()))
    assert found.task is not None
    assert {s: n.value for s, n in found.task.codes.items()} == {
        0.75: pytest.approx(0.7895),
        0.95: pytest.approx(0.7895),
        0.99: pytest.approx(0.7895),
    }
    assert found.task.seed_counts == {0.75: 2, 0.95: 2, 0.99: 2}
    assert found.compactness is not None
    assert found.compactness.dimensions is not None
    assert found.compactness.dimensions.codes.value == pytest.approx(30**0.5)
    assert found.compactness.dimensions.seeds == (5.0, 6.0)
    assert (found.compactness.few_k, found.compactness.factors) == (4, 12)
    assert found.compactness.lower_from == [64]
    assert found.ordering is not None
    assert [lead.estimate.null_high for lead in found.ordering.leads] == [0.3]


def test_study_preset_claims_are_those_of_its_dictionaries_beside_another_preset() -> None:
    ours = [replace(r, preset="default") if r.sae_id else r for r in strict_study()]
    theirs = [
        replace(r, preset="mariotte2025", sae_id=f"study-{r.sae_id}", value=0.6)
        for r in strict_study()
        if r.metric == "task_balanced_accuracy" and r.representation == "sae" and r.sparsity != 0.75
    ]
    found = study_preset_claims(table([*ours, *theirs]))
    assert found.task is not None
    assert {s: n.value for s, n in found.task.codes.items()} == {0.95: 0.6, 0.99: 0.6}
    assert found.task.change.value == pytest.approx(-0.2)
    assert (found.compactness, found.ordering) == (None, None)
    assert study_preset_claims(table(ours)) == Claims(None, None, None)
    alone = [replace(r, preset="mariotte2025") if r.sae_id else r for r in strict_study()]
    assert study_preset_claims(table(alone)) == Claims(None, None, None)


def test_reproduced_claims_leave_out_other_presets() -> None:
    theirs = [replace(r, preset="mariotte2025") if r.representation == "sae" else r for r in small_study()]
    ours = [replace(r, preset="default", value=0.0) for r in small_study() if r.representation == "sae"]
    both = (reproduced_claims(table(records)) for records in ([*ours, *theirs], theirs))
    assert len({repr(claims) for claims in both}) == 1  # NaN is not equal to itself
    alone = reproduced_claims(table([r for r in [*theirs, *ours] if r.preset != "mariotte2025"]))
    assert alone.task is not None
    assert alone.task.high.value == 0.0


@pytest.mark.parametrize("records", [[], small_study()[:1], strict_study()[:1]])
def test_claims_are_none_where_numbers_are_missing(records: list[Record]) -> None:
    rows = table(records)
    assert reproduced_claims(rows) == strict_claims(rows) == Claims(None, None, None)


def test_strict_claims_find_other_targets_that_lose_and_the_best_baseline():
    codes: dict[str, Any] = {"sparsity": 0.95, "seed": 0, "sae_id": "layer01-k95-seed0"}
    named = {"sae_id": codes["sae_id"], "sparsity": 0.95}
    accuracy = "task_balanced_accuracy"
    records = [
        *strict_study(),
        strictly(accuracy, 0.9, "dense", target="vowel", low=0.89, high=0.91, null_high=0.3),
        strictly(accuracy, 0.8, "sae", target="vowel", low=0.79, high=0.81, **codes),
        strictly(accuracy, 0.9, "dense", target="gender", null_high=0.6),
        strictly(accuracy, 0.89, "sae", target="gender", **codes),
        difference(accuracy, -0.1, -0.12, -0.08, target="vowel", **named),
        difference(accuracy, -0.01, -0.1, 0.1, target="gender", **named),
        difference("task_r2", -0.1, -0.2, 0.0, target="f0", **named),
        difference(accuracy, -0.06, -0.07, -0.05, "pca", target="technique", **named),
        strictly("task_r2", 0.5, "dense", target="f0", null_high=0.1),
        strictly("task_r2", 0.4, "sae", target="f0", **codes),
        # nothing can be lost on a target that the layer does not predict
        strictly(accuracy, 0.3, "dense", target="take", null_high=0.35),
        strictly(accuracy, 0.1, "sae", target="take", **codes),
        strictly(accuracy, 0.85, "pca", target="technique", low=0.84, high=0.86, sparsity=0.99),
        strictly(accuracy, 0.7, "logmel", target="technique", low=0.6, high=0.8),
        strictly(accuracy, 0.99, "permuted", target="technique"),
    ]
    claim = strict_claims(table(records)).task
    assert claim is not None
    assert claim.seeds == (0.79, 0.789)
    assert claim.others is not None
    assert claim.others.count == 3
    losses = [(loss.target, round(loss.change.value, 9), loss.regression) for loss in claim.others.losses]
    assert losses == [("vowel", -0.1, False), ("f0", -0.1, True)]
    assert claim.best_baseline is not None
    assert (claim.best_baseline.representations, claim.best_baseline.sparsity) == (("pca",), 0.99)
    assert (claim.to_baseline.value, claim.change.value) == (-0.06, -0.0105)
    of_groups = [replace(r, null_mean=0.6) if (r.target, r.representation) == ("f0", "dense") else r for r in records]
    told = strict_claims(table(of_groups)).task
    assert told is not None
    assert told.others is not None
    assert [loss.told_by_groups for loss in told.others.losses] == [False, True]
    alone = strict_claims(table(strict_study())).task
    assert alone is not None
    assert (alone.best_baseline, alone.others) == (None, OtherTargets(0))
    kept = strict_claims(table([r for r in records if r.target not in ("vowel", "f0")])).task
    assert kept is not None
    assert kept.others == OtherTargets(1)
    worse = [replace(r, value=0.6, low=0.59, high=0.61) if r.representation == "pca" else r for r in records]
    best = strict_claims(table(worse)).task
    assert best is not None
    assert best.best_baseline is not None
    assert best.best_baseline.representations == ("logmel",)


def test_strict_claims_name_the_first_sparsity_beyond_the_margin():
    codes = [replace(r, preset="default") if r.representation == "sae" else r for r in strict_study()]
    at = {0.75: 0.79, 0.95: 0.78, 0.99: 0.7}
    codes = [replace(r, value=at[r.sparsity]) if r.preset and r.metric.startswith("task") else r for r in codes]
    limit = strictly("sparsity_limit", 0.95, "sae", target="default: task", preset="default")
    claim = strict_claims(table([*codes, limit])).task
    assert claim is not None
    assert claim.first_loss == 0.99


def test_strict_claims_count_the_factors_that_one_side_predicts():
    shares = [strictly("predicted_share", 0.7, "dense", n=20), strictly("mean_factor_r2", 0.4, "dense", n=17)]
    claim = strict_claims(table([*strict_study(), *shares])).compactness
    assert claim is not None
    assert (claim.factors, claim.lost, claim.gained) == (12, 2, 3)


def test_strict_claims_name_the_sparsity_of_tied_baselines():
    of = {"target": "technique", "null_high": 0.2}
    tied = [strictly("task_balanced_accuracy", 0.85, name, sparsity=0.95, **of) for name in ("nmf", "pca")]
    claim = strict_claims(table([*strict_study(), *tied])).task
    assert claim is not None
    assert claim.best_baseline is not None
    assert claim.best_baseline.sparsity == 0.95
    other = strictly("task_balanced_accuracy", 0.85, "logmel", **of)
    claim = strict_claims(table([*strict_study(), *tied, other])).task
    assert claim is not None
    assert claim.best_baseline is not None
    assert claim.best_baseline.sparsity is None


def test_strict_claims_on_two_groups_are_undecided():
    claims = strict_claims(table([replace(r, groups=2) for r in strict_study()]))
    for claim in claims:
        assert claim is not None
        assert claim.decide() == (Verdict.UNDECIDED, Reason.TOO_FEW_GROUPS)


def test_strict_claims_of_the_small_study_hold():
    verdicts = [
        claim and (judgement := claim.decide()) and judgement.verdict for claim in strict_claims(table(strict_study()))
    ]
    assert verdicts == [Verdict.HOLDS] * 3
