"""Single charts of results, as Altair specifications for the page, for SVG and for PDF."""

from collections.abc import Sequence
from typing import Any

import altair as alt
import polars as pl

from otoscope.formatting import NBSP, sparsity
from otoscope.metrics.representation import CODES, DENSE, REPRESENTATIONS, UNINFORMATIVE
from otoscope.protocols.comparison import with_seed_means
from otoscope.report.figures.figure import (
    PERCENT,
    R2_FLOOR,
    Chart,
    intervals,
    layered,
    null_band,
    plain_rows,
    series_colour,
    series_names,
    sparsity_axis,
    tooltip,
)
from otoscope.report.figures.theme import DENSE as DENSE_COLOUR
from otoscope.report.figures.theme import (
    FACTOR,
    HEAT_INK,
    HEAT_INK_STRONG,
    NULL,
    OTHER,
    SAE,
    SERIES,
    layer_colours,
    series_colours,
)

MAX_LABELLED_LAYERS = 9
"""Maximum number of layers for text in the cells of a heat map; with more, tooltips and the table hold it."""


def by_layer(rows: pl.DataFrame, *, y_title: str) -> alt.LayerChart:
    """Draw a metric against the layer: one line per representation with intervals, the null as a grey band."""
    data = plain_rows(rows)
    series = series_names(rows)
    # Representations are offset a little at each layer, so that their intervals do not hide each other.
    offset = {name: 0.07 * (rank - (len(series) - 1) / 2) for rank, name in enumerate(series)}
    data = data.with_columns((pl.col("layer") + pl.col("series").replace_strict(offset)).alias("place"))
    layers = data["layer"].unique().sort().to_list()
    around = alt.Scale(domain=[layers[0] - 0.4, layers[-1] + 0.4], nice=False)
    axis = alt.Axis(values=layers, format="d", grid=False)
    x = alt.X("place:Q").title("layer (0 = input of the first block)").scale(around).axis(axis)
    base = alt.Chart(data).encode(x=x)
    y = alt.Y("value:Q").title(y_title).axis(format=PERCENT).scale(alt.Scale(domainMin=0))
    colour = series_colour(rows)
    tips = tooltip("series:N", "layer:O")
    return layered(
        *null_band(data.with_columns(pl.col("layer").cast(pl.Float64).alias("place")), "place", x, y_title),
        base.mark_line(strokeWidth=1.5, opacity=0.55).encode(y=y, color=colour),
        *intervals(data, base, y_title, colour),
        base.mark_point(filled=True, size=60, opacity=1).encode(y=y, color=colour, tooltip=tips),
    )


def against_sparsity(rows: pl.DataFrame, *, y_title: str, sparsities: Sequence[float], top: float) -> alt.LayerChart:
    """Draw a metric of the codes against sparsity, the dense layer as a horizontal line and the null in grey.

    `top` is the upper end of the vertical axis that all panels share.
    """
    data = plain_rows(rows)
    dense, coded = data.filter(pl.col("representation") == "dense"), data.filter(pl.col("representation") != "dense")
    colour = series_colour(rows)
    y = alt.Y("value:Q").title(y_title).axis(format=PERCENT).scale(alt.Scale(domain=[0, top]))
    x = sparsity_axis(sparsities)
    base = alt.Chart(coded).encode(x=x)
    tips = tooltip("series:N", "layer:O", "label:N", "k:Q")
    drawn: list[alt.Chart] = null_band(coded, "label", x, y_title)
    if dense.height:
        across = alt.Chart(dense)
        if dense["low"].is_not_null().any():
            drawn.append(
                across.mark_rect(opacity=0.16, color=DENSE_COLOUR.light).encode(
                    y=alt.Y("low:Q").title(y_title), y2="high:Q"
                )
            )
        drawn.append(across.mark_rule(strokeWidth=2).encode(y=y, color=colour, tooltip=tooltip("series:N", "layer:O")))
    return layered(
        *drawn,
        *intervals(coded, base, y_title, colour),
        base.mark_line(strokeWidth=2).encode(y=y, color=colour),
        base.mark_point(filled=True, size=60, opacity=1).encode(y=y, color=colour, tooltip=tips),
    )


