"""What the numbers say of each claim: one outcome and one sentence, by rules fixed beforehand."""

import math
from dataclasses import dataclass
from typing import Literal

from otoscope.formatting import comma_list, count, percent, sparsity
from otoscope.protocols.comparing import MIN_GROUPS, Number, apart, difference
from otoscope.report.claims.formatting import lead_told, points, shown, signed, within
from otoscope.report.claims.notes import notes_of_dimensions, notes_of_layers, notes_of_task, one, unlearned
from otoscope.report.claims.numbers import MARGIN, Claims, Compact, Kept, Order

Outcome = Literal["holds", "does not hold", "undecided", "not asked", "not measured"]


@dataclass(frozen=True)
class Verdict:
    """An outcome, why, and what else one should know of it."""

    outcome: Outcome
    sentence: str
    notes: tuple[str, ...] = ()


NOT_ASKED = Verdict(
    "not asked",
    "No number of held-out groups decides this. To ask, write a configuration with this sound under `corpus`, this "
    "model under `model`, at least two `extract.layers`, and `evaluate.protocols: [mariotte2025, strict]`, and run "
    "`otoscope run CONFIG.yaml`; `otoscope reproduce` alone never asks. Numbers made in the study's way cannot decide, "
    "for the reasons that its switches list.",
)


RESTS_ON_INPUT = (
    "That rests on layer 0, the input of the first block: over the outputs of blocks alone it is no more than by "
    "chance."
)


NEEDED = (
    "It takes a label that is probed, or a factor, and dictionaries of the layer compared.",
    "It takes factors that the layer and its codes both predict.",
    "It takes at least two `extract.layers`, and factors of pitch and of formants or MFCC.",
)
"""What each claim needs to be measured at all."""


def verdicts(strict: Claims, *, asked: bool = False) -> tuple[Verdict, Verdict, Verdict]:
    """Return the verdict on each of the three claims; `asked` says whether the strict protocol was."""
    found = kept(strict.kept), compact(strict.compact), ordered(strict.order)
    if not asked:
        return found
    missing = (Verdict("not measured", f"This run has not what the question needs. {needs}") for needs in NEEDED)
    one_, two, three = (lack if had is NOT_ASKED else had for had, lack in zip(found, missing, strict=True))
    return one_, two, three


def kept(found: Kept | None) -> Verdict:
    """Judge claim 1: do codes of high sparsity keep what the layer tells of the task?

    With d the codes' value less the layer's, and its interval (`intervals.difference`: the root of squares of both):

    - holds: the interval's lower end lies above -2 points, so that a loss of 2 points is excluded, and codes beat
      their null;
    - does not hold: its upper end lies below -2 points, or codes do not beat their null;
    - undecided: anything else, and whatever would rest on an interval where there is none or on fewer than 3 groups.

    The notes say what the other seeds reach, how far sparsity can go, the best of what codes must beat, and
    every other target of which the same codes lose more than 2 points; these inform and do not change the outcome.
    """
    if found is None:
        return NOT_ASKED
    codes, change = found.high, difference(found.high, found.dense)
    told = (
        f"At {sparsity(found.sparsity)} sparsity the codes reach {shown(codes)} on {found.target}, the layer "
        f"itself {shown(found.dense)}: {points(change.value)}"
    )
    if change.bounded:
        told += f" (difference {signed(change.low)} to {signed(change.high)} points)"
    outcome, why = _kept(codes, change)
    return Verdict(outcome, f"{told}{why}.", tuple(notes_of_task(found)))


def _kept(codes: Number, change: Number) -> tuple[Outcome, str]:
    if math.isfinite(codes.null_high) and codes.value <= codes.null_high:
        return (
            "does not hold",
            f", and no more than permuted targets give (up to {percent(codes.null_high)})",
        )
    if not change.bounded:
        return "undecided", ", without an interval"
    if change.groups < MIN_GROUPS:
        return "undecided", f", but {_too_few(change.groups)}"
    if change.high < -MARGIN:
        return "does not hold", ", a loss of more than 2 points over the whole interval"
    if change.low > 0:
        return "holds", ", a gain, and the whole interval lies above 0"
    if change.low > -MARGIN:
        way = "a gain in this sample, and" if change.value > 0 else "and"
        return "holds", f", {way} the interval excludes a loss of 2 points"
    if change.value >= -MARGIN:
        way = ", a gain in this sample" if change.value > 0 else ""
        return "undecided", f"{way}, but the interval does not exclude a loss of 2 points"
    return "undecided", ", more than the margin of 2 points, but the interval allows for less"


