"""Pages rendered from Jinja2 templates."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

import vl_convert as vlc
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from otoscope.report import tables
from otoscope.report.figures.figure import Figure, for_page
from otoscope.report.figures.theme import Colour, page_themes, series_colours

BUNDLED = "window.vegaEmbed = vegaEmbed;"
"""Export of the bundled script for the page's own script."""


@dataclass(frozen=True)
class PageSection:
    """One section of a page: heading, the template that renders `content`, then figures.

    `template` is a file of `templates/sections/`; it sees `content` alone.
    """

    name: str
    title: str
    template: str = ""
    content: Any = None
    figures: Sequence[Figure] = ()


class FigureView(NamedTuple):
    """A figure with its table and legend prepared for the template."""

    figure: Figure
    table: tables.FoldedTable | None
    colours: Mapping[str, Colour]


def render_page(
    *, title: str, subtitle: str, sections: Sequence[PageSection], layers: Sequence[int] = (), linked: bool = False
) -> str:
    """Return a self-contained page.

    `layers` are those that have a colour in the charts; `linked` states whether SVG and PDF files of the figures exist
    next to the page.
    """
    figures = [figure for section in sections for figure in section.figures]
    specs = {
        f"{figure.name}-{number}": for_page(panel, figure.height)
        for figure in figures
        for number, panel in enumerate(figure.panels)
    }
    return (
        templates()
        .get_template("page.html")
        .render(
            title=title,
            subtitle=subtitle,
            sections=sections,
            figures={figure.name: _view(figure) for figure in figures},
            linked=linked,
            specs=specs,
            themes=page_themes(layers),
            style=_resource("style.css"),
            script=_resource("page.js"),
            bundle=_bundle() if specs else "",
        )
    )


def _view(figure: Figure) -> FigureView:
    table = tables.folded(f"Table: {figure.title}", figure.table, figure.name)
    return FigureView(figure, table, series_colours(figure.legend))


@cache
def templates() -> Environment:
    """Return the Jinja2 environment of the pages: autoescaping, undefined names are errors."""
    environment = Environment(
        loader=PackageLoader("otoscope.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "allow_nan": False}
    environment.filters |= {"code": with_code, "breakable": breakable}
    return environment


def with_code(text: str) -> Markup:
    """Escape text and mark up what stands between backticks as code; a lone backtick stays as it is.

    >>> print(with_code("a < b: run `otoscope run`"))
    a &lt; b: run <code>otoscope run</code>
    """
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def breakable(name: str) -> Markup:
    """Escape a name and allow line breaks after its slashes and underscores.

    >>> print(breakable("a/b_c"))
    a/<wbr>b_<wbr>c<wbr>
    """
    return Markup("").join(escape(piece) + Markup("<wbr>") for piece in re.findall(r"[^/_]*[/_]?", name) if piece)


def _resource(name: str) -> Markup:
    return Markup((files("otoscope.report") / "templates" / name).read_text(encoding="utf-8"))


@cache
def _bundle() -> Markup:
    """Return Vega, Vega-Lite and vega-embed as one script, safe inside an HTML page."""
    return Markup(vlc.javascript_bundle(snippet=BUNDLED).replace("</script", "<\\/script").replace("<!--", "<\\!--"))
