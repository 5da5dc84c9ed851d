"""What else one should know of a verdict: seeds, limits, baselines, other targets, what does not decide and why."""

import math
from collections.abc import Callable, Iterator, Sequence

from otoscope import formatting
from otoscope.formatting import comma_list, count, percent, sparsity
from otoscope.protocols.comparing import Number, apart
from otoscope.report.claims.formatting import decimal, lead_told, points, seeds_told, shown, signed, within
from otoscope.report.claims.numbers import MARGIN, Beside, Compact, Kept, Order
from otoscope.report.sections.strict_limits import beaten_at


def notes_of_task(found: Kept) -> Iterator[str]:
    """Yield what stands beside the first verdict."""
    yield from _seeds("What the codes reach", found.seeds, percent)
    yield from _worth(found)
    yield from _limit(found)
    yield from _beside(found.beside, found.high)


def notes_of_dimensions(found: Compact) -> Iterator[str]:
    """Yield what stands beside the second verdict."""
    yield from _seeds("The number of dimensions of the codes", found.seeds, one)
    yield from _few(found)
    yield _completeness(found)


def notes_of_layers(found: Order) -> Iterator[str]:
    """Yield the leads over the outputs of blocks alone, and where the centre of a flat curve lies."""
    if known := {name: lead for name, lead in found.of_blocks.items() if formatting.known(lead.value)}:
        each = "; ".join(lead_told(name, lead) for name, lead in known.items())
        yield f"Without layer 0, the input of the first block: {each}."
    if found.by_layer is not None and found.by_layer["layer"].n_unique() > 1:
        layers: list[int] = found.by_layer["layer"].unique().to_list()
        flat = formatting.decimal(sum(layers) / len(layers), 2)
        yield (
            f"Layers run from {min(layers)} to {max(layers)}: what all layers tell alike has its centre at {flat}, and "
            "where curves are flat the distance of two centres is small."
        )


def _seeds(what: str, values: Sequence[float], tell: Callable[[float], str]) -> Iterator[str]:
    if told := seeds_told(values, tell):
        yield f"{what} is the {told}."
    elif values:
        yield f"{what} is of a single seed."


def _worth(found: Kept) -> Iterator[str]:
    """Yield what a single clip moves, where that is half the margin or more."""
    if found.clips and 2 / found.clips >= MARGIN:
        yield (
            f"One of the {found.clips} test clips moves an accuracy by {100 / found.clips:.1f} points; the margin is "
            f"{100 * MARGIN:.0f}."
        )


def _limit(found: Kept) -> Iterator[str]:
    """Say up to which sparsity codes keep what the densest tell, unless sparser ones beat these."""
    limit, densest = found.limit, min(found.codes)
    if limit is None or not math.isfinite(limit.value) or len(found.codes) < 2:
        return
    base, levels = found.codes[densest], {s: number.value for s, number in found.codes.items()}
    against = f"the densest codes ({sparsity(densest)} sparsity, {percent(base.value)})"
    if (best := beaten_at(levels, MARGIN)) is not None:
        yield (
            f"How far sparsity can go cannot be determined here: {against} are beaten by sparser ones "
            f"({percent(levels[best])} at {sparsity(best)}), so a loss against them says little."
        )
        return
    if limit.value <= densest:
        yield f"Already the next level asked loses more than 2 points against {against}."
        return
    yield (
        f"Against {against} no more than 2 points are lost up to {sparsity(limit.value)} "
        f"sparsity{within(limit, sparsity)}."
    )


def _beside(found: Beside | None, codes: Number) -> Iterator[str]:
    """Yield the best baseline, and the other targets of which the same codes lose more than 2 points."""
    if found is None:
        return
    if (best := found.best) is not None:
        at = f" (beside codes at {sparsity(best.sparsity)} sparsity)" if formatting.known(best.sparsity) else ""
        name = f"{best.told}{at}, {shown(best.number)}"
        if best.number.value > codes.value:
            verb = "baseline tells" if len(best.names) == 1 else "baselines tell"
            yield f"The best {verb} more: {name}{_how(codes, best.number)}."
        else:
            verb = "baseline is" if len(best.names) == 1 else "baselines are"
            yield f"The best {verb} {name}{_how(best.number, codes)}."
    if found.lost:
        each = [f"{name} {points(change.value)}{_ends(change)}" for name, change in found.lost.items()]
        of = count(found.asked, "other target")
        yield f"Of {of} the same codes lose more than 2 points on {len(each)}: {'; '.join(each)}."
    elif found.asked:
        yield f"Of {count(found.asked, 'other target')} the same codes lose more than 2 points on none."


def _how(lower: Number, higher: Number) -> str:
    if not (lower.bounded and higher.bounded):
        return ""
    return "; the intervals lie apart" if apart(lower, higher) else "; the intervals overlap"


def _ends(change: Number) -> str:
    return f" ({signed(change.low)} to {signed(change.high)})" if change.bounded else ""


def _few(found: Compact) -> Iterator[str]:
    if found.few is None:
        return
    best = found.few_best
    others = "" if best is None else f"; of the best baseline, {best.told}, {decimal(best.number, 2)}"
    yield (
        f"The {count(found.few_k, 'best dimension')} of the codes predict a factor with a mean R² of "
        f"{decimal(found.few.codes, 2)}, of the layer {decimal(found.few.dense, 2)}{others}."
    )


def _completeness(found: Compact) -> str:
    dense, codes = found.completeness.dense, found.completeness.codes
    would = "would hold" if apart(dense, codes) else "would not be decided"
    would = "would not hold" if apart(codes, dense) else would
    return (
        f"By completeness, the study's measure, the claim {would} ({decimal(codes, 2)} of the codes, "
        f"{decimal(dense, 2)} of the layer). It does not decide here: it is divided by the logarithm of how many "
        "dimensions there are, so a wider code scores higher for the same spread."
    )


def unlearned(found: Compact) -> Iterator[str]:
    """Say what sparse codes that learned nothing take, and what follows when it is as little."""
    if found.dimensions is None or not found.unlearned:
        return
    each = [f"{one(number.value)} dimensions of {name}" for name, number in found.unlearned.items()]
    codes = found.dimensions.codes
    most = codes.high if codes.bounded else codes.value
    if any(number.value <= most for number in found.unlearned.values()):
        why = "being sparse is enough for that, so it does not show that anything was learned"
    else:
        why = "more than of codes that were learned"
    yield f"A factor takes {comma_list(each)}: {why}."


def one(value: float) -> str:
    """Return a number of dimensions."""
    return formatting.decimal(value, 1)
