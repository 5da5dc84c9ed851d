"""The report: one self-contained page, and its charts as SVG and PDF."""

from pathlib import Path
from typing import Any

from otoscope.artifacts import atomic
from otoscope.formatting import count
from otoscope.report import evidence, tables
from otoscope.report.claims import page as claims
from otoscope.report.figures.figure import Figure
from otoscope.report.figures.probes import all_figures
from otoscope.report.html import Html, element, join
from otoscope.report.layout import assemble, drawn, section, write_figure
from otoscope.report.run_data import Run, read_run
from otoscope.report.sections import findings, gallery, methods
from otoscope.report.sections.opening import opening
from otoscope.report.sections.strict_findings import strict_findings

MAX_ALL_ROWS = 20_000
"""Results up to this many rows are offered as one download on the page."""

SECTIONS: dict[str, tuple[str, str]] = {
    "layers": ("Probing by layer", "No probes: the results hold no label for this corpus."),
    "sparsity": ("Probing against sparsity", "No probes on codes: the results hold no label or no dictionary."),
    "reconstruction": ("Reconstruction", "No dictionaries: the results hold no explained variance."),
    "factors": ("Factors", "No factors: the results hold no factor regression for this run."),
    "categories": ("Factor categories by layer", "No factors: there is nothing to sort into categories."),
}
"""Heading of each section of figures, and what stands there when it has none."""


PLAINLY = {
    "held_out": (
        "The same clips asked in the plain way: one penalty chosen on validation groups, accuracy over all clips, "
        "factors as they are, one seed, no baselines. These numbers differ from those above and are a first look, not "
        "something to claim by."
    ),
    "mariotte2025": (
        "The same clips asked as the study's own code asks: a probe that keeps its best epoch on the validation clips, "
        "and factors that are fitted and scored on the same clips. These numbers stand here to be compared with the "
        "published ones; they say little of unseen groups."
    ),
}
"""What stands before another protocol's findings where strict ones stand above them."""


def write_report(folder: Path, *, figures: bool = True) -> Path:
    """Write `report/index.html` in a run folder, and `report/figures/*.svg, *.pdf` beside it.

    Nothing is computed: all numbers come from `results.parquet`. Where these ask the study's question, `claims.html`
    examines its three claims. Parts of the run that are missing
    leave a sentence where their figures would stand. Returns the page's path. Raises
    `IncompleteArtifact` when there are no results.
    """
    run = read_run(folder)
    sections = all_figures(run)
    path = folder / "report" / "index.html"
    if figures:
        for figure in (f for listed in sections.values() for f in listed):
            write_figure(path.parent / "figures", figure)
    with atomic(path) as temporary:
        temporary.write_text(render(run, sections, linked=figures), encoding="utf-8")
    claims.write_claims(run, figures=figures)
    return path


def render(run: Run, sections: dict[str, list[Figure]], *, linked: bool = True) -> str:
    """Return the page as text; `linked` says whether the figures' files lie beside it."""
    specs: dict[str, Any] = {}
    rests_on = evidence.of_run(run)
    found = "What was measured" if rests_on and rests_on.thin else "What was found"
    asked = claims.examine(run.results.rows) if claims.is_asked(run.results.rows) else None
    answers = claims.answers(asked) if asked else ()
    first = (opening(run, rests_on, answers), evidence.caution(rests_on), findings.terms())
    plain, said = findings.summary(run, rests_on), strict_findings(run)
    blocks = [("summary", section("summary", found, *first, None if said else plain))]
    if asked:
        blocks.append(("claim", section("claim", "The claim, examined", claims.told(asked))))
    if said:
        shown = [drawn(f, specs, linked=linked) for f in sections["strict"]]
        blocks.append(("strict", section("strict", "Asked strictly", said, *shown)))
        blocks.append(
            ("plain", section("plain", "Asked plainly", element("p", PLAINLY.get(run.results.protocol, "")), plain))
        )
    for name, (title, empty) in SECTIONS.items():
        shown = [drawn(f, specs, linked=linked) for f in sections[name]]
        blocks.append((name, section(name, title, join(*shown) if shown else element("p", empty))))
    blocks += [
        ("gallery", section("gallery", "Gallery of latents", gallery.gallery(run))),
        ("methods", section("methods", "Methods", methods.methods(run))),
        ("set-aside", section("set-aside", "Clips set aside", methods.set_aside(run))),
        (
            "provenance",
            section("provenance", "Where this comes from", join(methods.provenance(run), _all_rows(run))),
        ),
    ]
    return assemble(title=run.title, subtitle=_subtitle(run), blocks=blocks, specs=specs, layers=run.results.layers)


def _subtitle(run: Run) -> str:
    parts = [run.encoder]
    if name := run.corpus.get("name"):
        parts.append(str(name))
    if run.clips is not None:
        parts.append(count(run.clips.height, "clip"))
        parts.append(count(run.clips["group"].n_unique(), "group"))
    return " · ".join(parts)


def _all_rows(run: Run) -> Html:
    rows = run.results.rows
    if rows.height > MAX_ALL_ROWS:
        return element("p", f"All {rows.height:,} results are in results.parquet, beside this report's folder.")
    return element("p", tables.csv_link(rows, "results", f"Download all {rows.height:,} results as CSV"))
