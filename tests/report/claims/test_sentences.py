"""Sentences and notes of the verdicts."""

from dataclasses import replace

import polars as pl
import pytest

from otoscope.protocols.claims import (
    REQUIRED_RIVALS,
    Claims,
    CompactnessClaim,
    OrderingClaim,
    OtherTargets,
    Reason,
    TargetLoss,
    TaskClaim,
)
from otoscope.protocols.comparison import Baseline, Comparison, Estimate, Verdict
from otoscope.protocols.strict.results import LayerLead
from otoscope.report.claims.sentences import (
    REASONS,
    describe_compactness,
    describe_ordering,
    describe_task,
    describe_verdicts,
)


def estimate(value: float, low: float = float("nan"), high: float = float("nan"), null_high: float = float("nan")):
    """Return an estimate on enough groups."""
    return Estimate(value, low, high, null_high, groups=5)


TASK = TaskClaim(
    estimate(0.8, 0.79, 0.81), {0.95: estimate(0.8, 0.79, 0.81, 0.2)}, "technique", {0.95: estimate(0.0, -0.01, 0.01)}
)
RATIO = dict.fromkeys(("dense", *REQUIRED_RIVALS), estimate(0.25, 0.2, 0.31))
RIVALS = dict.fromkeys(REQUIRED_RIVALS, estimate(20.0))
DIMENSIONS = Comparison(
    "effective_latents", "", estimate(20.0, 15.0, 25.0), estimate(5.0, 4.0, 6.0), others=RIVALS, differences=RATIO
)
COMPACT = CompactnessClaim(
    Comparison("completeness", "", estimate(0.4), estimate(0.6)), dimensions=DIMENSIONS, factors=9
)
ORDER = OrderingClaim(leads=[LayerLead("pitch", "formants", estimate(1.2, 0.6, 2.0, 0.3), estimate(0.5, -0.1, 1.0))])


@pytest.mark.parametrize(
    ("change", "end"),
    [
        (estimate(0.0, -0.01, 0.01), ", and the interval excludes a loss of 2 points."),
        (estimate(0.01, -0.01, 0.03), ", a gain in this sample, and the interval excludes a loss of 2 points."),
        (estimate(0.05, 0.03, 0.07), ", a gain, and the whole interval lies above 0."),
        (estimate(-0.01, -0.1, 0.08), ", but the interval does not exclude a loss of 2 points."),
        (estimate(0.05, -0.1, 0.2), ", a gain in this sample, but the interval does not exclude a loss of 2 points."),
        (replace(estimate(0.0, 0.0, 0.0), groups=1), ", but 1 group is too few to decide (at least 3)."),
    ],
)
def test_describe_task_ends_with_the_reason(change: Estimate, end: str):
    sentence = describe_task(replace(TASK, changes={0.95: change})).sentence
    assert sentence.startswith("At 95\xa0% sparsity the codes reach ")
    assert sentence.endswith(end)


def test_describe_task_gives_a_difference_and_its_interval_the_same_sign():
    sentence = describe_task(replace(TASK, changes={0.95: estimate(-0.008, -0.057, 0.038)})).sentence
    assert "; codes minus layer on the same clips: −0.8 points (−5.7 to +3.8), but" in sentence


def test_describe_task_at_chance():
    sentence = describe_task(replace(TASK, codes={0.95: estimate(0.19, 0.1, 0.3, 0.2)})).sentence
    assert sentence.endswith(", and no more than permuted targets give (up to 20.0\xa0%).")


def test_describe_task_of_a_layer_at_chance():
    text = describe_task(replace(TASK, dense=estimate(0.3, 0.2, 0.4, 0.35), readers={"dense": "ridge", "sae": "LASSO"}))
    assert text.outcome == "nothing to keep"
    assert text.sentence.endswith(", and permuted targets give the layer as much (up to 35.0\xa0%).")
    assert "The layer is read by ridge, the codes by LASSO, each chosen on groups left out." in text.notes


def test_every_reason_has_a_sentence():
    special = {
        *(Reason.TOO_FEW_GROUPS, Reason.AT_CHANCE, Reason.LOSS_EXCLUDED, Reason.LOSS_POSSIBLE),
        *(
            Reason.NOTHING_TO_KEEP,
            Reason.RIVALS_MISSING,
            Reason.NO_COMMON_FACTOR,
            Reason.DIMENSIONS_UNCLEAR,
            Reason.LATER,
        ),
    }
    assert set(REASONS) | special == set(Reason)


