"""Verdicts on the three claims, as data."""

import math
from dataclasses import replace

import pytest

from otoscope.protocols.claims import (
    REQUIRED_RIVALS,
    RIVALS,
    CompactnessClaim,
    OrderingClaim,
    Reason,
    TaskClaim,
)
from otoscope.protocols.comparison import Comparison, Estimate, Verdict
from otoscope.protocols.strict.results import LayerLead


def number(
    value: float, low: float = math.nan, high: float = math.nan, null_high: float = math.nan, *, groups: int = 5
) -> Estimate:
    """Return an estimate over enough groups."""
    return Estimate(value, low, high, null_high, groups=groups)


@pytest.mark.parametrize(
    ("change", "verdict", "reason"),
    [
        # the whole interval of the paired difference lies above -2 points, then above 0
        (number(0.0, -0.01, 0.01), Verdict.HOLDS, Reason.LOSS_EXCLUDED),
        (number(0.01, -0.01, 0.03), Verdict.HOLDS, Reason.LOSS_EXCLUDED),
        (number(0.05, 0.03, 0.07), Verdict.HOLDS, Reason.GAIN),
        # a good point estimate alone decides nothing
        (number(-0.01, -0.1, 0.08), Verdict.UNDECIDED, Reason.LOSS_POSSIBLE),
        (number(0.05, -0.05, 0.15), Verdict.UNDECIDED, Reason.LOSS_POSSIBLE),
        (number(-0.1, -0.3, 0.1), Verdict.UNDECIDED, Reason.LOSS_LIKELY),
        (number(0.0), Verdict.UNDECIDED, Reason.NO_INTERVAL),
        (number(0.0, 0.0, 0.0, groups=2), Verdict.UNDECIDED, Reason.TOO_FEW_GROUPS),
        (number(-0.3, -0.3, -0.3, groups=1), Verdict.UNDECIDED, Reason.TOO_FEW_GROUPS),
        (number(-0.3, -0.35, -0.25), Verdict.FAILS, Reason.LOSS),
    ],
)
def test_task_claim_is_decided_by_the_interval_of_the_paired_change(change: Estimate, verdict: Verdict, reason: Reason):
    claim = TaskClaim(number(0.8, null_high=0.2), {0.95: number(0.8, null_high=0.2)}, "technique", {0.95: change})
    assert claim.decide() == (verdict, reason)


def test_task_claim_is_not_decided_by_codes_at_chance_without_a_loss_beyond_the_interval():
    claim = TaskClaim(number(0.2), {0.95: number(0.19, null_high=0.2)}, "technique", {0.95: number(-0.01, -0.02, 0.0)})
    assert claim.decide() == (Verdict.UNDECIDED, Reason.AT_CHANCE)
    lost = replace(claim, changes={0.95: number(-0.1, -0.15, -0.05)})
    assert lost.decide() == (Verdict.FAILS, Reason.LOSS)


@pytest.mark.parametrize("mean", [float("nan"), 0.3])
def test_task_claim_is_undecided_without_a_null(mean: float):
    """A null that was computed may reach 1, too."""
    layer = replace(number(0.8, null_high=1.0), null_mean=mean)
    claim = TaskClaim(layer, {0.95: layer}, "technique", {0.95: number(0.0, -0.01, 0.01)})
    untested = (Verdict.UNDECIDED, Reason.NOT_TESTABLE)
    kept = (Verdict.NOTHING_TO_KEEP, Reason.NOTHING_TO_KEEP)
    assert claim.decide() == (untested if math.isnan(mean) else kept)


def test_task_claim_has_a_limit_only_if_the_densest_codes_are_best():
    codes = {0.9: number(0.8), 0.95: number(0.79)}
    claim = TaskClaim(number(0.8), codes, "technique", limit=number(0.95, 0.9, 0.99))
    assert (claim.sparsity, claim.better_sparsity) == (0.95, None)
    assert replace(claim, codes={0.75: number(0.6), 0.9: number(0.8)}).better_sparsity == 0.9


