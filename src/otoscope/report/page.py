"""The report: one self-contained page, and its charts as SVG and PDF files."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from otoscope.artifacts import atomic
from otoscope.factors.readable_names import readable_name
from otoscope.formatting import comma_list, count
from otoscope.paths import user_path
from otoscope.protocols import strict as strict_protocol
from otoscope.protocols.strict.results import StrictResults
from otoscope.report import evidence
from otoscope.report.claims import page as claims
from otoscope.report.claims.sentences import VerdictText
from otoscope.report.figures.figure import Figure
from otoscope.report.figures.printing import write_figures
from otoscope.report.figures.probes import all_figures
from otoscope.report.figures.strict import LIMITS
from otoscope.report.layout import PageSection, render_page
from otoscope.report.run_data import RunData, read_run
from otoscope.report.sections import findings, gallery, methods
from otoscope.report.sections.annotated_labels import annotated_labels
from otoscope.report.sections.attribution import attribution
from otoscope.report.sections.interventions import erasure, interventions, lens
from otoscope.report.sections.opening import Opening, opening
from otoscope.report.sections.overview import Listening, overview, previews
from otoscope.report.sections.splice import splice_sentences
from otoscope.report.sections.strict_findings import describe_layers, strict_findings
from otoscope.report.sections.sweeps import matching, sweeps

SECTIONS: dict[str, tuple[str, str]] = {
    "layers": ("Probing by layer", "No probes: the results hold no label for this corpus."),
    "sparsity": ("Probing against sparsity", "No probes on codes: the results hold no label or no dictionary."),
    "classes": ("Errors by class and group", "No predictions: no label was probed, or by an earlier version."),
    "reconstruction": ("Reconstruction", "No dictionaries: the results hold no explained variance."),
    "factors": ("Factors", "No factors: the results hold no factor regression for this run."),
    "categories": ("Factor categories by layer", "No factors: there are no categories to show."),
}
"""Heading of each section of figures, and its text if it has none."""


PROBES = ("layers", "sparsity")
"""Sections of the probes of the held-out protocol."""

OTHER_PROTOCOLS = {
    strict_protocol.NAME: (
        "Numbers of the strict protocol for the codes of the first seed alone. The section above has the means over "
        "seeds and the baselines; claims rest on those."
    ),
    "held_out": (
        "The same clips, evaluated in the simple way: one penalty chosen on validation groups, accuracy over all "
        "clips, untransformed factors, one seed, no baselines. These numbers differ from those above. They are a "
        "first look and support no claim."
    ),
    "mariotte2025": (
        "The same clips, evaluated as in the study's code: a probe that keeps its best epoch on the validation clips, "
        "and factors that are fitted and scored on the same clips. These numbers can be compared with the published "
        "ones; they say little about unseen groups."
    ),
}
"""Introduction to another protocol's findings below the strict ones."""


def write_report(folder: Path, *, figures: bool = True) -> Path:
    """Write `report/index.html` and `report/figures/*.svg, *.pdf` in a run folder; return the page's path.

    All numbers come from `results.parquet`. If the results cover the claims of Mariotte et al. 2025, `claims.html` is
    written too. A section whose part of the run is missing says so. Raises `IncompleteArtifact` without results.
    """
    folder = user_path(folder)
    run = read_run(folder)
    sections = all_figures(run)
    path = folder / "report" / "index.html"
    if figures:
        write_figures(path.parent / "figures", [figure for listed in sections.values() for figure in listed])
    with atomic(path) as temporary:
        temporary.write_text(render(run, sections, linked=figures), encoding="utf-8")
    claims.write_claims(run, figures=figures)
    return path


class SummaryContent(NamedTuple):
    """Content of the first section; `summary` is None if the strict protocol's findings come first.

    `scored_on` names the groups that numbers are computed on.
    """

    opening: Opening
    summary: findings.Summary | None
    scored_on: str


class ClaimsLink(NamedTuple):
    """Verdicts on the study's claims, and the page that examines them."""

    verdicts: Sequence[tuple[claims.Claim, VerdictText]]
    page: str


class PlainFindings(NamedTuple):
    """Another protocol's findings, after the strict ones."""

    introduction: str
    summary: findings.Summary


def render(run: RunData, figures: Mapping[str, Sequence[Figure]], *, linked: bool = True) -> str:
    """Return the page as text; `linked` states whether the figures' files exist next to it."""
    return render_page(
        title=run.title,
        subtitle=_subtitle(run),
        sections=list(_sections(run, figures)),
        layers=run.results.layers,
        linked=linked,
    )


