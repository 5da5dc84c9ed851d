"""Verdicts on the three claims, as data."""

import math
from dataclasses import replace

import pytest

from otoscope.protocols.claims import CompactnessClaim, LayerAndCodes, OrderingClaim, Reason, TaskClaim
from otoscope.protocols.comparison import Estimate, Verdict
from otoscope.protocols.strict.results import LayerLead


def number(
    value: float, low: float = math.nan, high: float = math.nan, null_high: float = math.nan, *, groups: int = 5
) -> Estimate:
    """Return an estimate over enough groups."""
    return Estimate(value, low, high, null_high, groups=groups)


@pytest.mark.parametrize(
    ("codes", "dense", "verdict", "reason"),
    [
        # the whole interval of the difference lies above -2 points, then above 0
        (number(0.80, 0.79, 0.81, 0.2), number(0.8, 0.79, 0.81), Verdict.HOLDS, Reason.LOSS_EXCLUDED),
        (number(0.81, 0.80, 0.82, 0.2), number(0.8, 0.79, 0.81), Verdict.HOLDS, Reason.LOSS_EXCLUDED),
        (number(0.85, 0.84, 0.86, 0.2), number(0.8, 0.79, 0.81), Verdict.HOLDS, Reason.GAIN),
        # a good point estimate alone decides nothing
        (
            number(0.79, 0.7, 0.88, 0.2),
            number(0.8, 0.7, 0.9),
            Verdict.UNDECIDED,
            Reason.LOSS_POSSIBLE,
        ),
        (number(0.85, 0.75, 0.95, 0.2), number(0.8, 0.7, 0.9), Verdict.UNDECIDED, Reason.LOSS_POSSIBLE),
        (number(0.7, 0.6, 0.85, 0.2), number(0.8, 0.7, 0.9), Verdict.UNDECIDED, Reason.LOSS_LIKELY),
        (number(0.8), number(0.8), Verdict.UNDECIDED, Reason.NO_INTERVAL),
        (number(0.8, 0.8, 0.8, 0.2, groups=2), number(0.8, 0.8, 0.8), Verdict.UNDECIDED, Reason.TOO_FEW_GROUPS),
        (number(0.5, 0.5, 0.5, 0.2, groups=1), number(0.8, 0.8, 0.8), Verdict.UNDECIDED, Reason.TOO_FEW_GROUPS),
        (number(0.5, 0.45, 0.55, 0.2), number(0.8, 0.75, 0.85), Verdict.FAILS, Reason.LOSS),
        # codes at chance fail for any layer
        (number(0.19, 0.1, 0.3, 0.2), number(0.2, 0.1, 0.3), Verdict.FAILS, Reason.AT_CHANCE),
    ],
)
def test_task_claim_is_decided_by_the_interval_of_the_change(
    codes: Estimate, dense: Estimate, verdict: Verdict, reason: Reason
):
    assert TaskClaim(dense, {0.95: codes}, "technique").decide() == (verdict, reason)


def test_task_claim_has_a_limit_only_if_the_densest_codes_are_best():
    codes = {0.9: number(0.8), 0.95: number(0.79)}
    claim = TaskClaim(number(0.8), codes, "technique", limit=number(0.95, 0.9, 0.99))
    assert (claim.sparsity, claim.better_sparsity) == (0.95, None)
    assert replace(claim, codes={0.75: number(0.6), 0.9: number(0.8)}).better_sparsity == 0.9


def sides(
    codes: Estimate, dense: Estimate, few: tuple[Estimate, Estimate] | None = None, factors: int = 9
) -> CompactnessClaim:
    completeness = LayerAndCodes(number(0.5), number(0.6))
    few_sides = None if few is None else LayerAndCodes(*few)
    return CompactnessClaim(completeness, dimensions=LayerAndCodes(dense, codes), few=few_sides, factors=factors)


NARROW, WIDE = number(5.0, 4.0, 6.0), number(20.0, 15.0, 25.0)


