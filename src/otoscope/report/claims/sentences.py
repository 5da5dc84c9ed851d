"""Text of the verdicts on the three claims: outcome and sentence."""

from typing import NamedTuple

from otoscope.formatting import comma_list, count, percent, sparsity
from otoscope.metrics.representation import representation_label
from otoscope.protocols.claims import (
    REQUIRED_RIVALS,
    Claims,
    CompactnessClaim,
    Judgement,
    OrderingClaim,
    Reason,
    TaskClaim,
)
from otoscope.protocols.comparison import Comparison, Estimate, Verdict
from otoscope.report.claims.notes import compactness_notes, ordering_notes, rival_notes, task_notes
from otoscope.report.estimates import (
    capitalised,
    decimal_with_interval,
    describe_lead_with_p,
    dimensions,
    interval,
    percent_with_interval,
    points,
    too_few,
)


class VerdictText(NamedTuple):
    """Verdict on a claim as the page shows it: outcome, reason, and notes."""

    outcome: str
    sentence: str
    notes: tuple[str, ...] = ()


NOT_ASKED = VerdictText(
    Verdict.NOT_ASKED,
    "This run has no numbers from held-out groups for this claim. To compute them, write a configuration with this "
    "audio under `corpus`, this model under `model`, at least two `extract.layers`, and `evaluate.protocols: "
    "[mariotte2025, strict]`, and run `otoscope run CONFIG.yaml`; `otoscope reproduce` alone does not compute them. "
    "Numbers from the study's own protocol cannot decide, for the reasons that its switches list.",
)

REQUIREMENTS = (
    "It needs a label that is probed, or a factor, and SAEs of the layer compared.",
    "It needs factors that the layer and its codes both predict.",
    "It needs at least two `extract.layers`, and factors of pitch and of formants or MFCC.",
)
"""Requirements of each claim."""


def describe_verdicts(claims: Claims, *, asked: bool = False) -> tuple[VerdictText, VerdictText, VerdictText]:
    """Return the verdict on each claim from held-out groups; `asked`: the run used the strict protocol."""
    task, compactness, ordering = (
        describe_task(claims.task),
        describe_compactness(claims.compactness),
        describe_ordering(claims.ordering),
    )
    if not asked:
        return task, compactness, ordering
    missing = (
        VerdictText(Verdict.NOT_MEASURED, f"This run cannot answer the question. {needs}") for needs in REQUIREMENTS
    )
    first, second, third = (
        other if text is NOT_ASKED else text for text, other in zip((task, compactness, ordering), missing, strict=True)
    )
    return first, second, third


OVER_FACTORS = "beyond the interval over factors; groups were not varied"
"""Basis of a comparison that is paired by factor."""

REASONS: dict[Reason, str] = {
    Reason.NOT_TESTABLE: ", but too few clips or groups can be permuted to tell either from chance",
    Reason.NO_INTERVAL: ", without an interval",
    Reason.LOSS: ", a loss of more than 2 points over the whole interval",
    Reason.GAIN: ", a gain, and the whole interval lies above 0",
    Reason.LOSS_LIKELY: ", more than the margin of 2 points, but the interval includes smaller losses",
    Reason.MORE_DIMENSIONS: f": the codes need more, {OVER_FACTORS}",
    Reason.LESS_FROM_FEW: f": few dimensions of the codes predict less, {OVER_FACTORS}",
    Reason.FEWER_DIMENSIONS: f": the codes need fewer, {OVER_FACTORS}",
    Reason.EQUALLY_FOR_RIVALS: (
        ": the codes need fewer than the layer, but not these, beyond the interval over factors; groups were not "
        "varied, and nothing here rests on what was learned"
    ),
    Reason.FEWER_BUT_LESS: (
        ": the codes spread over fewer, but a few of them predict more than 2 points less than a few of the layer's, "
        "within the interval"
    ),
    Reason.EARLIER: ". Each is beyond half a layer over its whole interval, and beyond chance over both together",
    Reason.RESTS_ON_INPUT: (
        ". That rests on layer 0, the input of the first block: over the outputs of blocks alone it does not exceed "
        "chance"
    ),
    Reason.LEAD_EXCLUDED: "",
    Reason.LEAD_UNCLEAR: ". An interval includes less than half a layer, or chance over all leads reaches as far",
}
"""Ends of sentences that depend on the reason alone."""