def compared(metric: str, change: Estimate, **differences: Estimate) -> Comparison:
    """Return a comparison by its paired difference to the layer (ratio of dimensions) and to others."""
    others = {name: number(1.0) for name in differences}
    return Comparison(metric, "", number(1.0), number(1.0), others=others, differences={"dense": change, **differences})


COMPLETENESS = Comparison("completeness", "", number(0.5), number(0.6))


def sides(ratio: Estimate, few: Estimate | None = None, factors: int = 9, **ratios: Estimate) -> CompactnessClaim:
    """Return a claim by the ratio of dimensions and the difference of R2 from few dimensions.

    The same few dimensions predict 0.1 more than those of each rival; `ratios` replace the ratios to rivals.
    """
    rivals = dict.fromkeys(REQUIRED_RIVALS, FEWER) | ratios
    return CompactnessClaim(
        COMPLETENESS,
        dimensions=compared("effective_latents", ratio, **rivals),
        few=None if few is None else compared("sparse_r2", few, **dict.fromkeys(rivals, number(0.1, 0.05, 0.15))),
        factors=factors,
    )


FEWER, MORE, UNCLEAR = number(0.25, 0.2, 0.3), number(4.0, 3.0, 5.0), number(0.5, 0.2, 1.2)


@pytest.mark.parametrize(
    ("claim", "verdict", "reason"),
    [
        (sides(FEWER), Verdict.HOLDS, Reason.FEWER_DIMENSIONS),
        (sides(MORE), Verdict.FAILS, Reason.MORE_DIMENSIONS),
        (sides(UNCLEAR), Verdict.UNDECIDED, Reason.DIMENSIONS_UNCLEAR),
        (sides(number(0.25)), Verdict.UNDECIDED, Reason.DIMENSIONS_UNCLEAR),
        (sides(FEWER, factors=0), Verdict.UNDECIDED, Reason.NO_COMMON_FACTOR),
        (sides(replace(FEWER, groups=2)), Verdict.UNDECIDED, Reason.TOO_FEW_GROUPS),
        # few dimensions of the codes must predict as much as those of the layer
        (sides(FEWER, number(0.2, 0.1, 0.3)), Verdict.HOLDS, Reason.FEWER_DIMENSIONS),
        (sides(FEWER, number(-0.05, -0.2, 0.1)), Verdict.UNDECIDED, Reason.FEWER_BUT_LESS),
        (sides(FEWER, number(-0.2, -0.3, -0.1)), Verdict.FAILS, Reason.LESS_FROM_FEW),
        (sides(UNCLEAR, number(-0.2, -0.3, -0.1)), Verdict.FAILS, Reason.LESS_FROM_FEW),
    ],
)
def test_compactness_claim_is_decided_by_paired_intervals(claim: CompactnessClaim, verdict: Verdict, reason: Reason):
    assert claim.decide() == (verdict, reason)


@pytest.mark.parametrize("rival", RIVALS)
def test_compactness_claim_holds_equally_for_rivals_that_are_as_compact(rival: str):
    claim = sides(FEWER, **{rival: UNCLEAR})
    assert claim.decide() == (Verdict.EQUALLY, Reason.EQUALLY_FOR_RIVALS)
    assert claim.equals == [rival]


def test_compactness_claim_holds_equally_for_rivals_whose_few_dimensions_predict_more():
    claim = sides(FEWER, number(0.2, 0.1, 0.3))
    assert claim.few is not None
    better = {**claim.few.differences, "ica": number(-0.1, -0.2, 0.0)}
    assert replace(claim, few=replace(claim.few, differences=better)).equals == ["ica"]


@pytest.mark.parametrize("rival", REQUIRED_RIVALS)
def test_compactness_claim_is_undecided_without_a_rival(rival: str):
    whole = sides(FEWER)
    assert whole.dimensions is not None
    others = {name: estimate for name, estimate in whole.dimensions.others.items() if name != rival}
    claim = replace(whole, dimensions=replace(whole.dimensions, others=others))
    assert claim.decide() == (Verdict.UNDECIDED, Reason.RIVALS_MISSING)


