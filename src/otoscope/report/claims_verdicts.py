"""What the numbers say of each claim: one outcome and one sentence, by rules fixed beforehand."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from otoscope.report import words
from otoscope.report.claims_beside import MARGIN, Beside
from otoscope.report.claims_numbers import Claims, Compact, Kept, Order
from otoscope.report.intervals import MIN_GROUPS, Number, apart, difference

Outcome = Literal["holds", "does not hold", "undecided", "not asked"]


@dataclass(frozen=True)
class Verdict:
    """An outcome, and why."""

    outcome: Outcome
    sentence: str


NOT_ASKED = Verdict(
    "not asked",
    "No number of held-out groups decides this. To ask, write a configuration with this sound under `corpus`, this "
    "model under `model`, at least two `extract.layers`, and `evaluate.protocols: [mariotte2025, strict]`, and run "
    "`otoscope run CONFIG.yaml`; `otoscope reproduce` alone never asks. Numbers made in the study's way cannot decide, "
    "for the reasons that its switches list.",
)


def verdicts(strict: Claims) -> tuple[Verdict, Verdict, Verdict]:
    """Return the verdict on each of the three claims."""
    return kept(strict.kept), compact(strict.compact), ordered(strict.order)


def kept(found: Kept | None) -> Verdict:
    """Judge claim 1: do codes of high sparsity keep what the layer tells of the task?

    With d the codes' value less the layer's, and its interval (`intervals.difference`: the root of squares of both):

    - holds: the interval's lower end lies above -2 points, so that a loss of 2 points is excluded, and codes beat
      their null;
    - does not hold: its upper end lies below -2 points, or codes do not beat their null;
    - undecided: anything else, and whatever would rest on an interval where there is none or on fewer than 3 groups.

    The sentence also names every other target of which the same codes lose more than 2 points, and the best of what
    codes must beat where it beats them; these inform and do not change the outcome.
    """
    if found is None:
        return NOT_ASKED
    codes, change = found.high, difference(found.high, found.dense)
    told = (
        f"At {words.sparsity(found.sparsity)} the codes reach {shown(codes)} on {found.target}, the layer "
        f"{shown(found.dense)}: {points(change.value)}"
    )
    if change.bounded:
        told += f" (difference {signed(change.low)} to {signed(change.high)} points)"
    outcome, why = _kept(codes, change)
    return Verdict(outcome, f"{told}{why}.{_limit(found.limit)}{_beside(found.beside)}")


def _kept(codes: Number, change: Number) -> tuple[Outcome, str]:
    if math.isfinite(codes.null_high) and codes.value <= codes.null_high:
        return "does not hold", f", and no more than permuted targets give (up to {words.percent(codes.null_high)})"
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
        way = "a gain in this sample" if change.value > 0 else "within the 2 points fixed as no loss"
        return "undecided", f", {way}, but the interval does not exclude a loss of 2 points"
    return "undecided", ", more than the 2 points fixed as no loss, but the interval allows for less"


def _too_few(groups: int) -> str:
    return f"{words.count(groups, 'group is', 'groups are')} too few to decide (at least {MIN_GROUPS})"


def _beside(found: Beside | None) -> str:
    if found is None:
        return ""
    said = ""
    if (better := found.better) is not None:
        at = f" (beside codes at {words.sparsity(better.sparsity)})" if words.known(better.sparsity) else ""
        how = "the intervals lie apart" if better.clear else "the intervals overlap"
        said += f" More than the codes tell: {better.name}{at}, {shown(better.number)}; {how}."
    if found.lost:
        each = [f"{name} {points(change.value)}{_ends(change)}" for name, change in found.lost.items()]
        of = words.count(found.asked, "other target")
        said += f" Of {of} the same codes lose more than 2 points on {len(each)}: {'; '.join(each)}."
    elif found.asked:
        said += f" Of {words.count(found.asked, 'other target')} the same codes lose more than 2 points on none."
    return said


def _ends(change: Number) -> str:
    return f" ({signed(change.low)} to {signed(change.high)})" if change.bounded else ""


def compact(found: Compact | None) -> Verdict:
    """Judge claim 2: does a factor take fewer dimensions of the codes than of the layer, on the same factors?

    It holds when codes take fewer effective dimensions and a few of them tell as much as few of the layer's, to 2
    points; it fails when codes take more, or few of them tell less. Either way the intervals must lie apart
    and rest on at least 3 groups.
    Where sparse codes that learned nothing take as few, the sentence says that it shows nothing learned.
    """
    if found is None or found.dimensions is None:
        return NOT_ASKED
    if not found.factors:
        return Verdict("undecided", "No factor is predicted by the layer and by its codes, so none can be compared.")
    dense, codes = found.dimensions.dense, found.dimensions.codes
    told = (
        f"On the {words.count(found.factors, 'factor')} that both predict, a factor takes {spread(codes)} of the codes "
        f"and {spread(dense)} of the layer"
    )
    fewer, more = apart(codes, dense), apart(dense, codes)
    if found.few is not None:
        few = found.few
        told += (
            f"; {words.count(found.few_k, 'dimension')} of the codes explain {shown(few.codes)} of it, of the layer "
            f"{shown(few.dense)}"
        )
        fewer = fewer and few.codes.value >= few.dense.value - MARGIN
        more = more or apart(few.codes, few.dense)
    if (more or fewer) and (groups := min(dense.groups, codes.groups)) < MIN_GROUPS:
        return Verdict("undecided", f"{told}: {_too_few(groups)}.")
    if more:
        return Verdict("does not hold", f"{told}: codes need more, and the intervals lie apart.")
    if fewer:
        return Verdict("holds", f"{told}: codes need fewer, and the intervals lie apart.{_unlearned(found)}")
    leaning = "more" if codes.value > dense.value else "fewer"
    return Verdict(
        "undecided",
        f"{told}: codes take {leaning}, if anything, but the intervals do not lie apart in their favour. "
        f"Completeness ({decimal(found.completeness.codes, 2)} of the codes, "
        f"{decimal(found.completeness.dense, 2)} of the layer) does not decide: it is divided by the logarithm of "
        "how many dimensions there are, which differs.",
    )


def _unlearned(found: Compact) -> str:
    """Say what sparse codes that learned nothing take, and what follows when it is as little."""
    if found.dimensions is None or not found.unlearned:
        return ""
    each = [f"{words.decimal(number.value, 1)} dimensions of {name}" for name, number in found.unlearned.items()]
    said = f" A factor takes {words.listed(each)}"
    codes = found.dimensions.codes
    most = codes.high if codes.bounded else codes.value
    if any(number.value <= most for number in found.unlearned.values()):
        return f"{said}: being sparse is enough for that, so it does not show that anything was learned."
    return f"{said}: more than of codes that were learned."


def ordered(found: Order | None) -> Verdict:
    """Judge claim 3: is pitch read in earlier layers than formants and MFCC?

    It holds when every lead's interval lies above 0 and its value above the null's upper end; it fails when one lies
    below 0 with its whole interval. Fewer than 3 groups decide nothing.
    """
    if found is None or not found.leads:
        return NOT_ASKED
    told = "; ".join(_lead(name, lead) for name, lead in found.leads.items())
    told = told[:1].upper() + told[1:]
    if (groups := min(lead.groups for lead in found.leads.values())) < MIN_GROUPS:
        return Verdict("undecided", f"{told}: {_too_few(groups)}.")
    sure = [lead.low > 0 and not lead.value <= lead.null_high for lead in found.leads.values()]
    if all(sure):
        return Verdict("holds", f"{told}: each more than its null, and no interval reaches 0.")
    if any(lead.high < 0 for lead in found.leads.values()):
        return Verdict("does not hold", f"{told}: pitch comes later, and the interval does not reach 0.")
    return Verdict("undecided", f"{told}: an interval reaches 0, or the null as far.")


def shown(number: Number) -> str:
    """Return a fraction with its interval."""
    return f"{words.percent(number.value)}{within(number, words.percent)}"


def decimal(number: Number, digits: int = 3) -> str:
    """Return a number with its interval."""
    tell = partial(words.decimal, digits=digits)
    return f"{tell(number.value)}{within(number, tell)}"


def within(number: Number, tell: Callable[[float], str]) -> str:
    """Return a number's interval in brackets, both ends told alike; nothing where it has none."""
    return f" ({tell(number.low)} to {tell(number.high)})" if number.bounded else ""