def describe_task(claim: TaskClaim | None) -> VerdictText:
    """Return the verdict on the first claim."""
    if claim is None:
        return NOT_ASKED
    judgement, codes, change = claim.decide(), claim.high, claim.change
    single, per_frame = " of a single seed" * (len(claim.seeds) == 1), " per frame" * claim.per_frame
    text = (
        f"At {sparsity(claim.sparsity)} sparsity{per_frame} the codes{single} reach "
        f"{percent_with_interval(codes)} on {claim.target}, the layer itself {percent_with_interval(claim.dense)}; "
        f"codes minus layer{' on the same clips' if change.bounded else ''}: {points(change)}"
    )
    reason = _task_reason(judgement, claim.dense, codes, change)
    return VerdictText(judgement.verdict, f"{text}{reason}.{_other_seeds(claim)}", tuple(task_notes(claim)))


def _other_seeds(claim: TaskClaim) -> str:
    """Return the difference at the sparsity with several seeds, where a single seed decides; empty otherwise."""
    most = max(claim.seed_counts, key=lambda level: claim.seed_counts[level], default=claim.sparsity)
    if claim.seed_counts.get(claim.sparsity, 1) > 1 or claim.seed_counts.get(most, 1) < 2:
        return ""
    change = claim.changes.get(most)
    if change is None or not change.bounded:
        return ""
    seeds = f"the mean of {claim.seed_counts[most]} seeds, with their spread"
    return f" At {sparsity(most)} sparsity, {seeds}: {points(change)}."


def _task_reason(judgement: Judgement, dense: Estimate, codes: Estimate, change: Estimate) -> str:
    gain = "a gain in this sample" if change.value > 0 else ""
    match judgement.reason:
        case Reason.NOTHING_TO_KEEP:
            return f", and permuted targets give the layer as much (up to {percent(dense.null_high)})"
        case Reason.AT_CHANCE:
            return f", and no more than permuted targets give (up to {percent(codes.null_high)})"
        case Reason.TOO_FEW_GROUPS:
            return f", but {too_few(change.groups, 'group')}"
        case Reason.LOSS_EXCLUDED:
            return f", {gain + ', ' if gain else ''}and the interval excludes a loss of 2 points"
        case Reason.LOSS_POSSIBLE:
            return f"{', ' + gain if gain else ''}, but the interval does not exclude a loss of 2 points"
        case reason:
            return REASONS[reason]


def describe_compactness(claim: CompactnessClaim | None) -> VerdictText:
    """Return the verdict on the second claim."""
    judgement = claim and claim.decide()
    if claim is None or claim.dimensions is None or judgement is None:
        return NOT_ASKED
    if judgement.reason is Reason.NO_COMMON_FACTOR:
        return VerdictText(
            judgement.verdict,
            f"No factor is predicted by both the layer and its codes{_lost_and_gained(claim)}, so there is nothing to "
            "compare.",
        )
    dense, codes = claim.dimensions.dense, claim.dimensions.codes
    at = f" at {sparsity(claim.sparsity)} sparsity" if claim.sparsity is not None else ""
    text = (
        f"On the {count(claim.factors, 'factor')} that both predict{_lost_and_gained(claim)}, the regression of a "
        f"factor spreads over {_spread(codes)} dimensions of the codes{at} and {_spread(dense)} of the layer "
        f"(geometric means{_ratio(claim.dimensions.change)})"
    )
    notes = tuple(compactness_notes(claim))
    match judgement.reason:
        case Reason.TOO_FEW_GROUPS:
            end = f": {too_few(min(dense.groups, codes.groups), 'group')}"
        case Reason.DIMENSIONS_UNCLEAR:
            end = f": the codes take {_leaning(claim.dimensions)}, but the interval of the ratio includes 1"
        case Reason.RIVALS_MISSING:
            missing = comma_list(representation_label(n) for n in REQUIRED_RIVALS if n not in claim.rivals)
            end = f": the codes need fewer, but `evaluate.strict.baselines` leaves out {missing}, so others may too"
        case reason:
            end = REASONS[reason]
    outcome: str = judgement.verdict
    if judgement.verdict is Verdict.EQUALLY:
        outcome = f"holds, but equally for {comma_list(map(representation_label, claim.equals))}"
    return VerdictText(outcome, f"{text}{end}.{_few_dimensions(claim)}", (*rival_notes(claim), *notes))


