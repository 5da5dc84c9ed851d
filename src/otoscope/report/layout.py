"""Pages put together from sections and figures; figures as SVG and PDF."""

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
from otoscope.report import tables
from otoscope.report.figures.figure import Figure, for_page, for_print
from otoscope.report.figures.theme import PRINT_CONFIG, page_themes, series_colours
from otoscope.report.html import Html, element, join, script_json

BUNDLED = "window.vegaEmbed = vegaEmbed;"
"""What the bundled script must offer to the page's own."""


def write_figure(folder: Path, figure: Figure) -> None:
    """Write one figure as SVG and as PDF, on white.

    The SVG has the same bytes each time; the PDF is the same drawing, but the converter lists its
    objects in any order.
    """
    svg = _renumbered(vlc.vegalite_to_svg(for_print(figure, PRINT_CONFIG)))
    with atomic(folder / f"{figure.name}.svg") as temporary:
        temporary.write_text(svg, encoding="utf-8")
    with atomic(folder / f"{figure.name}.pdf") as temporary:
        temporary.write_bytes(vlc.svg_to_pdf(svg))


def _renumbered(svg: str) -> str:
    """Number gradients and clips from 0 in each file: the converter counts on from one file to the next."""
    ids = list(dict.fromkeys(re.findall(r'id="((?:gradient_|clip)\d+)"', svg)))
    new = {old: f"{old.rstrip('0123456789')}{number}" for number, old in enumerate(ids)}
    return re.sub(r'(id="|url\(#)((?:gradient_|clip)\d+)', lambda m: m[1] + new.get(m[2], m[2]), svg)


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


def section(name: str, title: str, *content: Html | None) -> Html:
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
        specs[key] = for_page(panel, figure.height)
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
    keys = (
        element("li", element("span", class_="key", style=f"--light:{c.light};--dark:{c.dark}"), " ", n)
        for n, c in series_colours(figure.legend).items()
    )
    return element("ul", *keys, class_="legend", aria_label="Colours")


def _resource(name: str) -> str:
    return (files("otoscope.report") / name).read_text(encoding="utf-8")


@cache
def _bundle() -> str:
    """Return Vega, Vega-Lite and vega-embed as one script that may stand inside a page."""
    return vlc.javascript_bundle(snippet=BUNDLED).replace("</script", "<\\/script").replace("<!--", "<\\!--")