@pytest.mark.parametrize(
    ("claim", "verdict"),
    [
        (sides(NARROW, WIDE), Verdict.HOLDS),
        (sides(WIDE, NARROW), Verdict.FAILS),
        (sides(number(5.0, 4.0, 16.0), WIDE), Verdict.UNDECIDED),
        (sides(number(5.0), number(20.0)), Verdict.UNDECIDED),
        (sides(NARROW, WIDE, factors=0), Verdict.UNDECIDED),
        # few dimensions of the codes must predict as much as those of the layer
        (sides(NARROW, WIDE, (number(0.3, 0.2, 0.4), number(0.5, 0.45, 0.6))), Verdict.HOLDS),
        (sides(NARROW, WIDE, (number(0.5, 0.4, 0.6), number(0.45, 0.3, 0.55))), Verdict.UNDECIDED),
        (sides(NARROW, WIDE, (number(0.5, 0.45, 0.6), number(0.3, 0.2, 0.4))), Verdict.FAILS),
    ],
)
def test_compactness_claim_needs_disjoint_intervals(claim: CompactnessClaim, verdict: Verdict):
    judgement = claim.decide()
    assert judgement is not None
    assert judgement.verdict is verdict


@pytest.mark.parametrize(
    ("claim", "reason"),
    [
        (sides(NARROW, WIDE), Reason.FEWER_DIMENSIONS),
        (sides(WIDE, NARROW), Reason.MORE_DIMENSIONS),
        (sides(number(5.0, 4.0, 16.0), WIDE), Reason.DIMENSIONS_OVERLAP),
        (sides(NARROW, WIDE, factors=0), Reason.NO_COMMON_FACTOR),
        (sides(NARROW, WIDE, (number(0.5, 0.4, 0.6), number(0.45, 0.3, 0.55))), Reason.FEWER_BUT_LESS),
        (sides(NARROW, WIDE, (number(0.5, 0.45, 0.6), number(0.3, 0.2, 0.4))), Reason.LESS_FROM_FEW),
        (sides(replace(NARROW, groups=2), WIDE), Reason.TOO_FEW_GROUPS),
    ],
)
def test_compactness_claim_names_the_reason(claim: CompactnessClaim, reason: Reason):
    judgement = claim.decide()
    assert judgement is not None
    assert judgement.reason is reason


@pytest.mark.parametrize(("untrained", "learned"), [(5.5, False), (9.0, True)])
def test_compactness_claim_not_learned_if_untrained_codes_match(untrained: float, learned: bool):
    assert replace(sides(NARROW, WIDE), unlearned={"untrained_sae": number(untrained)}).learned is learned


@pytest.mark.parametrize(
    ("leads", "verdict"),
    [
        ([number(1.2, 0.4, 2.0, 0.3)], Verdict.HOLDS),
        ([number(1.2, 0.4, 2.0, 0.3), number(0.9, 0.1, 2.0, 0.3)], Verdict.HOLDS),
        ([number(1.2, 0.4, 2.0, 0.3), number(0.2, -0.1, 2.0, 0.3)], Verdict.UNDECIDED),
        # above 0, but permuted layers lead as far
        ([number(1.2, 0.4, 2.0, 1.5)], Verdict.UNDECIDED),
        ([number(1.2, 0.4, 2.0, 0.3), number(-1.0, -2.0, -0.1, 0.3)], Verdict.FAILS),
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
        (number(1.2, 0.4, 2.0, 0.3), number(0.5, -0.1, 1.0, 0.3), Verdict.HOLDS),
        (number(1.2, 0.4, 2.0, 0.3), number(0.2, -0.1, 1.0, 0.3), Verdict.UNDECIDED),
        (number(-1.2, -2.0, -0.4, 0.3), number(-0.5, -1.0, 0.1, 0.3), Verdict.FAILS),
        (number(-1.2, -2.0, -0.4, 0.3), number(-0.1, -0.5, 0.1, 0.3), Verdict.UNDECIDED),
        # the lead over blocks alone is missing or NaN
        (number(-1.2, -2.0, -0.4, 0.3), number(math.nan), Verdict.FAILS),
    ],
)
def test_ordering_claim_must_not_rest_on_the_input_layer(lead: Estimate, blocks: Estimate, verdict: Verdict):
    judgement = OrderingClaim(leads=[LayerLead("pitch", "formants", lead, blocks)]).decide()
    assert judgement is not None
    assert judgement.verdict is verdict
    assert (judgement.reason is Reason.RESTS_ON_INPUT) == (verdict is Verdict.UNDECIDED)


def test_claims_without_numbers_are_not_decided():
    assert CompactnessClaim(LayerAndCodes(number(0.5), number(0.6))).decide() is None
    assert OrderingClaim(early={"pitch": 4.0}).decide() is None
