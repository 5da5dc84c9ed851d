"""The page `claims.html`: three claims of the study, three sources of numbers, and verdicts."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from otoscope.artifacts import atomic
from otoscope.formatting import comma_list, count, decimal, known, percent, sparsity
from otoscope.metrics.representation import representation_label
from otoscope.metrics.results import ResultsTable
from otoscope.protocols.claim_sources import published_claims, reproduced_claims, strict_claims, study_preset_claims
from otoscope.protocols.claims import FEW, HIGH_SPARSITY, REQUIRED_RIVALS, RIVALS, Claims
from otoscope.protocols.comparison import MARGIN, Estimate
from otoscope.protocols.mariotte2025 import NAME as COMPAT
from otoscope.protocols.strict import NAME as STRICT
from otoscope.protocols.strict.results import LAYER_MARGIN, LEVEL, StrictResults
from otoscope.report.claims.sentences import VerdictText, describe_verdicts
from otoscope.report.claims.setting import setting
from otoscope.report.estimates import (
    caution_of_codes,
    decimal_with_interval,
    describe_lead_with_p,
    percent_with_interval,
    points,
)
from otoscope.report.evidence import caution, evidence_of_run
from otoscope.report.figures.claims import SOURCES, STUDY_PRESET, dimensions_figure, layers_figure, task_figure
from otoscope.report.figures.figure import Figure
from otoscope.report.figures.printing import write_figures
from otoscope.report.layout import PageSection, render_page
from otoscope.report.run_data import RunData
from otoscope.report.sections.opening import Opening, opening
from otoscope.resampling.intervals import MIN_GROUPS

PAGE = "claims.html"


class Claim(NamedTuple):
    """One claim of the study: a short name, the claim, and the rule of its verdict."""

    name: str
    title: str
    claim: str
    rule: str


MARGIN_POINTS = f"{100 * MARGIN:.0f} points"
RIVAL_LABELS = {name: representation_label(name) for name in RIVALS}

CLAIMS = (
    Claim(
        "task",
        "Codes keep the task",
        "Sparse codes keep the layer's information about the singing technique, even at 95 % sparsity.",
        f"Decided at the trained sparsity nearest to {percent(HIGH_SPARSITY, 0)}, by the interval of codes minus layer "
        "on the same clips. There is nothing to keep if the layer does not exceed permuted targets. Holds if the whole "
        f"interval is above −{MARGIN_POINTS} and the codes exceed permuted targets. Does not hold if the whole "
        f"interval is below −{MARGIN_POINTS}. Otherwise, with fewer than {MIN_GROUPS} test groups, and with too few "
        "clips or groups to permute, undecided.",
    ),
    Claim(
        "dimensions",
        "Attributes take fewer dimensions",
        "A vocal attribute is encoded in fewer dimensions of the codes than of the layer (higher completeness).",
        "Decided by two intervals, paired by factor: that of the ratio of effective dimensions, codes to layer, and "
        f"that of the difference in mean R² from the best {FEW} dimensions of each (or the nearest number measured). "
        "Holds if the whole interval of the ratio is below 1, the interval of the difference is not below 0, and the "
        f"difference itself is at least −{MARGIN_POINTS}. The same must be true against the "
        f"{comma_list(RIVAL_LABELS[name] for name in REQUIRED_RIVALS)}, and against any measured "
        f"{comma_list(RIVAL_LABELS[name] for name in RIVALS if name not in REQUIRED_RIVALS)}; otherwise it holds "
        "equally for those against which it is not. Does not hold if the whole interval of the ratio is above 1, or "
        f"that of the difference below 0. Otherwise, and with fewer than {MIN_GROUPS} test groups, undecided.",
    ),
    Claim(
        "layers",
        "Pitch early, formants late",
        "Pitch is found in early layers, formants and phoneme-like factors (here MFCC) in late ones.",
        "Decided on the dense layers, whereas the study counts codes. Holds if the centre of pitch is before that of "
        f"every other category, by more than {LAYER_MARGIN:g} layers over the whole interval and with p of at most "
        f"{LEVEL:g} over all leads together (Holm). Does not hold if it is after one of them by the same rule. Where "
        "layer 0, the input of the first block, is among the layers, both also require a lead beyond chance without "
        f"it. Otherwise, and with fewer than {MIN_GROUPS} test groups, undecided: an interval that ends below "
        f"{LAYER_MARGIN:g} layers excludes such a lead, and the verdict says so.",
    ),
)
"""Claims of Mariotte et al. 2025 (arXiv 2509.24793), each with the rule that its `decide` applies."""


class Examined(NamedTuple):
    """Numbers of the claims by source, and their verdicts from held-out groups."""

    sources: Mapping[str, Claims]
    verdicts: tuple[VerdictText, VerdictText, VerdictText]


def is_asked(results: pl.DataFrame) -> bool:
    """True if a results table holds numbers about the claims."""
    return bool({COMPAT, STRICT} & set(results["protocol"]))


def examine(results: pl.DataFrame, cards: Mapping[str, Mapping[str, Any]] | None = None) -> Examined:
    """Collect the numbers of all three sources from a results table and return the verdicts.

    With the cards of the SAEs, the second verdict cautions about codes that are not sparse for the layer's width.
    """
    table = ResultsTable(results)
    strict = strict_claims(table)
    examined = dict(zip(SOURCES, (published_claims(), reproduced_claims(table), strict), strict=True))
    if (by_preset := study_preset_claims(table)).task:
        examined[STUDY_PRESET] = by_preset
    task, compactness, ordering = describe_verdicts(strict, asked=STRICT in set(results["protocol"]))
    main = StrictResults.of(results).main
    if strict.compactness and main and (text := caution_of_codes(main, cards or {})):
        compactness = compactness._replace(notes=(*compactness.notes, text))
    return Examined(examined, (task, compactness, ordering))


def write_claims(run: RunData, *, figures: bool = True) -> Path | None:
    """Write `report/claims.html` and its figures; return None if the results hold nothing about the claims."""
    results = run.results.rows
    if not is_asked(results):
        return None
    page = run.folder / "report" / PAGE
    examined = examine(results, run.cards)
    charts = _figures(examined)
    if figures:
        write_figures(page.parent / "figures", [figure for figure in charts if figure is not None])
    encoders = comma_list(dict.fromkeys(name for name in results["encoder"] if name))
    rests_on = evidence_of_run(run)
    content = ClaimsSetting(opening(run, rests_on, answers(examined)), caution(rests_on), setting(run))
    subtitle = f"Three claims of Mariotte et al. (arXiv 2509.24793), examined for {encoders}"
    text = render(examined, charts, subtitle=subtitle, content=content, linked=figures)
    with atomic(page) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return page


class ClaimsSetting(NamedTuple):
    """Content of the page's first section: lead, caution, and the rows of the table of settings."""

    opening: Opening
    caution: str
    rows: Sequence[tuple[str, str]]


