"""Charts as Altair specifications: one for the page, the same for SVG and PDF."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import altair as alt
import polars as pl

from otoscope.report import words
from otoscope.report.theme import DENSE, FACTOR, NULL, OTHER, REPRESENTATIONS, SAE, layer_colours

Chart = alt.Chart | alt.LayerChart

PERCENT = ".0%"
R2_FLOOR = -0.2
"""Held-out R² has no lower bound; charts clip it here and say so."""


@dataclass(frozen=True)
class Panel:
    """One chart with its own short heading; several stand side by side in a figure."""

    chart: Chart
    title: str = ""


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
    notes: Sequence[str] = field(default=())


def named(rows: pl.DataFrame, main_pooling: str) -> pl.DataFrame:
    """Add `series`, the representation as the legend names it."""
    pooled_first = (pl.col("pooling") == "pool_then_encode") & (main_pooling != "pool_then_encode")
    series = (
        pl.when(pl.col("representation") == "dense")
        .then(pl.lit("dense"))
        .when((pl.col("representation") == "sae") & pooled_first)
        .then(pl.lit("SAE, pooled first"))
        .when(pl.col("representation") == "sae")
        .then(pl.lit("SAE"))
        .otherwise(pl.col("representation"))
    )
    return rows.with_columns(series.alias("series"))


def by_layer(rows: pl.DataFrame, *, y_title: str) -> Chart:
    """Draw a metric against the layer: a line a representation with intervals, the null as a grey band."""
    data = _plain(rows)
    x = alt.X("layer:O").title("layer (0 = input of the first block)")
    base = alt.Chart(data).encode(x=x)
    y_scale = alt.Scale(domainMin=0)
    value = alt.Y("value:Q").title(y_title).axis(format=PERCENT).scale(y_scale)
    colour = _series_colour(rows)
    band = base.transform_filter("isValid(datum.null_high)").mark_area(opacity=0.2, color=NULL.light)
    null = band.encode(y=alt.Y("null_low:Q").title(y_title), y2="null_high:Q", detail="series:N")
    null_points = base.mark_tick(color=NULL.light, thickness=2).encode(y=alt.Y("null_mean:Q").title(y_title))
    whisker = base.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=2, opacity=0.65)
    offset = alt.XOffset("series:N")
    interval = whisker.encode(y=alt.Y("low:Q").title(y_title), y2="high:Q", color=colour, xOffset=offset)
    points = base.mark_point(filled=True, size=60, opacity=1)
    dots = points.encode(y=value, color=colour, xOffset=offset, tooltip=_tooltip("layer:O"))
    lines = base.mark_line(strokeWidth=1.5, opacity=0.55).encode(y=value, color=colour, xOffset=offset)
    return alt.layer(null, null_points, lines, interval, dots)


def against_sparsity(rows: pl.DataFrame, *, y_title: str, legend: bool = True) -> Chart:
    """Draw a metric of the codes against sparsity, with the dense layer as a line across and the null in grey."""
    coded = _plain(rows.filter(pl.col("representation") != "dense"))
    dense = _plain(rows.filter(pl.col("representation") == "dense"))
    colour = _series_colour(rows, legend=legend)
    x = _sparsity_axis(coded)
    y = alt.Y("value:Q").title(y_title).axis(format=PERCENT).scale(alt.Scale(domainMin=0))
    layers: list[alt.Chart] = []
    across = alt.Chart(dense)
    if dense.height:
        known = across.transform_filter("isValid(datum.low)")
        layers.append(known.mark_rect(opacity=0.16, color=DENSE.light).encode(y=alt.Y("low:Q"), y2="high:Q"))
        nulled = across.transform_filter("isValid(datum.null_high)")
        layers.append(nulled.mark_rect(opacity=0.2, color=NULL.light).encode(y=alt.Y("null_low:Q"), y2="null_high:Q"))
        tips = _tooltip("layer:O")
        layers.append(across.mark_rule(strokeWidth=2).encode(y=y, color=colour, tooltip=tips))
    base = alt.Chart(coded).encode(x=x)
    null = base.transform_filter("isValid(datum.null_high)").mark_rule(strokeWidth=6, opacity=0.35, color=NULL.light)
    layers.append(null.encode(y=alt.Y("null_low:Q").title(y_title), y2="null_high:Q"))
    interval = base.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=2, opacity=0.65)
    layers.append(interval.encode(y=alt.Y("low:Q").title(y_title), y2="high:Q", color=colour))
    layers.append(base.mark_line(strokeWidth=2).encode(y=y, color=colour))
    tips = _tooltip("layer:O", "label:N", "k:Q")
    layers.append(base.mark_point(filled=True, size=60, opacity=1).encode(y=y, color=colour, tooltip=tips))
    return alt.layer(*layers)


def lines_by_layer(rows: pl.DataFrame, *, y_title: str) -> Chart:
    """Draw a metric against sparsity, a line a layer, the null (where there is one) dotted in grey."""
    data = _plain(rows)
    colours = layer_colours(data["layer"].to_list())
    scale = alt.Scale(domain=list(colours), range=[c.light for c in colours.values()])
    colour = alt.Color("layer:O").title("layer").scale(scale)
    x = _sparsity_axis(data)
    y = alt.Y("value:Q").title(y_title).scale(alt.Scale(zero=False))
    base = alt.Chart(data).encode(x=x)
    null = base.transform_filter("isValid(datum.null_mean)").mark_line(strokeDash=[2, 3], color=NULL.light)
    interval = base.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=2, opacity=0.5)
    return alt.layer(
        null.encode(y=alt.Y("null_mean:Q").title(y_title), detail="layer:O"),
        interval.encode(y=alt.Y("low:Q").title(y_title), y2="high:Q", color=colour),
        base.mark_line(strokeWidth=2).encode(y=y, color=colour),
        base.mark_point(filled=True, size=60, opacity=1).encode(
            y=y, color=colour, tooltip=_tooltip("layer:O", "label:N", "k:Q")
        ),
    )


def factor_panel(rows: pl.DataFrame, *, order: Sequence[str], y_title: str, logarithmic: bool, top: float) -> Chart:
    """Draw one category: each factor a light line over dense and the sparsities, their median bold.

    `order` are the labels on the x axis, "dense" first; `top` is the upper end that all panels share.
    """
    data = _plain(rows).with_columns(
        pl.when(pl.col("representation") == "dense").then(pl.lit("dense")).otherwise(pl.col("label")).alias("label")
    )
    median = data.group_by("label").agg(pl.col("value").median(), pl.col("target").n_unique().alias("factors"))
    median = median.sort("label").with_columns(
        pl.when(pl.col("label") == "dense").then(pl.lit("dense")).otherwise(pl.lit("SAE")).alias("series")
    )
    x = alt.X("label:O").title("sparsity").sort(list(order)).scale(domain=list(order))
    domain = alt.Scale(type="log", domain=[1, top]) if logarithmic else alt.Scale(domain=[R2_FLOOR, top], clamp=True)
    axis = alt.Axis(values=_powers(top)) if logarithmic else alt.Axis(format=".1f")
    y = alt.Y("value:Q").title(y_title).scale(domain).axis(axis)
    light = alt.Chart(data).encode(x=x, y=y, detail="target:N")
    tips = [alt.Tooltip("target:N"), alt.Tooltip("label:N"), alt.Tooltip("value:Q", format=".3f")]
    tips.append(alt.Tooltip("null_high:Q", format=".3f", title="null, upper end"))
    bold = alt.Chart(median).encode(x=x, y=y)
    colour = _series_colour(median, legend=False)
    codes = bold.transform_filter("datum.label != 'dense'")
    return alt.layer(
        light.transform_filter("datum.label != 'dense'").mark_line(color=FACTOR.light, strokeWidth=1),
        light.mark_point(filled=True, size=14, color=FACTOR.light, opacity=1).encode(tooltip=tips),
        codes.mark_line(strokeWidth=2.5, color=SAE.light),
        bold.mark_point(filled=True, size=75, opacity=1).encode(
            color=colour,
            tooltip=[alt.Tooltip("label:N"), alt.Tooltip("value:Q", format=".3f", title="median"), "factors:Q"],
        ),
    )


def category_map(cells: pl.DataFrame, *, categories: Sequence[str], dark_above: float = 0.55) -> Chart:
    """Draw the share of each category's factors that are predicted, a column a layer."""
    x = alt.X("layer:O").title("layer")
    y = alt.Y("category:N").title(None).sort(list(categories)).axis(labelLimit=150)
    base = alt.Chart(cells).encode(x=x, y=y)
    legend = alt.Legend(format=PERCENT, orient="top", gradientLength=180, titleLimit=400)
    colour = alt.Color("share:Q").title("share of the category's factors predicted").scale(domain=[0, 1]).legend(legend)
    tips: list[Any] = [alt.Tooltip("category:N"), alt.Tooltip("layer:O"), alt.Tooltip("text:N", title="predicted")]
    tips.append(alt.Tooltip("mean_r2:Q", format=".3f", title="mean held-out R²"))
    tiles = base.mark_rect(cornerRadius=2).encode(color=colour, tooltip=tips)
    if cells["layer"].n_unique() > 8:
        return tiles
    ink = alt.when(f"datum.share > {dark_above}").then(alt.value("#ffffff")).otherwise(alt.value("#22252a"))
    return alt.layer(tiles, base.mark_text(fontSize=11).encode(text="text:N", color=ink))


