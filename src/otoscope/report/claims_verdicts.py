"""What the numbers say of each claim: one outcome and one sentence, by rules fixed beforehand."""

import math
from dataclasses import dataclass
from typing import Literal

from otoscope.report import words
from otoscope.report.claims_numbers import Claims, Compact, Kept, Number, Order

Outcome = Literal["holds", "does not hold", "undecided", "not asked"]

MARGIN = 0.02
"""Loss that still counts as none, as in the strict protocol's limits."""


@dataclass(frozen=True)
class Verdict:
    """An outcome, and why."""

    outcome: Outcome
    sentence: str


NOT_ASKED = Verdict(
    "not asked",
    "Held-out groups were not asked: `otoscope run` does with evaluate.protocols: [mariotte2025, strict]. Numbers made "
    "in the study's way cannot decide, for the reasons that its switches list.",
)


def verdicts(strict: Claims) -> tuple[Verdict, Verdict, Verdict]:
    """Return the verdict on each of the three claims."""
    return kept(strict.kept), compact(strict.compact), ordered(strict.order)


def kept(found: Kept | None) -> Verdict:
    """Judge claim 1: do codes of high sparsity keep what the layer tells of the task?

    It holds when codes lose at most 2 points and beat their null; it fails when more than 2 points are lost at the
    upper end of the difference's interval too, or when codes do not beat their null. The two intervals are put
    together as if they were independent, which is wider than the truth: both are of the same groups.
    """
    if found is None:
        return NOT_ASKED
    dense, codes, sparsity = found.dense, found.high, words.sparsity(found.sparsity)
    told = (
        f"At {sparsity} the codes reach {shown(codes)} on {found.target}, the layer {words.percent(dense.value)}: "
        f"{points(codes.value - dense.value)}"
    )
    limit = _limit(found.limit)
    if math.isfinite(codes.null_high) and codes.value <= codes.null_high:
        null = words.percent(codes.null_high)
        return Verdict("does not hold", f"{told}, and no more than permuted targets give (up to {null}).{limit}")
    most = codes.value - dense.value + math.hypot(codes.high - codes.value, dense.value - dense.low)
    if codes.bounded and dense.bounded and most < -MARGIN:
        return Verdict("does not hold", f"{told}, more than the interval allows for.{limit}")
    if codes.value >= dense.value - MARGIN:
        return Verdict("holds", f"{told}, no more than the 2 points fixed as no loss.{limit}")
    return Verdict("undecided", f"{told}, but the interval allows for no loss as well.{limit}")


def compact(found: Compact | None) -> Verdict:
    """Judge claim 2: does a factor take fewer dimensions of the codes than of the layer, on the same factors?

    It holds when codes take fewer effective dimensions and a few of them tell as much as few of the layer's, to 2
    points; it fails when codes take more, or few of them tell less. Either way the intervals must lie apart.
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
    if more:
        return Verdict("does not hold", f"{told}: codes need more, and the intervals lie apart.")
    if fewer:
        return Verdict("holds", f"{told}: codes need fewer, and the intervals lie apart.{_unlearned(found)}")
    return Verdict("undecided", f"{told}: the intervals do not lie apart in favour of the codes.")


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


def apart(lower: Number, higher: Number) -> bool:
    """Whether two intervals lie apart, the first below the second."""
    return lower.bounded and higher.bounded and lower.high < higher.low


def ordered(found: Order | None) -> Verdict:
    """Judge claim 3: is pitch read in earlier layers than formants and MFCC?

    It holds when every lead's interval lies above 0 and its value above the null's upper end; it fails when one lies
    below 0 with its whole interval.
    """
    if found is None or not found.leads:
        return NOT_ASKED
    told = "; ".join(_lead(name, lead) for name, lead in found.leads.items())
    told = told[:1].upper() + told[1:]
    sure = [lead.low > 0 and not lead.value <= lead.null_high for lead in found.leads.values()]
    if all(sure):
        return Verdict("holds", f"{told}: each more than its null, and no interval reaches 0.")
    if any(lead.high < 0 for lead in found.leads.values()):
        return Verdict("does not hold", f"{told}: pitch comes later, and the interval does not reach 0.")
    return Verdict("undecided", f"{told}: an interval reaches 0, or the null as far.")


def shown(number: Number) -> str:
    """Return a fraction with its interval."""
    interval = f" ({words.percent(number.low)} to {words.percent(number.high)})" if number.bounded else ""
    return f"{words.percent(number.value)}{interval}"


def spread(number: Number) -> str:
    """Return a number of dimensions with its interval."""
    interval = f" ({words.decimal(number.low, 1)} to {words.decimal(number.high, 1)})" if number.bounded else ""
    return f"{words.decimal(number.value, 1)} effective dimensions{interval}"


def points(difference: float) -> str:
    """Return a difference of two fractions in points.

    >>> points(-0.0349), points(0.01)
    ('3.5 points less', '1.0 points more')
    """
    way = "less" if difference < 0 else "more"
    return f"{words.decimal(100 * abs(difference), 1)} points {way}"


def _limit(limit: Number | None) -> str:
    if limit is None or not math.isfinite(limit.value):
        return ""
    interval = f" ({words.sparsity(limit.low)} to {words.sparsity(limit.high)})" if limit.bounded else ""
    return f" Nothing is lost against the densest dictionary up to {words.sparsity(limit.value)}{interval}."


def _lead(name: str, lead: Number) -> str:
    first, _, then = name.partition(" before ")
    interval = f" (lead {words.decimal(lead.low, 2)} to {words.decimal(lead.high, 2)})" if lead.bounded else ""
    way = "behind" if lead.value < 0 else "before"
    null = f", null up to {words.decimal(lead.null_high, 2)}" if math.isfinite(lead.null_high) else ""
    return f"{first} lies {words.decimal(abs(lead.value), 2)} layers {way} {then}{interval}{null}"
