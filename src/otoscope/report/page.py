"""The report: one self-contained page, and its charts as SVG and PDF."""

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import vl_convert as vlc

from otoscope.artifacts import atomic
from otoscope.report import charts, gallery, methods, summary, tables, words
from otoscope.report.charts import Figure
from otoscope.report.figures import all_figures
from otoscope.report.folder import Run, read_run
from otoscope.report.html import Html, element, join, script_json
from otoscope.report.strict_words import strict_findings
from otoscope.report.theme import OTHER, PRINT_CONFIG, REPRESENTATIONS, page_themes

MAX_ALL_ROWS = 20_000
"""Results up to this many rows are offered as one download on the page."""

BUNDLED = "window.vegaEmbed = vegaEmbed;"
"""What the bundled script must offer to the page's own."""

SECTIONS: dict[str, tuple[str, str]] = {
    "layers": ("Probing by layer", "No probes: the results hold no label for this corpus."),
    "sparsity": ("Probing against sparsity", "No probes on codes: the results hold no label or no dictionary."),
    "reconstruction": ("Reconstruction", "No dictionaries: the results hold no explained variance."),
    "factors": ("Factors", "No factors: the results hold no factor regression for this run."),
    "categories": ("Factor categories by layer", "No factors: there is nothing to sort into categories."),
}
"""Heading of each section of figures, and what stands there when it has none."""


def write_report(folder: Path, *, figures: bool = True) -> Path:
    """Write `report/index.html` in a run folder, and `report/figures/*.svg, *.pdf` beside it.

    Nothing is computed: all numbers come from `results.parquet`. Parts of the run that are missing
    leave a sentence where their figures would stand. Returns the page's path. Raises
    `IncompleteArtifact` when there are no results.
    """
    run = read_run(folder)
    sections = all_figures(run)
    page = folder / "report" / "index.html"
    if figures:
        for figure in (f for listed in sections.values() for f in listed):
            write_figure(page.parent / "figures", figure)
    with atomic(page) as temporary:
        temporary.write_text(render(run, sections, linked=figures), encoding="utf-8")
    return page


def write_figure(folder: Path, figure: Figure) -> None:
    """Write one figure as SVG and as PDF, on white.

    The SVG has the same bytes each time; the PDF is the same drawing, but the converter lists its
    objects in any order.
    """
    svg = _renumbered(vlc.vegalite_to_svg(charts.for_print(figure, PRINT_CONFIG)))
    with atomic(folder / f"{figure.name}.svg") as temporary:
        temporary.write_text(svg, encoding="utf-8")
    with atomic(folder / f"{figure.name}.pdf") as temporary:
        temporary.write_bytes(vlc.svg_to_pdf(svg))


def _renumbered(svg: str) -> str:
    """Number gradients and clips from 0 in each file: the converter counts on from one file to the next."""
    ids = list(dict.fromkeys(re.findall(r'id="((?:gradient_|clip)\d+)"', svg)))
    new = {old: f"{old.rstrip('0123456789')}{number}" for number, old in enumerate(ids)}
    return re.sub(r'(id="|url\(#)((?:gradient_|clip)\d+)', lambda m: m[1] + new.get(m[2], m[2]), svg)


def render(run: Run, sections: dict[str, list[Figure]], *, linked: bool = True) -> str:
    """Return the page as text; `linked` says whether the figures' files lie beside it."""
    specs: dict[str, Any] = {}
    blocks = [("summary", section("summary", "What was found", summary.summary(run)))]
    for name, (title, empty) in SECTIONS.items():
        shown = [drawn(f, specs, linked=linked) for f in sections[name]]
        blocks.append((name, section(name, title, join(*shown) if shown else element("p", empty))))
    if said := strict_findings(run):
        shown = [drawn(f, specs, linked=linked) for f in sections["strict"]]
        blocks.append(("strict", section("strict", "Asked strictly", said, *shown)))
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