def _sections(run: RunData, figures: Mapping[str, Sequence[Figure]]) -> Iterator[PageSection]:
    rows = run.results.rows
    rests_on = evidence.evidence_of_run(run)
    examined = claims.examine(rows, run.cards) if claims.is_asked(rows) else None
    plain, strict = findings.summary(run, rests_on), strict_findings(run)
    answers = claims.answers(examined) if examined else ()
    shown = gallery.gallery(run)
    found = "What was measured" if rests_on and rests_on.thin else "What was found"
    first = overview(run, evidence.caution(rests_on), answers)
    yield PageSection("overview", found, "overview.html", first, figures["overview"])
    if latents := previews(shown):
        yield PageSection("listen", "Latents to hear", "listen.html", Listening(shown.tally, latents))
    scored_on = evidence.scored_on(run.clips)
    details = SummaryContent(opening(run, rests_on, answers), None if strict else plain, scored_on)
    yield PageSection("summary", "Findings with intervals", "summary.html", details)
    if examined:
        link = ClaimsLink(list(zip(claims.CLAIMS, examined.verdicts, strict=True)), claims.PAGE)
        yield PageSection("claim", "The claim, examined", "claims_link.html", link)
    if strict:
        yield PageSection("strict", "Strict protocol", "strict.html", strict, figures["strict"])
        other = PlainFindings(OTHER_PROTOCOLS.get(run.results.protocol, ""), plain)
        title = "The first seed" if run.results.protocol == strict_protocol.NAME else "Other protocol"
        yield PageSection("plain", title, "plain.html", other)
    for name, (title, empty) in SECTIONS.items():
        elsewhere = name in PROBES and run.results.protocol == strict_protocol.NAME
        text = probes_missing(run, name, figures["strict"]) if elsewhere else empty
        yield PageSection(name, title, "text.html", () if figures[name] else (text,), figures[name])
    yield PageSection("gallery", "Gallery of latents", "gallery.html", shown, figures["gallery"])
    yield from _explanations(run, figures)
    yield PageSection("methods", "Methods", "methods.html", methods.methods(run))
    yield PageSection("set-aside", "Clips set aside", "set_aside.html", methods.set_aside(run))
    yield PageSection("provenance", "Provenance", "provenance.html", methods.provenance(run))


def probes_missing(run: RunData, section: str, figures: Sequence[Figure]) -> str:
    """Return the reason why a run with the strict protocol alone has no probes, and the place of the scores it has.

    The scores of layers are in the section by layer; that against sparsity names the strict protocol's chart.
    """
    reason = "The protocol held_out, which fits these probes, was not run (evaluate.protocols)."
    strict = StrictResults.of(run.results.rows)
    if not strict.tasks:
        return reason
    if section == "sparsity":
        target = readable_name(strict.tasks[0][1])
        limits = [figure for figure in figures if figure.name == LIMITS and target in {p.title for p in figure.panels}]
        where = [
            f"The chart “{figure.title}” of the strict protocol has the {target} by sparsity." for figure in limits
        ]
        return " ".join([reason, *where])
    targets = comma_list(readable_name(target) for _, target in strict.tasks)
    scored = f"{reason} The section on the strict protocol has the scores of {targets}."
    return f"{scored} {describe_layers(strict)}".strip()


def _explanations(run: RunData, figures: Mapping[str, Sequence[Figure]]) -> Iterator[PageSection]:
    """Yield the sections on tables of `explain/` that were written."""
    if sentences := splice_sentences(run):
        yield PageSection(
            "splice", "The layer replaced by its reconstruction", "text.html", sentences, figures["splice"]
        )
    if transcripts := lens(run):
        yield PageSection("lens", "Transcripts from each layer", "text_and_table.html", transcripts, figures["lens"])
    if tested := interventions(run):
        yield PageSection("interventions", "Interventions", "text_and_table.html", tested, figures["interventions"])
    if erased := erasure(run):
        yield PageSection("erasure", "Concepts erased", "text_and_table.html", erased, figures["erasure"])
    if attributed := attribution(run):
        yield PageSection("attribution", "Attribution", "attribution.html", attributed, figures["attribution"])
    if swept := sweeps(run):
        yield PageSection("sweeps", "Causal response curves", "text_and_table.html", swept, figures["sweeps"])
    if matched := matching(run):
        yield PageSection(
            "matching", "Latents of other dictionaries", "text_and_table.html", matched, figures["matching"]
        )
    if labels := annotated_labels(run):
        yield PageSection("annotated-labels", "Annotated labels", "annotated_labels.html", labels)


def _subtitle(run: RunData) -> str:
    parts = [run.encoder]
    if name := run.corpus.get("name"):
        parts.append(str(name))
    if run.clips is not None:
        parts.append(count(run.clips.height, "clip"))
        parts.append(count(run.clips["group"].n_unique(), "group"))
    return " · ".join(parts)
