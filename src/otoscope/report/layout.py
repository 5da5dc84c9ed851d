"""Pages rendered from Jinja2 templates; figures written as SVG and PDF."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import vl_convert as vlc
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from otoscope.artifacts import atomic
from otoscope.report import tables
from otoscope.report.figures.figure import Figure, figure_chart, for_page
from otoscope.report.figures.theme import PRINT_CONFIG, Colour, page_themes, series_colours

BUNDLED = "window.vegaEmbed = vegaEmbed;"
"""Export of the bundled script for the page's own script."""


def write_figure(folder: Path, figure: Figure) -> None:
    """Write one figure as SVG and as PDF, on white; both have the same bytes each time."""
    svg = _renumbered(vlc.vegalite_to_svg(figure_chart(figure, PRINT_CONFIG).to_dict(validate=False)))
    with atomic(folder / f"{figure.name}.svg") as temporary:
        temporary.write_text(svg, encoding="utf-8")
    with atomic(folder / f"{figure.name}.pdf") as temporary:
        temporary.write_bytes(_ordered(vlc.svg_to_pdf(svg)))


def _ordered(pdf: bytes) -> bytes:
    """Number the objects of a PDF in the order of their references; the converter leaves it to chance."""
    head, *parts, end = re.split(rb"(?m)^(?=\d+ 0 obj\n|xref\r?\n)", pdf)
    listed = rb"(?<=<<\n)(?:[ ]+/\w+ \d+ 0 R\n)+(?=[ ]*>>)"
    objects: dict[bytes, tuple[bytes, bytes]] = {}
    for part in parts:
        number, content = part.split(maxsplit=1)
        entries, stream, data = content.rstrip().partition(b"\nstream")
        objects[number] = re.sub(listed, lambda m: b"".join(sorted(m[0].splitlines(True))), entries), stream + data
    pending, new = re.findall(rb"(\d+) 0 R", end), dict[bytes, bytes]()
    while pending:
        if (number := pending.pop(0)) not in new:
            new[number] = b"%d" % (len(new) + 1)
            pending += re.findall(rb"(\d+) 0 R", objects[number][0])

    def renumbered(text: bytes) -> bytes:
        return re.sub(rb"\d+(?= 0 R)", lambda match: new[match[0]], text)

    written = [b"%s %s%s\n\n" % (new[old], renumbered(objects[old][0]), objects[old][1]) for old in new]
    *offsets, start = accumulate(map(len, written), initial=len(head))
    places = iter([b"%010d 00000 n" % offset for offset in offsets])
    end = re.sub(rb"\d{10} 00000 n", lambda _: next(places), renumbered(end))
    return head + b"".join(written) + re.sub(rb"(?<=startxref\n)\d+", b"%d" % start, end)


def _renumbered(svg: str) -> str:
    """Number gradients and clips from 0: the converter's counter runs across files."""
    ids = list(dict.fromkeys(re.findall(r'id="((?:gradient_|clip)\d+)"', svg)))
    new = {old: f"{old.rstrip('0123456789')}{number}" for number, old in enumerate(ids)}
    return re.sub(r'(id="|url\(#)((?:gradient_|clip)\d+)', lambda m: m[1] + new.get(m[2], m[2]), svg)


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