def assemble(
    *,
    title: str,
    subtitle: str,
    blocks: Sequence[tuple[str, Html]],
    specs: Mapping[str, Any] | None = None,
    layers: Sequence[int] = (),
) -> str:
    """Return a page of named sections; `specs` are the charts that they hold, `layers` those that have colours."""
    links = (element("li", element("a", n.capitalize().replace("-", " "), href=f"#{n}")) for n, _ in blocks)
    return Template(_resource("page.html")).substitute(
        title=join(title),
        subtitle=join(subtitle),
        contents=join(*links),
        style=_resource("style.css"),
        body=join(*(block for _, block in blocks)),
        specs=script_json(json.dumps(specs or {}, ensure_ascii=False, allow_nan=False)),
        themes=script_json(json.dumps(page_themes(layers))),
        bundle=_bundle() if specs else "",
        script=_resource("page.js"),
    )


def section(name: str, title: str, *content: Html) -> Html:
    """Return one section with its heading."""
    return element(
        "section", element("h2", title, id=f"{name}-title"), *content, id=name, aria_labelledby=f"{name}-title"
    )


def drawn(figure: Figure, specs: dict[str, Any], *, linked: bool) -> Html:
    """Return a figure, and add its charts to `specs`; `linked` says whether its files lie beside the page."""
    several = len(figure.panels) > 1
    panels: list[Html] = []
    for number, panel in enumerate(figure.panels):
        key = f"{figure.name}-{number}"
        specs[key] = charts.for_page(panel, figure.height)
        name = f"{figure.title}: {panel.title}" if panel.title else figure.title
        chart = element("div", id=f"chart-{key}", class_="chart", data_chart=key, style=f"min-height:{figure.height}px")
        heading = element("h4", panel.title) if several else None
        panels.append(element("div", heading, chart, class_="panel", role="group", aria_label=name))
    files_of = [
        join(element("a", kind.upper(), href=f"figures/{figure.name}.{kind}"), " ") for kind in ("svg", "pdf") if linked
    ]
    links = element("p", "The same chart as a file beside this page: ", *files_of, class_="quiet") if linked else None
    layout = "panels small" if figure.small else ("panels" if several else "panels single")
    return element(
        "figure",
        element("h3", figure.title),
        element("figcaption", figure.caption, class_="caption"),
        _legend(figure),
        element("div", *panels, class_=layout),
        *(element("p", note, class_="quiet") for note in figure.notes),
        tables.folded(f"Table: {figure.title}", figure.table, figure.name),
        links,
        class_="figure",
        id=f"figure-{figure.name}",
    )


def _legend(figure: Figure) -> Html | None:
    """Explain the colours of the representations once for all panels."""
    if not figure.legend:
        return None
    shown = (REPRESENTATIONS.get(n, OTHER) for n in figure.legend)
    keys = (
        element("li", element("span", class_="key", style=f"--light:{c.light};--dark:{c.dark}"), " ", n)
        for n, c in zip(figure.legend, shown, strict=True)
    )
    return element("ul", *keys, class_="legend", aria_label="Colours")


def _subtitle(run: Run) -> str:
    parts = [run.encoder]
    if name := run.corpus.get("name"):
        parts.append(str(name))
    if run.clips is not None:
        parts.append(words.count(run.clips.height, "clip"))
        parts.append(words.count(run.clips["group"].n_unique(), "group"))
    return " · ".join(parts)


def _all_rows(run: Run) -> Html:
    rows = run.results.rows
    if rows.height > MAX_ALL_ROWS:
        return element("p", f"All {rows.height:,} results are in results.parquet, beside this report's folder.")
    return element("p", tables.csv_link(rows, "results", f"Download all {rows.height:,} results as CSV"))


def _resource(name: str) -> str:
    return (files("otoscope.report") / name).read_text(encoding="utf-8")


@cache
def _bundle() -> str:
    """Return Vega, Vega-Lite and vega-embed as one script that may stand inside a page."""
    return vlc.javascript_bundle(snippet=BUNDLED).replace("</script", "<\\/script").replace("<!--", "<\\!--")