class ExaminedClaim(NamedTuple):
    """Content of a claim's section: the claim, its numbers by source, and the verdict."""

    claim: Claim
    rows: Sequence[tuple[str, str]]
    verdict: VerdictText


def render(
    examined: Examined,
    charts: tuple[Figure | None, Figure | None, Figure | None],
    *,
    subtitle: str,
    content: ClaimsSetting,
    linked: bool = True,
) -> str:
    """Return the page as text."""
    sections = [
        PageSection("setting", "Setting", "claims_setting.html", content),
        PageSection("summary", "Verdicts", "verdicts.html", list(zip(CLAIMS, examined.verdicts, strict=True))),
    ]
    numbers = (_of_task, _of_dimensions, _of_layers)
    for claim, verdict, figure, rows_of in zip(CLAIMS, examined.verdicts, charts, numbers, strict=True):
        shown_claim = ExaminedClaim(claim, list(rows_of(examined.sources)), verdict)
        sections.append(PageSection(claim.name, claim.title, "claim.html", shown_claim, [figure] if figure else []))
    return render_page(title="The claim, examined", subtitle=subtitle, sections=sections, linked=linked)


def answers(examined: Examined) -> tuple[tuple[str, str], ...]:
    """Return each claim's name, with the sparsity of the codes that decide it, and its outcome."""
    held = examined.sources.get(SOURCES[-1])
    task, compactness = (held.task, held.compactness) if held else (None, None)
    levels = (task.sparsity if task else None, compactness.sparsity if compactness else None, None)
    of = " per frame" if task and task.per_frame else ""
    titles = [
        f"{claim.title} at {sparsity(level)} sparsity{of}" if level else claim.title
        for claim, level in zip(CLAIMS, levels, strict=True)
    ]
    return tuple((title, verdict.outcome) for title, verdict in zip(titles, examined.verdicts, strict=True))