def spread(number: Number) -> str:
    """Return a number of dimensions with its interval."""
    tell = partial(words.decimal, digits=1)
    return f"{tell(number.value)} effective dimensions{within(number, tell)}"


def points(difference: float) -> str:
    """Return a difference of two fractions in points.

    >>> points(-0.0349), points(0.01)
    ('3.5 points less', '1.0 points more')
    """
    way = "less" if difference < 0 else "more"
    return f"{words.decimal(100 * abs(difference), 1)} points {way}"


def signed(difference: float) -> str:
    """Return a difference of two fractions as points with their sign.

    >>> signed(-0.0349), signed(0.01)
    ('−3.5', '+1.0')
    """
    text = words.decimal(100 * difference, 1)
    return text if text.startswith("−") else f"+{text}"


def _limit(limit: Number | None) -> str:
    if limit is None or not math.isfinite(limit.value):
        return ""
    return (
        " From the densest dictionary on, the last that loses nothing against it, as do all before it, has "
        f"{words.sparsity(limit.value)} sparsity{within(limit, words.sparsity)}."
    )


def _lead(name: str, lead: Number) -> str:
    first, _, then = name.partition(" before ")
    interval = f" (lead {words.decimal(lead.low, 2)} to {words.decimal(lead.high, 2)})" if lead.bounded else ""
    way = "behind" if lead.value < 0 else "before"
    null = f", null up to {words.decimal(lead.null_high, 2)}" if math.isfinite(lead.null_high) else ""
    return f"{first} lies {words.decimal(abs(lead.value), 2)} layers {way} {then}{interval}{null}"
