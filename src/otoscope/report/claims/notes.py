"""Notes below the verdicts on the three claims, which inform without changing the outcome."""

from collections.abc import Callable, Iterator, Sequence

from otoscope import formatting
from otoscope.formatting import comma_list, count, percent, sparsity
from otoscope.metrics.representation import representation_label
from otoscope.protocols.claims import CompactnessClaim, OrderingClaim, Reason, TargetLoss, TaskClaim
from otoscope.protocols.comparison import MARGIN, Estimate, Relation
from otoscope.report.estimates import (
    RANDOM_DIRECTIONS,
    capitalised,
    decimal_with_interval,
    describe_lead,
    describe_leads_beyond_null,
    describe_lower_from,
    describe_readers,
    dimensions,
    interval,
    percent_with_interval,
    points,
    predicted_by_either,
    seed_range,
    spans_levels,
)


def task_notes(claim: TaskClaim) -> Iterator[str]:
    """Yield seeds, the worth of one clip, the sparsity limit, the best baseline, and other targets."""
    yield from _seed_notes("The value of the codes", claim.seeds, percent)
    if claim.test_clips and 2 / claim.test_clips >= MARGIN:
        yield (
            f"One of the {claim.test_clips} test clips moves an accuracy by {100 / claim.test_clips:.1f} points; the "
            f"margin is {100 * MARGIN:.0f}."
        )
    if claim.decide().reason in (Reason.LOSS_POSSIBLE, Reason.LOSS_LIKELY):
        reach = 100 * (claim.change.value - claim.change.low)
        yield (
            f"The interval reaches {reach:.1f} points down from the difference: only a gain of "
            f"{reach - 100 * MARGIN:.1f} points or more could have excluded a loss of 2 points. This corpus decides "
            "larger differences only."
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


def compactness_notes(claim: CompactnessClaim) -> Iterator[str]:
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
    if claim.sparsity is not None and claim.dimensions is not None:
        yield (
            f"Only codes at {sparsity(claim.sparsity)} sparsity are compared with the layer in this way: the verdict "
            "does not cover sparser codes."
        )
    sides = claim.completeness
    random = sides.others.get(RANDOM_DIRECTIONS)
    by_random = f"; {decimal_with_interval(random, 2)} for random directions" if random and random.measured else ""
    would = {Relation.HIGHER: "hold", Relation.LOWER: "not hold"}.get(sides.relation, "be undecided")
    yield (
        f"By completeness, the study's measure, the claim would {would} ({decimal_with_interval(sides.codes, 2)} for "
        f"the codes, {decimal_with_interval(sides.dense, 2)} for the layer{by_random}). It does not decide here: "
        "completeness is divided by the logarithm of the number of dimensions, so a wider code scores higher for the "
        "same spread."
    )


def rival_notes(claim: CompactnessClaim) -> Iterator[str]:
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


def ordering_notes(claim: OrderingClaim) -> Iterator[str]:
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
    text = (
        "The R² that weights the layers includes differences between groups, which permuted targets keep; null means "
        f"by layer: {'; '.join(each)}."
    )
    beyond = describe_leads_beyond_null(claim.leads, claim.curves)
    yield f"{text} With these subtracted, {beyond}." if beyond else text
