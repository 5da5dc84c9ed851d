"""Charts as Altair specifications: one for the page, the same for SVG and PDF."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import altair as alt
import polars as pl

from otoscope.report import words
from otoscope.report.theme import (
    DENSE,
    FACTOR,
    HEAT_INK,
    HEAT_INK_STRONG,
    NULL,
    OTHER,
    REPRESENTATIONS,
    layer_colours,
)

Chart = alt.Chart | alt.LayerChart

PERCENT = ".0%"
MAX_LABELLED_LAYERS = 9
"""With more layers than this a heat map's cells are too narrow for text; the tooltips and the table hold it."""
R2_FLOOR = -0.2
"""Held-out R² has no lower bound; charts clip it here and say so."""


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


def by_layer(rows: pl.DataFrame, *, y_title: str) -> alt.LayerChart:
    """Draw a metric against the layer: a line a representation with intervals, the null as a grey band."""
    data = _plain(rows)
    series = series_names(rows)
    # Representations stand a little apart at each layer, so that their intervals do not hide each other.
    apart = {name: 0.07 * (rank - (len(series) - 1) / 2) for rank, name in enumerate(series)}
    data = data.with_columns((pl.col("layer") + pl.col("series").replace_strict(apart)).alias("place"))
    layers = data["layer"].unique().sort().to_list()
    around = alt.Scale(domain=[layers[0] - 0.4, layers[-1] + 0.4], nice=False)
    axis = alt.Axis(values=layers, format="d", grid=False)
    x = alt.X("place:Q").title("layer (0 = input of the first block)").scale(around).axis(axis)
    base = alt.Chart(data).encode(x=x)
    y = alt.Y("value:Q").title(y_title).axis(format=PERCENT).scale(alt.Scale(domainMin=0))
    colour = _series_colour(rows)
    tips = _tooltip("series:N", "layer:O")
    return _layered(
        *_null_band(data.with_columns(pl.col("layer").cast(pl.Float64).alias("place")), "place", x, y_title),
        base.mark_line(strokeWidth=1.5, opacity=0.55).encode(y=y, color=colour),
        *_intervals(data, base, y_title, colour),
        base.mark_point(filled=True, size=60, opacity=1).encode(y=y, color=colour, tooltip=tips),
    )


def against_sparsity(rows: pl.DataFrame, *, y_title: str, sparsities: Sequence[float], top: float) -> alt.LayerChart:
    """Draw a metric of the codes against sparsity, with the dense layer as a line across and the null in grey.

    `top` is the upper end of the vertical axis that all panels share.
    """
    data = _plain(rows)
    dense, coded = data.filter(pl.col("representation") == "dense"), data.filter(pl.col("representation") != "dense")
    colour = _series_colour(rows)
    y = alt.Y("value:Q").title(y_title).axis(format=PERCENT).scale(alt.Scale(domain=[0, top]))
    x = _sparsity_axis(sparsities)
    base = alt.Chart(coded).encode(x=x)
    tips = _tooltip("series:N", "layer:O", "label:N", "k:Q")
    drawn: list[alt.Chart] = _null_band(coded, "label", x, y_title)
    if dense.height:
        across = alt.Chart(dense)
        if dense["low"].is_not_null().any():
            drawn.append(
                across.mark_rect(opacity=0.16, color=DENSE.light).encode(y=alt.Y("low:Q").title(y_title), y2="high:Q")
            )
        drawn.append(across.mark_rule(strokeWidth=2).encode(y=y, color=colour, tooltip=_tooltip("series:N", "layer:O")))
    return _layered(
        *drawn,
        *_intervals(coded, base, y_title, colour),
        base.mark_line(strokeWidth=2).encode(y=y, color=colour),
        base.mark_point(filled=True, size=60, opacity=1).encode(y=y, color=colour, tooltip=tips),
    )


