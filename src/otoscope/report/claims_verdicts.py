"""What the numbers say of each claim: one outcome and one sentence, by rules fixed beforehand."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from otoscope.report import words
from otoscope.report.claims_beside import MARGIN, Beside
from otoscope.report.claims_numbers import Claims, Compact, Kept, Order
from otoscope.report.claims_words import decimal, lead_told, over_seeds, points, shown, signed, within
from otoscope.report.intervals import MIN_GROUPS, Number, apart, difference
from otoscope.report.strict_limits import beaten_at

Outcome = Literal["holds", "does not hold", "undecided", "not asked"]


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

    The notes say what the other seeds reach, how far sparsity can go, the best of what codes must beat, and
    every other target of which the same codes lose more than 2 points; these inform and do not change the outcome.
    """
    if found is None:
        return NOT_ASKED
    codes, change = found.high, difference(found.high, found.dense)
    told = (
        f"At {words.sparsity(found.sparsity)} sparsity the codes reach {shown(codes)} on {found.target}, the layer "
        f"{shown(found.dense)}: {points(change.value)}"
    )
    if change.bounded:
        told += f" (difference {signed(change.low)} to {signed(change.high)} points)"
    outcome, why = _kept(codes, change)
    notes = [*over_seeds(found.seeds, words.percent), *_limit(found), *_beside(found.beside, codes)]
    return Verdict(outcome, f"{told}{why}.", tuple(notes))


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
        way = ", a gain in this sample" if change.value > 0 else ""
        return "undecided", f"{way}, but the interval does not exclude a loss of 2 points"
    return "undecided", ", more than the margin of 2 points, but the interval allows for less"


def _too_few(groups: int) -> str:
    return f"{words.count(groups, 'group is', 'groups are')} too few to decide (at least {MIN_GROUPS})"


def _beside(found: Beside | None, codes: Number) -> Iterator[str]:
    """Yield the best of what codes must beat, and the other targets of which the same codes lose more than 2 points."""
    if found is None:
        return
    if (best := found.best) is not None:
        at = f" (beside codes at {words.sparsity(best.sparsity)} sparsity)" if words.known(best.sparsity) else ""
        name = f"{best.told}{at}, {shown(best.number)}"
        if best.number.value > codes.value:
            how = "the intervals lie apart" if apart(codes, best.number) else "the intervals overlap"
            yield f"What a dictionary must beat tells more, at best {name}: {how}."
        else:
            how = "less, and the intervals lie apart" if apart(best.number, codes) else "the intervals overlap"
            yield f"The best of what a dictionary must beat is {name}: {how}."
    if found.lost:
        each = [f"{name} {points(change.value)}{_ends(change)}" for name, change in found.lost.items()]
        of = words.count(found.asked, "other target")
        yield f"Of {of} the same codes lose more than 2 points on {len(each)}: {'; '.join(each)}."
    elif found.asked:
        yield f"Of {words.count(found.asked, 'other target')} the same codes lose more than 2 points on none."


def _ends(change: Number) -> str:
    return f" ({signed(change.low)} to {signed(change.high)})" if change.bounded else ""


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
        f"On the {words.count(found.factors, 'factor')} that both predict, the regression of a factor spreads over "
        f"{_spread(codes)} dimensions of the codes and {_spread(dense)} of the layer"
    )
    notes = [*_few(found), *over_seeds(found.seeds, _one), _completeness(found)]
    fewer, more = apart(codes, dense), apart(dense, codes)
    if (few := found.few) is not None:
        fewer = fewer and few.codes.value >= few.dense.value - MARGIN
        more = more or apart(few.codes, few.dense)
    if (more or fewer) and (groups := min(dense.groups, codes.groups)) < MIN_GROUPS:
        return Verdict("undecided", f"{told}: {_too_few(groups)}.", tuple(notes))
    if more:
        what = "codes need more" if apart(dense, codes) else "few dimensions of the codes tell less"
        return Verdict("does not hold", f"{told}: {what}, and the intervals lie apart.", tuple(notes))
    if fewer:
        why = f"{told}: codes need fewer, and the intervals lie apart."
        return Verdict("holds", why, (*_unlearned(found), *notes))
    leaning = "more" if codes.value > dense.value else "fewer"
    why = f"{told}: codes take {leaning}, if anything, but the intervals do not lie apart in their favour."
    return Verdict("undecided", why, tuple(notes))


