"""Figures as SVG and PDF files, drawn in a process of its own, because the JavaScript engine may abort its process."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import vl_convert as vlc

from otoscope.artifacts import atomic
from otoscope.errors import ExecutorError
from otoscope.formatting import one_line
from otoscope.report.figures.figure import Figure, figure_chart
from otoscope.report.figures.theme import PRINT_CONFIG

_DRAW = """
import json, sys
import vl_convert
json.dump([vl_convert.vegalite_to_svg(chart) for chart in json.load(sys.stdin)], sys.stdout)
"""


def write_figures(folder: Path, figures: Sequence[Figure]) -> None:
    """Write figures as SVG and as PDF, on white; both have the same bytes each time.

    Raises `ExecutorError` if the JavaScript engine cannot start: it reserves 67 GB of address space, of which it uses
    little.
    """
    if not figures:
        return
    charts = [figure_chart(figure, PRINT_CONFIG).to_dict(validate=False) for figure in figures]
    for figure, drawn in zip(figures, _draw(json.dumps(charts)), strict=True):
        svg = _renumbered(drawn)
        with atomic(folder / f"{figure.name}.svg") as temporary:
            temporary.write_text(svg, encoding="utf-8")
        with atomic(folder / f"{figure.name}.pdf") as temporary:
            temporary.write_bytes(_ordered(vlc.svg_to_pdf(svg)))


def _draw(charts: str) -> list[str]:
    """Return Vega-Lite charts, given as a JSON list, as SVG."""
    command = [sys.executable, "-P", "-c", _DRAW]  # -P: no module from the working directory
    done = subprocess.run(command, input=charts.encode(), capture_output=True, check=False)
    if done.returncode == 0:
        return json.loads(done.stdout)
    said = done.stderr.decode(errors="replace").strip()
    if done.returncode > 0:
        raise RuntimeError(f"charts cannot be drawn: {one_line(said.splitlines()[-1] if said else done.returncode)}")
    name = signal.Signals(-done.returncode).name
    raise ExecutorError(
        f"charts cannot be drawn: their process ended with {name}; its JavaScript engine reserves 67 GB of address "
        "space; raise that limit (`ulimit -v unlimited`) and run again; all numbers are in results.parquet"
    )


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