def lines_by_layer(
    rows: pl.DataFrame, *, y_title: str, layers: Sequence[int], sparsities: Sequence[float]
) -> alt.LayerChart:
    """Draw a metric against sparsity: one line per layer, the null (if any) dotted in grey.

    `layers` are all layers of the page, so that each keeps its colour.
    """
    data = plain_rows(rows)
    colours = layer_colours(layers)
    shown = data["layer"].unique().sort().to_list()
    scale = alt.Scale(domain=shown, range=[colours[layer].light for layer in shown])
    colour = alt.Color("layer:O").title("layer").scale(scale)
    y = alt.Y("value:Q").title(y_title).scale(alt.Scale(zero=False)).axis(format=PERCENT)
    base = alt.Chart(data).encode(x=sparsity_axis(sparsities))
    tips = tooltip("layer:O", "label:N", "k:Q")
    null: list[alt.Chart] = []
    if data["null_mean"].is_not_null().any():
        dotted = base.mark_line(strokeDash=[2, 3], color=NULL.light)
        null.append(dotted.encode(y=alt.Y("null_mean:Q").title(y_title), detail="layer:O"))
    return layered(
        *null,
        *intervals(data, base, y_title, colour),
        base.mark_line(strokeWidth=2).encode(y=y, color=colour),
        base.mark_point(filled=True, size=60, opacity=1).encode(y=y, color=colour, tooltip=tips),
    )


def factor_panel(
    rows: pl.DataFrame, *, sparsities: Sequence[float], y_title: str, logarithmic: bool, top: float
) -> alt.LayerChart:
    """Draw one category: one light line per factor over dense and the sparsities, the median bold.

    `top` is the upper end of the vertical axis that all panels share; the median of the nulls'
    upper ends is dashed grey.
    """
    short = [sparsity(s).removesuffix(f"{NBSP}%") for s in sparsities]
    data = plain_rows(rows).with_columns(
        pl.when(pl.col("representation") == "dense")
        .then(pl.lit("dense"))
        .otherwise(pl.col("label").str.strip_suffix(f"{NBSP}%"))
        .alias("label")
    )
    median = (
        data.group_by("label", "series", maintain_order=True)
        .agg(pl.col("value", "null_high").median(), pl.col("target").n_unique().alias("factors"))
        .sort("label")
    )
    order = ["dense", "", *short]  # an empty position separates the dense layer
    x = alt.X("label:O").title("sparsity (%)").sort(order).scale(domain=order).axis(ticks=False)
    domain = alt.Scale(type="log", domain=[1, top]) if logarithmic else alt.Scale(domain=[R2_FLOOR, top], clamp=True)
    axis = alt.Axis(values=_powers(top)) if logarithmic else alt.Axis(format=".1f")
    y = alt.Y("value:Q").title(y_title).scale(domain).axis(axis)
    light = alt.Chart(data).encode(x=x, y=y, detail="target:N")
    codes = "datum.representation != 'dense'"
    tips = [alt.Tooltip("target:N"), alt.Tooltip("label:N", title="dense or sparsity, %")]
    tips += [alt.Tooltip("value:Q", format=".3f"), alt.Tooltip("null_high:Q", format=".3f", title="null, upper end")]
    bold = alt.Chart(median).encode(x=x, y=y, color=series_colour(median))
    bold_tips = [alt.Tooltip("label:N", title="dense or sparsity, %"), "factors:Q"]
    bold_tips.append(alt.Tooltip("value:Q", format=".3f", title="median"))
    null: list[alt.Chart] = []
    if median["null_high"].is_not_null().any():
        dashed = alt.Chart(median).mark_line(strokeDash=[4, 3], color=NULL.light, strokeWidth=1.5)
        null.append(dashed.encode(x=x, y=alt.Y("null_high:Q").title(y_title)))
    return layered(
        light.transform_filter(codes).mark_line(color=FACTOR.light, strokeWidth=1),
        light.mark_point(filled=True, size=14, color=FACTOR.light, opacity=1).encode(tooltip=tips),
        *null,
        bold.mark_line(strokeWidth=2.5),
        bold.mark_point(filled=True, size=75, opacity=1).encode(tooltip=bold_tips),
    )


def category_map(cells: pl.DataFrame, *, categories: Sequence[str]) -> Chart:
    """Draw the share of predicted factors per category (row) and layer (column)."""
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
    ink = alt.when("datum.share > 0.66").then(strong).otherwise(weak)
    return layered(tiles, base.mark_text(fontSize=11).encode(text="text:N", color=ink))