def test_describe_task_notes_seeds_other_targets_and_the_best_baseline():
    claim = replace(
        TASK,
        seeds=(0.789, 0.79),
        others=OtherTargets(
            3,
            (
                TargetLoss("vowel", estimate(-0.1, -0.114, -0.086)),
                TargetLoss("f0", estimate(-0.1), regression=True),
                TargetLoss("jitter", estimate(-0.2), regression=True, told_by_groups=True),
            ),
        ),
        best_baseline=Baseline(("pca",), estimate(0.85, 0.84, 0.86), 0.99),
        to_baseline=estimate(-0.05, -0.06, -0.04),
    )
    notes = " ".join(describe_task(claim).notes)
    assert "The value of the codes is the mean of 2 seeds, ranging from 78.9\xa0% to 79.0\xa0%." in notes
    assert "are more than 2 points lower on 3 of 3 other targets, over the whole interval on 1: vowel" in notes
    assert "vowel −10.0 points (−11.4 to −8.6); f0 (R²) −10.0 points" in notes
    assert "jitter (R², which mostly tells groups apart) −20.0 points." in notes
    assert (
        "The best baseline reaches more: principal components (matched to codes at 99\xa0% sparsity), 85.0\xa0% "
        "(84.0\xa0% to 86.0\xa0%); codes minus this on the same clips: −5.0 points (−6.0 to −4.0)."
    ) in notes
    uncertain = " ".join(describe_task(replace(claim, to_baseline=estimate(-0.05, -0.2, 0.1))).notes)
    assert "The best baseline is principal components (matched" in uncertain
    tied = replace(claim, best_baseline=Baseline(("nmf", "frozen_decoder"), estimate(0.85), 0.9))
    assert "non-negative parts and SAE with random atoms (matched to codes at 90\xa0% sparsity), 85.0\xa0%" in " ".join(
        describe_task(tied).notes
    )
    best = Baseline(("logmel",), estimate(0.7, 0.6, 0.8))
    lower = replace(claim, best_baseline=best, to_baseline=estimate(0.09, 0.05, 0.13), others=OtherTargets(1))
    notes = " ".join(describe_task(lower).notes)
    assert "The best baseline is log-mel statistics, 70.0\xa0% (60.0\xa0% to 80.0\xa0%)" in notes
    assert "The same codes are more than 2 points lower on none of 1 other target" in notes
    assert not describe_task(TASK).notes


@pytest.mark.parametrize(
    ("change", "established"),
    [
        (estimate(-0.1, -0.114, -0.086), "1"),
        # below 0, but not below the margin
        (estimate(-0.025, -0.045, -0.006), "none"),
        (replace(estimate(-0.1, -0.114, -0.086), groups=2), "none"),
        (estimate(-0.1), "none"),
    ],
)
def test_describe_task_counts_losses_on_other_targets_by_the_rule_of_the_claim(change: Estimate, established: str):
    notes = " ".join(describe_task(replace(TASK, others=OtherTargets(3, (TargetLoss("vowel", change),)))).notes)
    assert f"lower on 1 of 3 other targets, over the whole interval on {established}: vowel" in notes


def test_describe_task_states_that_the_codes_are_of_a_single_seed():
    start = "At 95\xa0% sparsity the codes of a single seed reach 80.0"
    assert describe_task(replace(TASK, seeds=(0.8,))).sentence.startswith(start)