def _few_dimensions(claim: CompactnessClaim) -> str:
    """Return the second difference that decides, as a sentence after a blank; empty where it was not measured."""
    if claim.few is None or not claim.few.change.measured:
        return ""
    over = f", over {count(claim.few.codes.n, 'factor')}" if claim.few.codes.n else ""
    return (
        f" R² from the best {count(claim.few_k, 'dimension')} of each{over}, codes minus layer: "
        f"{points(claim.few.change)}."
    )


def _lost_and_gained(claim: CompactnessClaim) -> str:
    """Return the factors that only one side predicts, in brackets after a blank."""
    seeds = claim.dimensions is not None and len(claim.dimensions.seeds) > 1
    not_by_codes = "not every seed of the codes does" if seeds else "the codes do not"
    parts = [f"the layer predicts {claim.lost} more, which {not_by_codes}"] if claim.lost else []
    by_codes = "every seed of the codes predicts" if seeds else "the codes predict"
    parts += [f"{by_codes} {claim.gained} more, which the layer does not"] if claim.gained else []
    return f" ({'; '.join(parts)})" if parts else ""


def _ratio(change: Estimate) -> str:
    """Return the ratio of dimensions, paired by factor."""
    if not change.measured:
        return ""
    return f"; paired by factor, their ratio is {decimal_with_interval(change, 2)}"


def _leaning(sides: Comparison) -> str:
    if dimensions(sides.codes.value) == dimensions(sides.dense.value):
        return "as many"
    return "more dimensions rather than fewer" if sides.codes.value > sides.dense.value else "fewer dimensions"


def _spread(estimate: Estimate) -> str:
    return f"{dimensions(estimate.value)}{interval(estimate, dimensions)}"


NO_LEAD = "no such lead; the reverse is undecided"
"""Outcome of the third claim where an interval excludes the lead that it requires."""


def describe_ordering(claim: OrderingClaim | None) -> VerdictText:
    """Return the verdict on the third claim."""
    judgement = claim and claim.decide()
    if claim is None or judgement is None:
        return NOT_ASKED
    leads = map(describe_lead_with_p, claim.leads)
    match judgement.reason:
        case Reason.TOO_FEW_GROUPS:
            end = f": {too_few(claim.groups, 'group')}"
        case Reason.LATER:
            later = claim.reversed_leads
            after = comma_list(lead.second for lead in later)
            end = f". {capitalised(later[0].first)} comes after {after}, by more than half a layer over the interval"
        case Reason.LEAD_EXCLUDED:
            over = comma_list(lead.second for lead in claim.excluded_leads)
            text = f"{capitalised('; '.join(leads))}. The interval excludes a lead of half a layer over {over}"
            return VerdictText(NO_LEAD, f"{text}; a lead the other way is undecided.", tuple(ordering_notes(claim)))
        case reason:
            end = REASONS[reason]
    return VerdictText(judgement.verdict, f"{capitalised('; '.join(leads))}{end}.", tuple(ordering_notes(claim)))