def _few(found: Compact) -> Iterator[str]:
    if found.few is None:
        return
    best = found.few_best
    others = "" if best is None else f"; the best of the others, {best.told}, {shown(best.number)}"
    yield (
        f"The {words.count(found.few_k, 'best dimension')} of the codes explain {shown(found.few.codes)} of a factor's "
        f"variance, of the layer {shown(found.few.dense)}{others}."
    )


def _completeness(found: Compact) -> str:
    return (
        f"Completeness, by which the study decides ({decimal(found.completeness.codes, 2)} of the codes, "
        f"{decimal(found.completeness.dense, 2)} of the layer), does not decide here: it is divided by the logarithm "
        "of how many dimensions there are, which differs."
    )


def _unlearned(found: Compact) -> Iterator[str]:
    """Say what sparse codes that learned nothing take, and what follows when it is as little."""
    if found.dimensions is None or not found.unlearned:
        return
    each = [f"{_one(number.value)} dimensions of {name}" for name, number in found.unlearned.items()]
    codes = found.dimensions.codes
    most = codes.high if codes.bounded else codes.value
    if any(number.value <= most for number in found.unlearned.values()):
        why = "being sparse is enough for that, so it does not show that anything was learned"
    else:
        why = "more than of codes that were learned"
    yield f"A factor takes {words.listed(each)}: {why}."


def _spread(number: Number) -> str:
    return f"{_one(number.value)}{within(number, _one)}"


def _one(value: float) -> str:
    return words.decimal(value, 1)


def ordered(found: Order | None) -> Verdict:
    """Judge claim 3: is pitch read in earlier layers than formants and MFCC?

    It holds when every lead's interval lies above 0 and its value above the null's upper end; it fails when one lies
    below 0 with its whole interval. Fewer than 3 groups decide nothing.
    """
    if found is None or not found.leads:
        return NOT_ASKED
    told = "; ".join(lead_told(name, lead) for name, lead in found.leads.items())
    told = _capital(told)
    if (groups := min(lead.groups for lead in found.leads.values())) < MIN_GROUPS:
        return Verdict("undecided", f"{told}: {_too_few(groups)}.")
    if all(lead.low > 0 and not lead.value <= lead.null_high for lead in found.leads.values()):
        return Verdict("holds", f"{told}. Each is more than by chance, and no interval reaches 0.")
    if later := [name.partition(" before ") for name, lead in found.leads.items() if lead.high < 0]:
        after = words.listed(then for _, _, then in later)
        return Verdict(
            "does not hold", f"{told}. {_capital(later[0][0])} comes later than {after}, beyond the interval."
        )
    return Verdict("undecided", f"{told}. An interval reaches 0, or chance as far.")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _limit(found: Kept) -> Iterator[str]:
    """Say up to which sparsity codes keep what the densest tell, unless sparser ones beat these."""
    limit, densest = found.limit, min(found.codes)
    if limit is None or not math.isfinite(limit.value):
        return
    base, levels = found.codes[densest], {s: number.value for s, number in found.codes.items()}
    against = f"the densest codes ({words.sparsity(densest)} sparsity, {words.percent(base.value)})"
    if (best := beaten_at(levels, MARGIN)) is not None:
        yield (
            f"How far sparsity can go cannot be read here: {against} are beaten by sparser ones "
            f"({words.percent(levels[best])} at {words.sparsity(best)}), so a loss against them says little."
        )
        return
    yield (
        f"Against {against} no more than 2 points are lost up to {words.sparsity(limit.value)} "
        f"sparsity{within(limit, words.sparsity)}."
    )