def lines_by_layer(
    rows: pl.DataFrame, *, y_title: str, layers: Sequence[int], sparsities: Sequence[float]
) -> alt.LayerChart:
    """Draw a metric against sparsity, a line a layer, the null (where there is one) dotted in grey.

    `layers` are all layers of the page, so that each keeps its colour.
    """
    data = _plain(rows)
    colours = layer_colours(layers)
    shown = data["layer"].unique().sort().to_list()
    scale = alt.Scale(domain=shown, range=[colours[layer].light for layer in shown])
    colour = alt.Color("layer:O").title("layer").scale(scale)
    y = alt.Y("value:Q").title(y_title).scale(alt.Scale(zero=False)).axis(format=PERCENT)
    base = alt.Chart(data).encode(x=_sparsity_axis(sparsities))
    tips = _tooltip("layer:O", "label:N", "k:Q")
    null: list[alt.Chart] = []
    if data["null_mean"].is_not_null().any():
        dotted = base.mark_line(strokeDash=[2, 3], color=NULL.light)
        null.append(dotted.encode(y=alt.Y("null_mean:Q").title(y_title), detail="layer:O"))
    return _layered(
        *null,
        *_intervals(data, base, y_title, colour),
        base.mark_line(strokeWidth=2).encode(y=y, color=colour),
        base.mark_point(filled=True, size=60, opacity=1).encode(y=y, color=colour, tooltip=tips),
    )


def factor_panel(
    rows: pl.DataFrame, *, sparsities: Sequence[float], y_title: str, logarithmic: bool, top: float
) -> alt.LayerChart:
    """Draw one category: each factor a light line over dense and the sparsities, their median bold.

    `top` is the upper end of the vertical axis that all panels share; the median of the nulls'
    upper ends is dashed grey.
    """
    short = [words.sparsity(s).removesuffix(f"{words.NBSP}%") for s in sparsities]
    data = _plain(rows).with_columns(
        pl.when(pl.col("representation") == "dense")
        .then(pl.lit("dense"))
        .otherwise(pl.col("label").str.strip_suffix(f"{words.NBSP}%"))
        .alias("label")
    )
    median = (
        data.group_by("label", "series", maintain_order=True)
        .agg(pl.col("value", "null_high").median(), pl.col("target").n_unique().alias("factors"))
        .sort("label")
    )
    order = ["dense", "", *short]  # an empty place sets the dense layer apart
    x = alt.X("label:O").title("sparsity (%)").sort(order).scale(domain=order).axis(ticks=False)
    domain = alt.Scale(type="log", domain=[1, top]) if logarithmic else alt.Scale(domain=[R2_FLOOR, top], clamp=True)
    axis = alt.Axis(values=_powers(top)) if logarithmic else alt.Axis(format=".1f")
    y = alt.Y("value:Q").title(y_title).scale(domain).axis(axis)
    light = alt.Chart(data).encode(x=x, y=y, detail="target:N")
    codes = "datum.representation != 'dense'"
    tips = [alt.Tooltip("target:N"), alt.Tooltip("label:N", title="dense or sparsity, %")]
    tips += [alt.Tooltip("value:Q", format=".3f"), alt.Tooltip("null_high:Q", format=".3f", title="null, upper end")]
    bold = alt.Chart(median).encode(x=x, y=y, color=_series_colour(median))
    bold_tips = [alt.Tooltip("label:N", title="dense or sparsity, %"), "factors:Q"]
    bold_tips.append(alt.Tooltip("value:Q", format=".3f", title="median"))
    null: list[alt.Chart] = []
    if median["null_high"].is_not_null().any():
        dashed = alt.Chart(median).mark_line(strokeDash=[4, 3], color=NULL.light, strokeWidth=1.5)
        null.append(dashed.encode(x=x, y=alt.Y("null_high:Q").title(y_title)))
    return _layered(
        light.transform_filter(codes).mark_line(color=FACTOR.light, strokeWidth=1),
        light.mark_point(filled=True, size=14, color=FACTOR.light, opacity=1).encode(tooltip=tips),
        *null,
        bold.mark_line(strokeWidth=2.5),
        bold.mark_point(filled=True, size=75, opacity=1).encode(tooltip=bold_tips),
    )


