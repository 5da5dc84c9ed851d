"""Figures and their panels, and the Vega-Lite specifications of page and print."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import altair as alt
import polars as pl

Chart = alt.Chart | alt.LayerChart
AnyChart = alt.Chart | alt.LayerChart | alt.ConcatChart | alt.VConcatChart


@dataclass(frozen=True)
class Panel:
    """One chart with a short heading; a figure has one or more panels."""

    chart: Chart
    title: str = ""

    @cached_property
    def spec(self) -> dict[str, Any]:
        """The chart as Vega-Lite without a configuration, so that only the theme applies."""
        return {key: value for key, value in self.chart.to_dict(validate=False).items() if key != "config"}


@dataclass(frozen=True)
class Figure:
    """One figure: its panels, how to read them, and the rows of its table."""

    name: str
    title: str
    caption: str
    panels: Sequence[Panel]
    table: pl.DataFrame
    height: int = 300
    small: bool = False
    legend: Sequence[str] = ()
    notes: Sequence[str] = ()


def for_page(panel: Panel, height: int) -> dict[str, Any]:
    """Return the specification for the page: as wide as its container, without the legend that the page shows."""
    fitted = {"width": "container", "height": height, "autosize": {"type": "fit-x"}}
    layers = [_without_legend(layer) for layer in panel.spec.get("layer", [])]
    return {**panel.spec, **({"layer": layers} if layers else {}), **fitted}


def _without_legend(layer: dict[str, Any]) -> dict[str, Any]:
    encoding = layer.get("encoding", {})
    if encoding.get("color", {}).get("field") != "series":
        return layer
    return {**layer, "encoding": {**encoding, "color": {**encoding["color"], "legend": None}}}


def figure_chart(figure: Figure, config: Mapping[str, Any]) -> AnyChart:
    """Return a figure as one chart: all panels on one sheet, two per row, or four if they are small.

    Each panel has its own offset scale: a shared one takes the width of a row or column from the first panel.
    """
    several = len(figure.panels) > 1
    width = 220 if figure.small else (320 if several else 640)
    panels = [
        panel.chart.properties(width=width, height=figure.height, title=panel.title if several else figure.title)
        for panel in figure.panels
    ]
    if not several:
        return panels[0].configure(**config)
    sheet = alt.concat(*panels, columns=4 if figure.small else 2, spacing=24, title=figure.title)
    return sheet.resolve_scale(xOffset="independent", yOffset="independent").configure(**config)