def _powers(top: float) -> list[int]:
    values = [1]
    while values[-1] * 4 <= top:
        values.append(values[-1] * 4)
    return values


LOWEST = -0.5
"""Lower end of the axis of explained variance; below it the reconstruction is worse than none."""


def by_representation(
    rows: pl.DataFrame, *, x_title: str, fraction: bool = True, logarithmic: bool = False
) -> alt.LayerChart:
    """Draw one row per representation with its interval; for codes the mean over seeds, and each seed as a ring."""
    data = _plain(rows)
    order = [r.label for r in REPRESENTATIONS.values() if r.label in set(data["series"])]
    kinds = {DENSE: "dense", CODES: "codes", **dict.fromkeys(UNINFORMATIVE, "nothing")}
    kind = pl.col("representation").replace_strict(kinds, default="other").alias("kind")
    data, first = data.with_columns(kind), _plain(with_seed_means(rows)).with_columns(kind)
    colours = alt.Scale(
        domain=["dense", "codes", "other", "nothing"],
        range=[DENSE_COLOUR.light, SAE.light, OTHER.light, NULL.light],
    )
    colour = alt.Color("kind:N").scale(colours).legend(None)
    scale = alt.Scale(type="log", nice=False) if logarithmic else alt.Scale(zero=False, padding=6)
    if (first["metric"] == "task_r2").any():
        scale = alt.Scale(domain=[R2_FLOOR, 1], clamp=True)
    axis = alt.Axis(format=PERCENT if fraction else "~g", grid=True, tickCount=5)
    x = alt.X("value:Q").title(x_title).scale(scale).axis(axis)
    y = alt.Y("series:N").title(None).sort(order).axis(labelLimit=170, grid=False)
    tips = [alt.Tooltip("series:N", title="representation"), alt.Tooltip("value:Q", format=".4f")]
    tips += [alt.Tooltip("low:Q", format=".4f", title="interval from")]
    tips += [alt.Tooltip("high:Q", format=".4f", title="interval to")]
    tips += [alt.Tooltip("null_mean:Q", format=".4f", title="null"), alt.Tooltip("seed:Q"), alt.Tooltip("groups:Q")]
    base = alt.Chart(first).encode(y=y, color=colour)
    layers: list[alt.Chart] = []
    if first["low"].is_not_null().any():
        layers.append(base.mark_rule(strokeWidth=2, opacity=0.6).encode(x=alt.X("low:Q").title(x_title), x2="high:Q"))
    seeds = alt.Chart(data).mark_point(size=28, opacity=0.7, strokeWidth=1.2)
    layers.append(seeds.encode(x=x, y=y, color=colour, tooltip=tips))
    layers.append(base.mark_point(filled=True, size=75, opacity=1).encode(x=x, tooltip=tips))
    return alt.LayerChart(layer=layers)


def by_size(rows: pl.DataFrame, *, y_title: str, sizes: Sequence[int]) -> alt.LayerChart:
    """Draw a value against the number of dimensions used, one line per representation."""
    data = _plain(with_seed_means(rows)).unique(["series", "dimensions"], keep="first", maintain_order=True)
    names = [name for name in SERIES if name in set(data["series"])]
    colour = alt.Color("series:N").title(None)
    colour = colour.scale(domain=names, range=[SERIES[name].light for name in names])
    x = alt.X("dimensions:O").title("number of dimensions").sort(list(sizes)).axis(labelAngle=0)
    y = alt.Y("value:Q").title(y_title).axis(format=PERCENT)
    tips = [alt.Tooltip("series:N", title="representation"), alt.Tooltip("dimensions:Q")]
    tips += [alt.Tooltip(c, format=".4f", title=t) for c, t in _ENDS]
    base = alt.Chart(data).encode(x=x, color=colour)
    layers: list[alt.Chart] = []
    main = data.filter(pl.col("representation").is_in([DENSE, CODES]))
    if main["low"].is_not_null().any():
        band = alt.Chart(main).mark_area(opacity=0.14).encode(x=x, color=colour)
        layers.append(band.encode(y=alt.Y("low:Q").title(y_title), y2="high:Q"))
    layers.append(base.mark_line(strokeWidth=2).encode(y=y))
    layers.append(base.mark_point(filled=True, size=40, opacity=1).encode(y=y, tooltip=tips))
    return alt.LayerChart(layer=layers)