def category_map(cells: pl.DataFrame, *, categories: Sequence[str]) -> Chart:
    """Draw the share of each category's factors that are predicted, a column a layer."""
    x = alt.X("layer:O").title("layer")
    y = alt.Y("category:N").title(None).sort(list(categories)).axis(labelLimit=130)
    base = alt.Chart(cells).encode(x=x, y=y)
    legend = alt.Legend(format=PERCENT, orient="top", gradientLength=180, titleLimit=400)
    colour = alt.Color("share:Q").title("share of factors predicted").scale(domain=[0, 1]).legend(legend)
    tips: list[Any] = [alt.Tooltip("category:N"), alt.Tooltip("layer:O"), alt.Tooltip("text:N", title="predicted")]
    tips.append(alt.Tooltip("mean_r2:Q", format=".3f", title="mean held-out R²"))
    tiles = base.mark_rect(cornerRadius=2).encode(color=colour, tooltip=tips)
    if cells["layer"].n_unique() > MAX_LABELLED_LAYERS:
        return tiles
    strong, weak = alt.value(HEAT_INK_STRONG.light), alt.value(HEAT_INK.light)
    ink = alt.when("datum.share > 0.6").then(strong).otherwise(weak)
    return _layered(tiles, base.mark_text(fontSize=11).encode(text="text:N", color=ink))


def _layered(*layers: alt.Chart) -> alt.LayerChart:
    return alt.LayerChart(layer=list(layers))


def _null_band(data: pl.DataFrame, place: str, x: alt.X, y_title: str) -> list[alt.Chart]:
    """Draw the nulls of all representations at each place as one band: from their mean to the highest end."""
    nulls = data.filter(pl.col("null_mean").is_not_null()).group_by(place, maintain_order=True)
    joined = nulls.agg(pl.col("null_mean").mean(), pl.col("null_high").max()).sort(place)
    if joined.is_empty():
        return []
    base = alt.Chart(joined).encode(x=x)
    mean = alt.Y("null_mean:Q").title(y_title)
    band = base.mark_area(opacity=0.25, color=NULL.light).encode(y=mean, y2="null_high:Q")
    return [band, base.mark_line(strokeDash=[4, 3], strokeWidth=1.2, color=NULL.light).encode(y=mean)]


def _intervals(data: pl.DataFrame, base: alt.Chart, y_title: str, colour: alt.Color) -> list[alt.Chart]:
    if not data["low"].is_not_null().any():
        return []
    whisker = base.mark_rule(strokeWidth=2, opacity=0.6)
    return [whisker.encode(y=alt.Y("low:Q").title(y_title), y2="high:Q", color=colour)]


def series_names(rows: pl.DataFrame) -> list[str]:
    """Return the names that a legend must explain, in the order of `REPRESENTATIONS`."""
    found = rows["series"].unique().to_list()
    return [n for n in REPRESENTATIONS if n in found] + sorted(n for n in found if n not in REPRESENTATIONS)


def _series_colour(rows: pl.DataFrame) -> alt.Color:
    names = series_names(rows)
    colours = [REPRESENTATIONS[n].light if n in REPRESENTATIONS else OTHER.light for n in names]
    return alt.Color("series:N").title(None).scale(domain=names, range=colours)


def _plain(rows: pl.DataFrame) -> pl.DataFrame:
    """Keep rows with a value, NaN as null, and add the labels of the sparsities."""
    floats = pl.selectors.float()
    kept = rows.filter(pl.col("value").is_not_nan() & pl.col("value").is_not_null())
    labels = [words.sparsity(s) for s in kept["sparsity"]]
    columns = ["layer", "k", "target", "representation", "sparsity", "value", "low", "high", "null_mean", "null_high"]
    columns += ["n", "groups"] + (["series"] if "series" in rows.columns else [])
    return kept.select(columns).with_columns(floats.fill_nan(None), pl.Series("label", labels, dtype=pl.String()))


def _sparsity_axis(sparsities: Sequence[float]) -> alt.X:
    order = [words.sparsity(s) for s in sparsities]
    return alt.X("label:O").title("sparsity (share of latents held at zero)").sort(order).scale(domain=order)


def _tooltip(*first: str) -> list[alt.Tooltip]:
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


def _powers(top: float) -> list[int]:
    values = [1]
    while values[-1] * 4 <= top:
        values.append(values[-1] * 4)
    return values


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
