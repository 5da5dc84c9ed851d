"""A figure and its panels: what they hold, and the Vega-Lite that the page and print draw of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import altair as alt
import polars as pl

Chart = alt.Chart | alt.LayerChart


@dataclass(frozen=True)
class Panel:
    """One chart with its own short heading; several stand side by side in a figure."""

    chart: Chart
    title: str = ""

    @cached_property
    def spec(self) -> dict[str, Any]:
        """The chart as Vega-Lite without a configuration, so that the theme alone decides."""
        return {key: value for key, value in self.chart.to_dict(validate=False).items() if key != "config"}


@dataclass(frozen=True)
class Figure:
    """What one figure shows: its panels, how to read it, and the rows of the table behind it."""

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
    """Return the specification that the page draws: as wide as its container, its legend left to the page."""
    fitted = {"width": "container", "height": height, "autosize": {"type": "fit-x"}}
    layers = [_without_legend(layer) for layer in panel.spec.get("layer", [])]
    return {**panel.spec, **({"layer": layers} if layers else {}), **fitted}


def for_print(figure: Figure, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the specification of the static figure: all panels on one sheet, four or two to a row."""
    several = len(figure.panels) > 1
    size = {"width": 220 if figure.small else (320 if several else 640), "height": figure.height}
    sized: list[dict[str, Any]] = [
        {**p.spec, **size, "title": p.title if several else figure.title} for p in figure.panels
    ]
    if not several:
        return {**sized[0], "config": dict(config)}
    # Only the top level of a specification may hold named data.
    datasets = {name: rows for spec in sized for name, rows in spec["datasets"].items()}
    panels = [{k: v for k, v in spec.items() if k not in ("datasets", "$schema")} for spec in sized]
    whole = {"$schema": sized[0]["$schema"], "datasets": datasets, "title": figure.title, "concat": panels}
    return {**whole, "columns": 4 if figure.small else 2, "spacing": 24, "config": dict(config)}


def _without_legend(layer: dict[str, Any]) -> dict[str, Any]:
    encoding = layer.get("encoding", {})
    if encoding.get("color", {}).get("field") != "series":
        return layer
    return {**layer, "encoding": {**encoding, "color": {**encoding["color"], "legend": None}}}