def _series_colour(rows: pl.DataFrame, *, legend: bool = True) -> alt.Color:
    found = rows["series"].unique().to_list()
    names = [n for n in REPRESENTATIONS if n in found] + sorted(n for n in found if n not in REPRESENTATIONS)
    colours = [REPRESENTATIONS[n].light if n in REPRESENTATIONS else OTHER.light for n in names]
    colour = alt.Color("series:N").title(None).scale(domain=names, range=colours)
    return colour if legend else colour.legend(None)


def _plain(rows: pl.DataFrame) -> pl.DataFrame:
    """Keep rows with a value, NaN as null, and add the labels and the lower end of the null band."""
    floats = pl.selectors.float()
    kept = rows.filter(pl.col("value").is_not_nan() & pl.col("value").is_not_null())
    labels = [words.sparsity(s) for s in kept["sparsity"]]
    columns = ["layer", "k", "target", "representation", "sparsity", "value", "low", "high", "null_mean", "null_high"]
    columns += ["n", "groups"] + (["series"] if "series" in rows.columns else [])
    # The band is as deep below the mean as the null's upper end lies above it, and never below zero.
    low = pl.max_horizontal(2 * pl.col("null_mean") - pl.col("null_high"), pl.lit(0.0))
    return (
        kept.select(columns)
        .with_columns(floats.fill_nan(None), pl.Series("label", labels, dtype=pl.String()))
        .with_columns(pl.when(pl.col("null_mean").is_not_null()).then(low).alias("null_low"))
    )