def _figures(examined: Examined) -> tuple[Figure | None, Figure | None, Figure | None]:
    return task_figure(examined.sources), dimensions_figure(examined.sources), layers_figure(examined.sources)


def _of_task(sources: Mapping[str, Claims]) -> Iterator[tuple[str, str]]:
    for source, claims in sources.items():
        claim = claims.task
        if claim is None:
            yield source, _absent(source, claims)
            continue
        prefix = f"mean over {count(claim.layers, 'layer')}: " if claim.layers > 1 else ""
        codes, dense = (f"{percent_with_interval(side)}{_null(side, percent)}" for side in (claim.high, claim.dense))
        yield (
            source,
            f"{prefix}at {sparsity(claim.sparsity)} sparsity codes {codes}; "
            f"layer {dense}; codes minus layer: {points(claim.change)}",
        )


def _of_dimensions(sources: Mapping[str, Claims]) -> Iterator[tuple[str, str]]:
    for source in SOURCES:
        claims = sources[source]
        claim = claims.compactness
        if claim is None:
            yield source, _absent(source, claims)
            continue
        if claim.dimensions is not None and not claim.factors:
            yield source, "no factor that the layer and its codes both predict"
            continue
        prefix = f"mean over {count(claim.layers, 'layer')}: " if claim.layers > 1 else ""
        sides = claim.completeness
        text = (
            f"{prefix}completeness of codes {decimal_with_interval(sides.codes)}, of the layer "
            f"{decimal_with_interval(sides.dense)}"
        )
        if claim.dimensions is not None:
            dense, codes = claim.dimensions.dense, claim.dimensions.codes
            text += (
                f", effective dimensions of codes {decimal(codes.value, 1)}, of the layer "
                f"{decimal(dense.value, 1)}, all on the same {count(claim.factors, 'factor')}"
            )
        if claim.few is not None:
            few = claim.few
            codes, dense = (f"{decimal_with_interval(side)}{_null(side, decimal)}" for side in (few.codes, few.dense))
            over = f" over {count(few.codes.n, 'factor')}" if few.codes.n else ""
            text += f"; R² from {count(claim.few_k, 'dimension')}{over}: codes {codes}, layer {dense}"
            text += f"; codes minus layer: {points(few.change)}" if few.change.measured else ""
        yield source, text


def _null(estimate: Estimate, text_of: Callable[[float], str]) -> str:
    """Return the upper end of a null as a clause after a comma; empty without one."""
    return f", null up to {text_of(estimate.null_high)}" if known(estimate.null_high) else ""


def _of_layers(sources: Mapping[str, Claims]) -> Iterator[tuple[str, str]]:
    for source in SOURCES:
        claims = sources[source]
        claim = claims.ordering
        if claim is None:
            yield source, _absent(source, claims)
        elif claim.leads:
            yield source, "; ".join(describe_lead_with_p(lead) for lead in claim.leads)
        else:
            counts = (f"{name} {_count(claim.early, name)} → {_count(claim.late, name)}" for name in claim.early)
            yield (
                source,
                f"of the ten best factors, from the first to the last layer with dictionaries: {', '.join(counts)}",
            )


def _absent(source: str, claims: Claims) -> str:
    """Return the reason why a source has no number for a claim."""
    name = {SOURCES[1]: COMPAT, SOURCES[2]: STRICT}.get(source)
    if name is None:
        return "not published"
    if claims == Claims(None, None, None):
        how = " with `train.poolings: [pool_then_encode]`" if name == COMPAT else ""
        return f"not computed in this run (add `{name}` to `evaluate.protocols`{how})"
    return "not measured in this run: too few layers, labels or factors"


def _count(counts: Mapping[str, float], name: str) -> str:
    return decimal(counts.get(name), 2)
