"""Figures and their panels, and the Vega-Lite specifications of page and print.

Shared parts of charts: rows, axes, colours, tooltips, intervals and nulls.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import altair as alt
import polars as pl

from otoscope.formatting import sparsity
from otoscope.metrics.representation import CODES, REPRESENTATIONS
from otoscope.report.figures.theme import NULL, SERIES, series_colours

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


def figure_chart(figure: Figure, config: Mapping[str, Any]) -> AnyChart:
    """Return a figure as one chart: all panels on one sheet, two per row, or four if they are small."""
    several = len(figure.panels) > 1
    width = 220 if figure.small else (320 if several else 640)
    panels = [
        panel.chart.properties(width=width, height=figure.height, title=panel.title if several else figure.title)
        for panel in figure.panels
    ]
    if not several:
        return panels[0].configure(**config)
    sheet = alt.concat(*panels, columns=4 if figure.small else 2, spacing=24, title=figure.title)
    return sheet.configure(**config)


def _without_legend(layer: dict[str, Any]) -> dict[str, Any]:
    encoding = layer.get("encoding", {})
    if encoding.get("color", {}).get("field") != "series":
        return layer
    return {**layer, "encoding": {**encoding, "color": {**encoding["color"], "legend": None}}}


SHORT_LABELS = {r.name: r.short_label for r in REPRESENTATIONS.values() if r.short_label}

PERCENT = ".1~%"
R2_FLOOR = -0.2
"""Lower end of axes of held-out R², which has no lower bound; captions state it."""


def with_series_names(rows: pl.DataFrame, main_pooling: str) -> pl.DataFrame:
    """Add `series`, the representation's name in legends."""
    pooled_first = (pl.col("pooling") == "pool_then_encode") & (main_pooling != "pool_then_encode")
    series = (
        pl.when((pl.col("representation") == CODES) & pooled_first)
        .then(pl.lit("SAE, pooled first"))
        .otherwise(pl.col("representation").replace(SHORT_LABELS))
    )
    return rows.with_columns(series.alias("series"))


def null_band(data: pl.DataFrame, place: str, x: alt.X, y_title: str) -> list[alt.Chart]:
    """Draw the nulls of all representations at each position as one band, from their mean to the highest end."""
    nulls = data.filter(pl.col("null_mean").is_not_null()).group_by(place, maintain_order=True)
    nulls_by_position = nulls.agg(pl.col("null_mean").mean(), pl.col("null_high").max()).sort(place)
    if nulls_by_position.is_empty():
        return []
    base = alt.Chart(nulls_by_position).encode(x=x)
    mean = alt.Y("null_mean:Q").title(y_title)
    band = base.mark_area(opacity=0.25, color=NULL.light).encode(y=mean, y2="null_high:Q")
    return [band, base.mark_line(strokeDash=[4, 3], strokeWidth=1.2, color=NULL.light).encode(y=mean)]


def intervals(data: pl.DataFrame, base: alt.Chart, y_title: str, colour: alt.Color) -> list[alt.Chart]:
    """Draw a vertical line for each interval; nothing without intervals."""
    if not data["low"].is_not_null().any():
        return []
    whisker = base.mark_rule(strokeWidth=2, opacity=0.6)
    return [whisker.encode(y=alt.Y("low:Q").title(y_title), y2="high:Q", color=colour)]


def series_names(rows: pl.DataFrame) -> list[str]:
    """Return the names that a legend explains, in the order of `SERIES`."""
    names = rows["series"].unique().to_list()
    return [n for n in SERIES if n in names] + sorted(n for n in names if n not in SERIES)


def series_colour(rows: pl.DataFrame) -> alt.Color:
    """Return the colour encoding of the series, as in the legend."""
    colours = series_colours(series_names(rows))
    return (
        alt.Color("series:N")
        .title(None)
        .scale(domain=list(colours), range=[colour.light for colour in colours.values()])
    )


def plain_rows(rows: pl.DataFrame) -> pl.DataFrame:
    """Keep rows with a value, NaN as null, and add the labels of the sparsities."""
    floats = pl.selectors.float()
    kept = rows.filter(pl.col("value").is_not_nan() & pl.col("value").is_not_null())
    labels = [sparsity(s) for s in kept["sparsity"]]
    columns = ["layer", "k", "target", "representation", "sparsity", "value", "low", "high", "null_mean", "null_high"]
    columns += ["n", "groups"] + (["series"] if "series" in rows.columns else [])
    return kept.select(columns).with_columns(floats.fill_nan(None), pl.Series("label", labels, dtype=pl.String()))


def sparsity_axis(sparsities: Sequence[float]) -> alt.X:
    """Return the horizontal axis of charts over all sparsities of a page."""
    order = [sparsity(s) for s in sparsities]
    return alt.X("label:O").title("sparsity (share of latents held at zero)").sort(order).scale(domain=order)


def tooltip(*first: str) -> list[alt.Tooltip]:
    """Return tooltips of some columns, then value, interval, null and sample size."""
    titles = {"label:N": "sparsity", "series:N": "representation"}
    return [
        *(alt.Tooltip(f, title=titles[f]) if f in titles else alt.Tooltip(f) for f in first),
        alt.Tooltip("value:Q", format=".4f"),
        alt.Tooltip("low:Q", format=".4f", title="interval from"),
        alt.Tooltip("high:Q", format=".4f", title="interval to"),
        alt.Tooltip("null_mean:Q", format=".4f", title="null"),
        alt.Tooltip("null_high:Q", format=".4f", title="null, upper end"),
        alt.Tooltip("n:Q", title="rows"),
        alt.Tooltip("groups:Q"),
    ]


def layered(*layers: alt.Chart) -> alt.LayerChart:
    """Overlay charts, the first at the bottom."""
    return alt.LayerChart(layer=list(layers))