def _sparsity_axis(data: pl.DataFrame) -> alt.X:
    order = [words.sparsity(s) for s in data["sparsity"].drop_nulls().unique().sort()]
    return alt.X("label:O").title("sparsity (share of latents held at zero)").sort(order)


def _tooltip(*first: str) -> list[alt.Tooltip]:
    return [
        *(alt.Tooltip(f, title="sparsity") if f == "label:N" else alt.Tooltip(f) for f in first),
        alt.Tooltip("value:Q", format=".4f"),
        alt.Tooltip("low:Q", format=".4f", title="interval from"),
        alt.Tooltip("high:Q", format=".4f", title="interval to"),
        alt.Tooltip("null_mean:Q", format=".4f", title="null"),
        alt.Tooltip("null_high:Q", format=".4f", title="null, upper end"),
        alt.Tooltip("n:Q", title="rows"),
        alt.Tooltip("groups:Q"),
    ]


def _powers(top: float) -> list[int]:
    values = [1]
    while values[-1] * 4 <= top:
        values.append(values[-1] * 4)
    return values


def for_page(panel: Panel, height: int) -> dict[str, Any]:
    """Return the specification that the page draws: as wide as its container."""
    chart = panel.chart.properties(width="container", height=height, autosize=alt.AutoSizeParams(type="fit-x"))
    return without_config(chart.to_dict())


def for_print(figure: Figure, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the specification of the static figure: all panels on one sheet, four to a row."""
    columns = min(len(figure.panels), 4 if figure.small else 2)
    width = 220 if figure.small else (320 if columns > 1 else 640)
    sized = [
        p.chart.properties(width=width, height=figure.height, title=p.title if len(figure.panels) > 1 else figure.title)
        for p in figure.panels
    ]
    whole = sized[0] if len(sized) == 1 else alt.concat(*sized, columns=columns, title=figure.title)
    return {**without_config(whole.to_dict()), "config": dict(config)}


def without_config(spec: dict[str, Any]) -> dict[str, Any]:
    """Drop the configuration that Altair adds, so that the theme alone decides."""
    return {key: value for key, value in spec.items() if key != "config"}