def by_layer_strict(rows: pl.DataFrame, *, y_title: str, top: float) -> alt.LayerChart:
    """Draw one category over layers: its mean with its interval, and the upper end of its null."""
    data = _plain(rows).sort("layer")
    values = data["layer"].to_list()
    x = alt.X("layer:Q").title("layer").axis(values=values, format="d", grid=False)
    x = x.scale(alt.Scale(domain=[min(values), max(values)], nice=False))
    y = alt.Y("value:Q").title(y_title).axis(format=PERCENT).scale(alt.Scale(domain=[0, top], clamp=True))
    tips = [alt.Tooltip("layer:Q"), *(alt.Tooltip(c, format=".4f", title=t) for c, t in _ENDS)]
    base = alt.Chart(data).encode(x=x)
    layers: list[alt.Chart] = []
    if data["low"].is_not_null().any():
        band = base.mark_area(opacity=0.18, color=DENSE_COLOUR.light)
        layers.append(band.encode(y=alt.Y("low:Q").title(y_title), y2="high:Q"))
    if data["null_high"].is_not_null().any():
        dashed = base.mark_line(strokeDash=[4, 3], strokeWidth=1.2, color=NULL.light)
        layers.append(dashed.encode(y=alt.Y("null_high:Q").title(y_title)))
    layers.append(base.mark_line(strokeWidth=2, color=DENSE_COLOUR.light).encode(y=y))
    point = base.mark_point(filled=True, size=45, opacity=1, color=DENSE_COLOUR.light)
    layers.append(point.encode(y=y, tooltip=tips))
    return alt.LayerChart(layer=layers)


def by_sparsity(
    rows: pl.DataFrame, *, y_title: str, sparsities: Sequence[float], names: Sequence[str]
) -> alt.LayerChart:
    """Draw a value against sparsity up to a few latents: one line per preset; `names` lists all presets."""
    data = _plain(rows).with_columns(pl.Series("label", [sparsity(s) for s in _plain(rows)["sparsity"]]))
    colours = series_colours(names)
    colour = alt.Color("series:N").title(None)
    colour = colour.scale(domain=list(colours), range=[shade.light for shade in colours.values()])
    order = [sparsity(s) for s in sparsities]
    x = alt.X("label:O").title("sparsity").sort(order).scale(domain=order).axis(labelAngle=0)
    floor = data["value"].min()
    low_enough = isinstance(floor, float) and floor < LOWEST
    scale = alt.Scale(domain=[LOWEST, 1], clamp=True) if low_enough else alt.Scale(zero=False)
    y = alt.Y("value:Q").title(y_title).axis(format=PERCENT).scale(scale)
    tips = [alt.Tooltip("series:N", title="preset"), alt.Tooltip("label:N", title="sparsity"), alt.Tooltip("k:Q")]
    tips += [alt.Tooltip(c, format=".4f", title=t) for c, t in _ENDS]
    base = alt.Chart(data).encode(x=x, color=colour)
    layers: list[alt.Chart] = []
    if data["low"].is_not_null().any():
        whisker = base.mark_rule(strokeWidth=2, opacity=0.6)
        layers.append(whisker.encode(y=alt.Y("low:Q").title(y_title), y2="high:Q"))
    layers.append(base.mark_line(strokeWidth=2).encode(y=y))
    layers.append(base.mark_point(filled=True, size=55, opacity=1).encode(y=y, tooltip=tips))
    return alt.LayerChart(layer=layers)


_ENDS = (
    ("value:Q", "value"),
    ("low:Q", "interval from"),
    ("high:Q", "interval to"),
    ("null_mean:Q", "null"),
    ("null_high:Q", "null, upper end"),
)

_COLUMNS = ("metric", "representation", "series", "layer", "k", "dimensions", "sparsity", "seed", "target")
_NUMBERS = ("value", "low", "high", "null_mean", "null_high", "n", "groups")


def _plain(rows: pl.DataFrame) -> pl.DataFrame:
    """Keep rows with a value, NaN as null."""
    kept = rows.filter(pl.col("value").is_not_nan() & pl.col("value").is_not_null())
    return kept.select(*_COLUMNS, *_NUMBERS).with_columns(pl.selectors.float().fill_nan(None))