@pytest.mark.parametrize(
    ("leads", "verdict"),
    [
        ([number(1.2, 0.6, 2.0, 0.3)], Verdict.HOLDS),
        ([number(1.2, 0.6, 2.0, 0.3), number(0.9, 0.55, 2.0, 0.3)], Verdict.HOLDS),
        ([number(1.2, 0.6, 2.0, 0.3), number(0.2, -0.1, 2.0, 0.3)], Verdict.UNDECIDED),
        # above 0, but not by half a layer
        ([number(1.2, 0.4, 2.0, 0.3)], Verdict.UNDECIDED),
        # beyond half a layer, but permuted layers lead as far
        ([number(1.2, 0.6, 2.0, 1.5)], Verdict.UNDECIDED),
        ([number(1.2, 0.6, 2.0, 0.3), number(-1.2, -2.0, -0.6, 0.3)], Verdict.FAILS),
        # the same rule the other way
        ([number(-1.2, -2.0, -0.4, 0.3)], Verdict.UNDECIDED),
        ([number(-1.2, -2.0, -0.6, 1.5)], Verdict.UNDECIDED),
        ([number(-0.1, -1.0, 1.0, 0.3)], Verdict.UNDECIDED),
    ],
)
def test_ordering_claim_needs_every_lead(leads: list[Estimate], verdict: Verdict):
    categories = ("formants", "mfcc")
    claim = OrderingClaim(leads=[LayerLead("pitch", *pair) for pair in zip(categories, leads, strict=False)])
    judgement = claim.decide()
    assert judgement is not None
    assert judgement.verdict is verdict


@pytest.mark.parametrize(
    ("lead", "blocks", "verdict"),
    [
        (number(1.2, 0.6, 2.0, 0.3), number(0.5, -0.1, 1.0, 0.3), Verdict.HOLDS),
        (number(1.2, 0.6, 2.0, 0.3), number(0.2, -0.1, 1.0, 0.3), Verdict.UNDECIDED),
        (number(-1.2, -2.0, -0.6, 0.3), number(-0.5, -1.0, 0.1, 0.3), Verdict.FAILS),
        (number(-1.2, -2.0, -0.6, 0.3), number(-0.1, -0.5, 0.1, 0.3), Verdict.UNDECIDED),
        # the lead over blocks alone is missing or NaN
        (number(-1.2, -2.0, -0.6, 0.3), number(math.nan), Verdict.FAILS),
    ],
)
def test_ordering_claim_must_not_rest_on_the_input_layer(lead: Estimate, blocks: Estimate, verdict: Verdict):
    judgement = OrderingClaim(leads=[LayerLead("pitch", "formants", lead, blocks)]).decide()
    assert judgement is not None
    assert judgement.verdict is verdict
    assert (judgement.reason is Reason.RESTS_ON_INPUT) == (verdict is Verdict.UNDECIDED)


@pytest.mark.parametrize(("p", "verdict"), [(0.05, Verdict.HOLDS), (0.051, Verdict.UNDECIDED)])
def test_ordering_claim_counts_chance_over_all_leads(p: float, verdict: Verdict):
    lead = LayerLead("pitch", "formants", number(1.2, 0.6, 2.0, 0.3), p=p)
    judgement = OrderingClaim(leads=[lead]).decide()
    assert judgement is not None
    assert judgement.verdict is verdict


def test_task_claim_has_nothing_to_keep_where_the_layer_is_at_chance():
    layer, codes = number(0.2, null_high=0.25), number(0.1, null_high=0.2)
    claim = TaskClaim(layer, {0.95: codes}, "technique", {0.95: number(-0.1, -0.15, -0.05)})
    assert claim.decide() == (Verdict.NOTHING_TO_KEEP, Reason.NOTHING_TO_KEEP)


def test_claims_without_numbers_are_not_decided():
    assert CompactnessClaim(COMPLETENESS).decide() is None
    assert OrderingClaim(early={"pitch": 4.0}).decide() is None