def test_describe_task_notes_the_sparsity_limit():
    limited = replace(TASK, codes={0.9: estimate(0.8), 0.95: estimate(0.79)}, limit=estimate(0.95, 0.9, 0.99))
    assert "up to 95\xa0% sparsity (90\xa0% to 99\xa0%)" in " ".join(describe_task(limited).notes)
    levels = {s: estimate(0.79) for s in (0.75, 0.9, 0.95)}
    spanned = " ".join(describe_task(replace(limited, codes=levels, limit=estimate(0.95, 0.75, 0.95))).notes)
    assert "is undetermined: its interval covers 75\xa0% to 95\xa0%." in spanned
    at_chance = replace(limited, dense=estimate(0.3, 0.2, 0.4, 0.35))
    assert "sparsity (90" not in " ".join(describe_task(at_chance).notes)
    steep = replace(limited, limit=estimate(0.9, 0.9, 0.9), first_loss=0.95)
    assert (
        "More than 2 points are lost against the densest codes (90\xa0% sparsity, 80.0\xa0%) at 95\xa0% sparsity."
    ) in describe_task(steep).notes
    wide = replace(steep, limit=estimate(0.9, 0.9, 0.99), seed_counts={0.9: 5, 0.95: 1})
    assert (
        "In the first seed, more than 2 points are lost against the densest codes (90\xa0% sparsity) at 95\xa0% "
        "sparsity; the limit lies between 90\xa0% and 99\xa0%: undecided."
    ) in describe_task(wide).notes
    better = replace(limited, codes={0.75: estimate(0.6), 0.9: estimate(0.8)})
    beaten = " ".join(describe_task(better).notes)
    assert "sparser codes (80.0\xa0% at 90\xa0%) are above the densest codes (75\xa0% sparsity, 60.0\xa0%)" in beaten
    of_seeds = " ".join(describe_task(replace(better, seed_counts={0.75: 5, 0.9: 1})).notes)
    assert (
        "(80.0\xa0% at 90\xa0%, one seed) are above the densest codes (75\xa0% sparsity, 60.0\xa0%, mean of 5"
        in of_seeds
    )


def test_describe_compactness_names_rivals_with_their_ratio():
    text = describe_compactness(COMPACT)
    assert text.outcome is Verdict.HOLDS
    assert "paired by factor, their ratio is 0.25 (0.20 to 0.31)" in text.sentence
    assert text.sentence.endswith(": the codes need fewer, beyond the interval over factors; groups were not varied.")
    assert "of the codes at 75\xa0% sparsity and" in describe_compactness(replace(COMPACT, sparsity=0.75)).sentence
    assert "the same factors take 20.0 of SAE before training (0.25, 0.20 to 0.31), 20.0 of principal" in text.notes[0]


@pytest.mark.parametrize(
    ("seeds", "said"),
    [
        (
            (5.0, 6.0),
            "(the layer predicts 6 more, which not every seed of the codes does; every seed of the codes predicts 3 "
            "more, which the layer does not)",
        ),
        ((5.0,), "(the layer predicts 6 more, which the codes do not; the codes predict 3 more, which the layer does"),
    ],
)
def test_describe_compactness_counts_the_factors_that_one_side_predicts(seeds: tuple[float, ...], said: str):
    claim = replace(COMPACT, dimensions=replace(DIMENSIONS, seeds=seeds), lost=6, gained=3)
    assert f"On the 9 factors that both predict {said}" in describe_compactness(claim).sentence


def test_describe_compactness_names_the_dimensions_from_which_the_codes_predict_less():
    few = Comparison("sparse_r2", "", estimate(0.4, 0.3, 0.5), estimate(0.35, 0.3, 0.4))
    notes = " ".join(describe_compactness(replace(COMPACT, few=few, lower_from=[8, 16])).notes)
    assert "(intervals over factors). The codes predict less, beyond the interval, from 8 and 16 dimensions." in notes


def test_describe_compactness_states_the_difference_from_few_dimensions_that_decides():
    change = {"dense": estimate(-0.052, -0.135, 0.031), "pca": estimate(0.01, -0.02, 0.04)}
    few = Comparison("sparse_r2", "", estimate(0.2), replace(estimate(0.15), n=24), differences=change)
    text = describe_compactness(replace(COMPACT, few=few))
    said = "R² from the best 4 dimensions of each, over 24 factors, codes minus layer: −5.2 points (−13.5 to +3.1)."
    assert text.sentence.endswith(said)
    of_rivals = (
        "R² from the best 4 dimensions of each, codes minus these: principal components +1.0 points (−2.0 to +4.0)."
    )
    assert of_rivals in text.notes


@pytest.mark.parametrize(
    ("low", "end"), [(0.83, ": the layer's factors take as many without learned atoms."), (1.1, ".")]
)
def test_describe_compactness_compares_codes_that_take_more_with_as_many_random_directions(low: float, end: str):
    others = {**DIMENSIONS.others, "random_topk": estimate(84.7)}
    ratios = {**RATIO, "dense": estimate(1.39, 1.17, 1.66), "random_topk": estimate(1.2, low, 1.4)}
    text = describe_compactness(replace(COMPACT, dimensions=replace(DIMENSIONS, others=others, differences=ratios)))
    assert text.outcome is Verdict.FAILS
    said = f"As many random directions as latents take 84.7 dimensions (1.20, {low:.2f} to 1.40){end}"
    assert said in text.notes
    assert "random directions" not in " ".join(describe_compactness(COMPACT).notes)