def _too_few(groups: int) -> str:
    return f"{count(groups, 'group is', 'groups are')} too few to decide (at least {MIN_GROUPS})"


def compact(found: Compact | None) -> Verdict:
    """Judge claim 2: does a factor take fewer dimensions of the codes than of the layer, on the same factors?

    It holds when codes take fewer effective dimensions and a few of them tell as much as few of the layer's, to 2
    points; it fails when codes take more, or few of them tell less. Either way the intervals must lie apart
    and rest on at least 3 groups.
    Where it holds and sparse codes that learned nothing take as few, a note says that it shows nothing learned.
    """
    if found is None or found.dimensions is None:
        return NOT_ASKED
    if not found.factors:
        return Verdict("undecided", "No factor is predicted by the layer and by its codes, so none can be compared.")
    dense, codes = found.dimensions.dense, found.dimensions.codes
    told = (
        f"On the {count(found.factors, 'factor')} that both predict, the regression of a factor spreads over "
        f"{_spread(codes)} dimensions of the codes and {_spread(dense)} of the layer (geometric means)"
    )
    notes = tuple(notes_of_dimensions(found))
    fewer, more = apart(codes, dense), apart(dense, codes)
    if (few := found.few) is not None:
        fewer = fewer and few.codes.value >= few.dense.value - MARGIN
        more = more or apart(few.codes, few.dense)
    if (more or fewer) and (groups := min(dense.groups, codes.groups)) < MIN_GROUPS:
        return Verdict("undecided", f"{told}: {_too_few(groups)}.", notes)
    if more:
        what = "codes need more" if apart(dense, codes) else "few dimensions of the codes tell less"
        return Verdict("does not hold", f"{told}: {what}, and the intervals lie apart.", notes)
    if fewer:
        why = f"{told}: codes need fewer, and the intervals lie apart."
        return Verdict("holds", why, (*unlearned(found), *notes))
    if apart(codes, dense):
        return Verdict(
            "undecided",
            f"{told}: codes spread over fewer, but a few of them tell less than a few of the layer's.",
            notes,
        )
    leaning = "more dimensions rather than fewer" if codes.value > dense.value else "fewer dimensions"
    if one(codes.value) == one(dense.value):
        leaning = "as many"
    return Verdict("undecided", f"{told}: codes take {leaning}, but the intervals overlap.", notes)


def _spread(number: Number) -> str:
    return f"{one(number.value)}{within(number, one)}"


def ordered(found: Order | None) -> Verdict:
    """Judge claim 3: is pitch read in earlier layers than formants and MFCC?

    It holds when every lead's interval lies above 0 and its value above the null's upper end; it fails when one lies
    below 0 with its whole interval. Where layer 0, the input of the first block, is among the layers, such a lead must
    also be more than by chance over the outputs of blocks alone. Fewer than 3 groups decide nothing.
    """
    if found is None or not found.leads:
        return NOT_ASKED
    told = _capital("; ".join(lead_told(name, lead) for name, lead in found.leads.items()))
    notes = tuple(notes_of_layers(found))
    if (groups := min(lead.groups for lead in found.leads.values())) < MIN_GROUPS:
        return Verdict("undecided", f"{told}: {_too_few(groups)}.", notes)
    earlier = [name for name, lead in found.leads.items() if lead.low > 0 and not lead.value <= lead.null_high]
    later = [name for name, lead in found.leads.items() if lead.high < 0]
    if len(earlier) == len(found.leads):
        if all(_stands(found, name, 1.0) for name in earlier):
            return Verdict("holds", f"{told}. Each is more than by chance, and no interval reaches 0.", notes)
        return Verdict("undecided", f"{told}. {RESTS_ON_INPUT}", notes)
    if later:
        if standing := [
            name.partition(" before ") for name in found.leads if name in later and _stands(found, name, -1.0)
        ]:
            after = comma_list(then for _, _, then in standing)
            first = _capital(standing[0][0])
            return Verdict(
                "does not hold", f"{told}. {first} comes later than {after}, and the interval excludes 0.", notes
            )
        return Verdict("undecided", f"{told}. {RESTS_ON_INPUT}", notes)
    return Verdict("undecided", f"{told}. An interval reaches 0, or chance as far.", notes)


def _stands(found: Order, name: str, way: float) -> bool:
    """Tell whether a lead is more than by chance without layer 0, too, where that was asked."""
    lead = found.of_blocks.get(name)
    return lead is None or not math.isfinite(lead.value) or way * lead.value > abs(lead.null_high)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
