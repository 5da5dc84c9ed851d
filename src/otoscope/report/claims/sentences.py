"""Text of the verdicts on the three claims: outcome, sentence, and notes that inform without changing the outcome."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from otoscope import formatting
from otoscope.formatting import comma_list, count, percent, sparsity
from otoscope.metrics.representation import representation_label
from otoscope.protocols.claims import (
    REQUIRED_RIVALS,
    Claims,
    CompactnessClaim,
    Judgement,
    OrderingClaim,
    Reason,
    TargetLoss,
    TaskClaim,
)
from otoscope.protocols.comparison import MARGIN, Comparison, Estimate, Relation, Verdict
from otoscope.report.estimates import (
    capitalised,
    decimal_with_interval,
    describe_lead,
    describe_lead_with_p,
    describe_lower_from,
    describe_readers,
    dimensions,
    interval,
    percent_with_interval,
    points,
    predicted_by_either,
    seed_range,
    spans_levels,
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
    Reason.LEAD_UNCLEAR: ". An interval includes less than half a layer, or chance over all leads reaches as far",
}
"""Ends of sentences that depend on the reason alone."""


def describe_task(claim: TaskClaim | None) -> VerdictText:
    """Return the verdict on the first claim."""
    if claim is None:
        return NOT_ASKED
    judgement, codes, change = claim.decide(), claim.high, claim.change
    text = (
        f"At {sparsity(claim.sparsity)} sparsity the codes{' of a single seed' if len(claim.seeds) == 1 else ''} reach "
        f"{percent_with_interval(codes)} on {claim.target}, the layer itself {percent_with_interval(claim.dense)}; "
        f"codes minus layer{' on the same clips' if change.bounded else ''}: {points(change)}"
    )
    return VerdictText(
        judgement.verdict, f"{text}{_task_reason(judgement, claim.dense, codes, change)}.", tuple(_task_notes(claim))
    )


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
    notes = tuple(_compactness_notes(claim))
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
    return VerdictText(outcome, f"{text}{end}.{_few_dimensions(claim)}", (*_rival_notes(claim), *notes))


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
        case reason:
            end = REASONS[reason]
    return VerdictText(judgement.verdict, f"{capitalised('; '.join(leads))}{end}.", tuple(_ordering_notes(claim)))


def _task_notes(claim: TaskClaim) -> Iterator[str]:
    """Yield seeds, the worth of one clip, the sparsity limit, the best baseline, and other targets."""
    yield from _seed_notes("The value of the codes", claim.seeds, percent)
    if claim.test_clips and 2 / claim.test_clips >= MARGIN:
        yield (
            f"One of the {claim.test_clips} test clips moves an accuracy by {100 / claim.test_clips:.1f} points; the "
            f"margin is {100 * MARGIN:.0f}."
        )
    if claim.readers:
        yield f"{capitalised(describe_readers(claim.readers))}."
    yield from _limit_notes(claim)
    yield from _baseline_notes(claim)
    if claim.others is None or not claim.others.count:
        return
    others = count(claim.others.count, "other target")
    if losses := claim.others.losses:
        each = [f"{loss.target}{_kind(loss)} {points(loss.change)}" for loss in losses]
        yield (
            f"The same codes are more than 2 points lower on {len(each)} of {others}, over the whole interval on "
            f"{claim.others.established or 'none'}: {'; '.join(each)}."
        )
    else:
        yield f"The same codes are more than 2 points lower on none of {others}."


def _kind(loss: TargetLoss) -> str:
    if not loss.regression:
        return ""
    return " (R², which mostly tells groups apart)" if loss.told_by_groups else " (R²)"


def _seed_notes(subject: str, values: Sequence[float], text_of: Callable[[float], str]) -> Iterator[str]:
    if text := seed_range(values, text_of):
        yield f"{subject} is the {text}."
    elif values:
        yield f"{subject} comes from a single seed; its interval leaves out the spread over seeds."


def _limit_notes(claim: TaskClaim) -> Iterator[str]:
    """Yield the sparsity up to which codes match the densest codes."""
    limit, densest = claim.limit, min(claim.codes)
    if limit is None or len(claim.codes) < 2 or claim.dense.at_chance or claim.codes[densest].at_chance:
        return  # codes at chance lose nothing
    codes = f"the densest codes ({sparsity(densest)} sparsity"
    base = f"{codes}, {percent(claim.codes[densest].value)})"
    if (better := claim.better_sparsity) is not None:
        above = f"{percent(claim.codes[better].value)} at {sparsity(better)}{_of_seeds(claim, better)}"
        yield (
            f"The sparsity limit cannot be determined: sparser codes ({above}) are above {codes}, "
            f"{percent(claim.codes[densest].value)}{_of_seeds(claim, densest)}), so a loss against these means little."
        )
        return
    if not limit.measured:
        return
    if spans_levels(limit, claim.codes):
        covered = interval(limit, sparsity).strip(" ()")
        yield f"The sparsity limit against {codes}) is undetermined: its interval covers {covered}."
        return
    seed = ""
    if max(claim.seed_counts.values(), default=1) > 1:  # the limit is that of the first seed, values are means
        seed, base = "in the first seed, ", f"{codes})"
    if limit.value > densest:
        text = f"no more than 2 points are lost against {base} up to {sparsity(limit.value)} sparsity"
        text += interval(limit, sparsity)
    elif claim.first_loss is None:
        return
    else:
        text = f"more than 2 points are lost against {base} at {sparsity(claim.first_loss)} sparsity"
        if limit.bounded and limit.high > densest:
            text += f"; the limit lies between {sparsity(limit.low)} and {sparsity(limit.high)}: undecided"
    yield f"{capitalised(seed + text)}."


def _of_seeds(claim: TaskClaim, level: float) -> str:
    """Return the number of seeds behind the codes of a sparsity, after a comma; empty where none has several."""
    if max(claim.seed_counts.values(), default=1) < 2:
        return ""
    seeds = claim.seed_counts.get(level, 1)
    return f", mean of {seeds} seeds" if seeds > 1 else ", one seed"


def _baseline_notes(claim: TaskClaim) -> Iterator[str]:
    if (best := claim.best_baseline) is None:
        return
    one, change = len(best.representations) == 1, claim.to_baseline
    matched = f" (matched to codes at {sparsity(best.sparsity)} sparsity)" if formatting.known(best.sparsity) else ""
    name = f"{best.label}{matched}, {percent_with_interval(best.estimate)}"
    if change.bounded:
        name += f"; codes minus {'this' if one else 'these'} on the same clips: {points(change)}"
    if change.bounded and change.high < 0:
        yield f"The {best.noun} {'reaches' if one else 'reach'} more: {name}."
    else:
        yield f"The {best.noun} {'is' if one else 'are'} {name}."


def _compactness_notes(claim: CompactnessClaim) -> Iterator[str]:
    """Yield seeds, R² from few dimensions, and why completeness does not decide."""
    if claim.dimensions is not None:
        yield from _seed_notes("The number of dimensions of the codes", claim.dimensions.seeds, dimensions)
    if (few := claim.few) is not None:
        best = few.best_baseline
        baseline = f"; {decimal_with_interval(best.estimate, 2)} from {best.label}, the {best.noun}" if best else ""
        yield (
            f"Over the factors {predicted_by_either(len(few.seeds))}, the mean R² from the "
            f"{count(claim.few_k, 'best dimension')} is {decimal_with_interval(few.codes, 2)} from the codes, "
            f"{decimal_with_interval(few.dense, 2)} from the layer{baseline} (intervals over factors)."
            f"{describe_lower_from(claim.lower_from, 'The codes')}"
        )
    sides = claim.completeness
    would = {Relation.HIGHER: "hold", Relation.LOWER: "not hold"}.get(sides.relation, "be undecided")
    yield (
        f"By completeness, the study's measure, the claim would {would} ({decimal_with_interval(sides.codes, 2)} for "
        f"the codes, {decimal_with_interval(sides.dense, 2)} for the layer). It does not decide here: completeness is "
        "divided by the logarithm of the number of dimensions, so a wider code scores higher for the same spread."
    )


RANDOM_DIRECTIONS = "random_topk"
"""Representation by fixed random directions, as many as latents: what its width alone costs."""


def _rival_notes(claim: CompactnessClaim) -> Iterator[str]:
    """Yield the effective dimensions of representations without a learned dictionary."""
    if claim.dimensions is None or not claim.rivals:
        return
    each = [
        f"{dimensions(estimate.value)} of {representation_label(name)}{_short_ratio(claim.dimensions.against(name))}"
        for name, estimate in claim.rivals.items()
    ]
    yield f"Without a learned dictionary the same factors take {comma_list(each)} (in brackets: codes over these)."
    wide = claim.dimensions.others.get(RANDOM_DIRECTIONS)
    over_wide = claim.dimensions.against(RANDOM_DIRECTIONS)
    if claim.dimensions.relation is Relation.HIGHER and wide is not None and over_wide.measured:
        as_many = "" if over_wide.low > 1 else ": the layer's factors take as many without learned atoms"
        yield (
            f"As many random directions as latents take {dimensions(wide.value)} dimensions"
            f"{_short_ratio(over_wide)}{as_many}."
        )
    few = {name: claim.few.against(name) for name in claim.rivals} if claim.few else {}
    if each := [f"{representation_label(name)} {points(found)}" for name, found in few.items() if found.measured]:
        yield f"R² from the best {count(claim.few_k, 'dimension')} of each, codes minus these: {'; '.join(each)}."


def _short_ratio(ratio: Estimate) -> str:
    value, low, high = (formatting.decimal(number, 2) for number in (ratio.value, ratio.low, ratio.high))
    return f" ({value}, {low} to {high})" if ratio.measured else ""


def _ordering_notes(claim: OrderingClaim) -> Iterator[str]:
    """Yield the leads over the outputs of blocks alone, and the centre of a flat curve."""
    blocks = [(lead, lead.blocks) for lead in claim.leads if lead.blocks is not None and lead.blocks.measured]
    if blocks:
        each = "; ".join(describe_lead(lead.first, lead.second, estimate) for lead, estimate in blocks)
        yield f"Without layer 0, the input of the first block: {each}."
    yield from _nulls_of_layers(claim)
    if claim.curves is not None and claim.curves["layer"].n_unique() > 1:
        layers: list[int] = claim.curves["layer"].unique().to_list()
        flat = formatting.decimal(sum(layers) / len(layers), 2)
        yield (
            f"Layers run from {min(layers)} to {max(layers)}: a flat curve has its centre at {flat}, and the distance "
            "between two nearly flat curves is small."
        )


def _nulls_of_layers(claim: OrderingClaim) -> Iterator[str]:
    """Yield the null means of the categories by layer, where permuted targets still give some R²."""
    if claim.curves is None or claim.curves["null_mean"].fill_nan(None).drop_nulls().is_empty():
        return
    curves = claim.curves.sort("layer")
    each = [
        f"{target} {comma_list(formatting.decimal(mean, 2) for mean in curves.filter(target=target)['null_mean'])}"
        for target in curves["target"].unique(maintain_order=True)
    ]
    yield (
        "The R² that weights the layers includes differences between groups, which permuted targets keep; null means "
        f"by layer: {'; '.join(each)}."
    )