def test_describe_compactness_names_rivals_that_are_as_compact():
    differences = {**RATIO, "ica": estimate(0.9, 0.7, 1.2), "start": estimate(1.0, 1.0, 1.0)}
    text = describe_compactness(replace(COMPACT, dimensions=replace(DIMENSIONS, differences=differences)))
    assert text.outcome == "holds, but equally for SAE before training and independent components"
    assert text.sentence.endswith("nothing here rests on what was learned.")
    alone = replace(DIMENSIONS, others={"pca": estimate(20.0)})
    sentence = describe_compactness(replace(COMPACT, dimensions=alone)).sentence
    assert "leaves out SAE before training and independent components, so others may too" in sentence


def test_describe_ordering_gives_leads_with_and_without_layer_0():
    text = describe_ordering(ORDER)
    assert text.sentence.startswith("The centre of pitch lies 1.20 layers before that of formants (0.60 to 2.00 before")
    assert text.notes[0].startswith("Without layer 0")
    alone = OrderingClaim(leads=[replace(ORDER.leads[0], blocks=estimate(float("nan")))])
    assert not describe_ordering(alone).notes
    resting = OrderingClaim(leads=[replace(ORDER.leads[0], blocks=estimate(0.2, -0.1, 1.0, 0.3))])
    assert "rests on layer 0" in describe_ordering(resting).sentence


def test_describe_ordering_states_the_null_means_by_layer():
    curves = {"target": ["pitch"] * 2 + ["mfcc"] * 2, "layer": [1, 0, 0, 1], "null_mean": [0.037, 0.061, 0.0, 0.0]}
    table = pl.DataFrame({**curves, "value": [0.037, 0.561, 0.1, 0.3]})
    leads = [replace(lead, second="mfcc") for lead in ORDER.leads]
    notes = describe_ordering(replace(ORDER, leads=leads, curves=table)).notes
    said = (
        "permuted targets keep; null means by layer: pitch 0.06 and 0.04; mfcc 0.00 and 0.00. With these subtracted, "
        "the centre of pitch lies 0.75 layers before that of mfcc."
    )
    assert any(note.endswith(said) for note in notes)


@pytest.mark.parametrize(("high", "excluded"), [(0.4, True), (0.6, False)])
def test_describe_ordering_says_where_the_claimed_lead_is_excluded(high: float, excluded: bool):
    claim = OrderingClaim(leads=[LayerLead("pitch", "formants", estimate(-0.2, -0.7, high, 0.3), p=0.2)])
    text = describe_ordering(claim)
    assert (text.outcome == "no such lead; the reverse is undecided") is excluded
    assert ("The interval excludes a lead of half a layer over formants" in text.sentence) is excluded
    judgement = claim.decide()
    assert judgement is not None
    assert judgement.verdict is Verdict.UNDECIDED


def test_describe_task_adds_the_mean_over_seeds_where_a_single_seed_decides():
    codes = {0.9: estimate(0.75), 0.95: estimate(0.79)}
    changes = {0.9: estimate(-0.05, -0.19, 0.07), 0.95: estimate(-0.01, -0.06, 0.04)}
    claim = TaskClaim(estimate(0.8, 0.7, 0.9, 0.2), codes, "digit", changes, seed_counts={0.9: 5, 0.95: 1})
    text = describe_task(claim)
    assert text.sentence.endswith(
        " At 90\xa0% sparsity, the mean of 5 seeds, with their spread: −5.0 points (−19.0 to +7.0)."
    )
    assert any("only a gain of 3.0 points or more could have excluded" in note for note in text.notes)
    assert describe_task(replace(claim, per_frame=True)).sentence.startswith("At 95\xa0% sparsity per frame the codes")
    several = describe_task(replace(claim, seed_counts={0.9: 5, 0.95: 5}))
    assert "the mean of" not in several.sentence


def test_describe_verdicts_of_missing_claims_say_what_they_need():
    missing = describe_verdicts(Claims(None, None, None), asked=True)
    assert [text.outcome for text in missing] == [Verdict.NOT_MEASURED] * 3
    assert "at least two `extract.layers`" in missing[2].sentence
    absent = describe_verdicts(Claims(None, None, None))
    assert [text.outcome for text in absent] == [Verdict.NOT_ASKED] * 3
    assert all("evaluate.protocols: [mariotte2025, strict]" in text.sentence for text in absent)
