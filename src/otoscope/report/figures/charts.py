"""Single charts of results, as Altair specifications for the page, for SVG and for PDF."""

from collections.abc import Sequence
from typing import Any

import altair as alt
import polars as pl

from otoscope.factors.readable_names import readable_name
from otoscope.formatting import NBSP, sparsity
from otoscope.metrics.representation import CODES, DENSE, REPRESENTATIONS, UNINFORMATIVE
from otoscope.protocols.comparison import with_seed_means
from otoscope.report.figures.figure import Chart
from otoscope.report.figures.marks import (
    PERCENT,
    R2_FLOOR,
    curve,
    fixed_colour,
    intervals,
    layer_axis,
    layered,
    null_band,
    null_line,
    plain_rows,
    series_colour,
    series_names,
    sparsity_axis,
    tooltip,
)
from otoscope.report.figures.theme import DENSE as DENSE_COLOUR
from otoscope.report.figures.theme import FACTOR, HEAT_INK, HEAT_INK_STRONG, NULL, OTHER, SAE, layer_colours

MAX_LABELLED_LAYERS = 9
"""Maximum number of layers for text in the cells of a heat map; with more, tooltips and the table hold it."""

LOWEST = -0.5
"""Lower end of the axis of explained variance; below it the reconstruction is worse than none."""

KIND_COLOURS = {"dense": DENSE_COLOUR, "codes": SAE, "other": OTHER, "nothing": NULL}
"""Colours of representations by kind; "nothing" are codes without information."""


def by_layer(rows: pl.DataFrame, *, y_title: str) -> alt.LayerChart:
    """Draw a metric against the layer: one line per representation with intervals, the null as a grey band."""
    data, series = plain_rows(rows), series_names(rows)
    # representations are offset a little at each layer, so that their intervals do not hide each other
    offset = {name: 0.07 * (rank - (len(series) - 1) / 2) for rank, name in enumerate(series)}
    data = data.with_columns((pl.col("layer") + pl.col("series").replace_strict(offset)).alias("place"))
    layers = data["layer"].unique().sort().to_list()
    scale = alt.Scale(domain=[layers[0] - 0.4, layers[-1] + 0.4], nice=False)
    axis = alt.Axis(values=layers, format="d", grid=False)
    x = alt.X("place:Q").title("layer (0 = input of the first block)").scale(scale).axis(axis)
    base = alt.Chart(data).encode(x=x, color=series_colour(series))
    y = alt.Y("value:Q").title(y_title).axis(format=PERCENT).scale(alt.Scale(domainMin=0))
    return layered(
        *null_band(data.with_columns(pl.col("layer").cast(pl.Float64).alias("place")), x, y_title),
        *intervals(data, base, y_title),
        *curve(base, y, tooltip("series:N", "layer:O"), opacity=0.55),
    )


def against_sparsity(rows: pl.DataFrame, *, y_title: str, sparsities: Sequence[float], top: float) -> alt.LayerChart:
    """Draw a metric of the codes against sparsity, the dense layer as a horizontal line and the null in grey.

    `top` is the upper end of the vertical axis that all panels share.
    """
    data = plain_rows(rows)
    dense, codes = data.filter(pl.col("representation") == DENSE), data.filter(pl.col("representation") != DENSE)
    x, colour = sparsity_axis(sparsities), series_colour(series_names(rows))
    y = alt.Y("value:Q").title(y_title).axis(format=PERCENT).scale(alt.Scale(domain=[0, top]))
    base = alt.Chart(codes).encode(x=x, color=colour)
    layers = null_band(codes, x, y_title)
    if dense.height:
        across = alt.Chart(dense)
        if dense["low"].is_not_null().any():
            band = across.mark_rect(opacity=0.16, color=DENSE_COLOUR.light)
            layers.append(band.encode(y=alt.Y("low:Q").title(y_title), y2="high:Q"))
        rule = across.mark_rule(strokeWidth=2)
        layers.append(rule.encode(y=y, color=colour, tooltip=tooltip("series:N", "layer:O")))
    tips = tooltip("series:N", "layer:O", "label:N", "k:Q")
    return layered(*layers, *intervals(codes, base, y_title), *curve(base, y, tips))


def lines_by_layer(
    rows: pl.DataFrame,
    *,
    y_title: str,
    layers: Sequence[int],
    sparsities: Sequence[float],
    reference: pl.DataFrame | None = None,
) -> alt.LayerChart:
    """Draw a metric against sparsity: one line per layer, the nulls (if any) dashed in grey.

    `layers` are all layers of the page, so that each keeps its colour. `reference` is another representation, dashed.
    """
    data, colours = plain_rows(rows), layer_colours(layers)
    shown = data["layer"].unique().sort().to_list()
    x, colour = sparsity_axis(sparsities), fixed_colour("layer:O", {layer: colours[layer] for layer in shown})
    y = alt.Y("value:Q").title(y_title).scale(alt.Scale(zero=False)).axis(format=PERCENT)
    base = alt.Chart(data).encode(x=x, color=colour.title("layer"))
    other = [plain_rows(reference)] if reference is not None and reference.height else []
    return layered(
        *(
            alt.Chart(part.filter(pl.col("layer").is_in(shown)))
            .mark_line(strokeDash=[5, 4], strokeWidth=1.5, point=part["label"].n_unique() == 1)
            .encode(x=x, y=y, color=colour.title("layer"), tooltip=tooltip("layer:O", "label:N", "k:Q"))
            for part in other
        ),
        *(chart.encode(detail="layer:O") for chart in null_line(data, x, "null_mean", y_title)),
        *intervals(data, base, y_title),
        *curve(base, y, tooltip("layer:O", "label:N", "k:Q")),
    )


def by_sparsity(
    rows: pl.DataFrame, *, y_title: str, sparsities: Sequence[float], names: Sequence[str]
) -> alt.LayerChart:
    """Draw a value against sparsity up to a few latents: one line per preset; `names` lists all presets."""
    data = plain_rows(rows)
    floor = data["value"].min()
    low_enough = isinstance(floor, float) and floor < LOWEST
    scale = alt.Scale(domain=[LOWEST, 1], clamp=True) if low_enough else alt.Scale(zero=False)
    y = alt.Y("value:Q").title(y_title).axis(format=PERCENT).scale(scale)
    base = alt.Chart(data).encode(x=sparsity_axis(sparsities, "sparsity"), color=series_colour(names))
    return layered(*intervals(data, base, y_title), *curve(base, y, tooltip("series:N", "label:N", "k:Q")))


def factor_panel(
    rows: pl.DataFrame, *, sparsities: Sequence[float], y_title: str, logarithmic: bool, top: float
) -> alt.LayerChart:
    """Draw one category: one light line per factor over dense and the sparsities, the median bold.

    `top` is the upper end of the vertical axis that all panels share; the median of the nulls' upper ends is dashed
    grey.
    """
    order = ["dense", "", *(_without_unit(sparsity(s)) for s in sparsities)]  # an empty position after dense
    labels = [
        "dense" if representation == DENSE else _without_unit(label)
        for representation, label in plain_rows(rows).select("representation", "label").iter_rows()
    ]
    data = plain_rows(rows).with_columns(
        pl.Series("label", labels, dtype=pl.String()),
        pl.Series("factor", map(readable_name, rows["target"]), dtype=pl.String()),
    )
    median = (
        data.group_by("label", "series", maintain_order=True)
        .agg(pl.col("value", "null_high").median(), pl.col("target").n_unique().alias("factors"))
        .sort("label")
    )
    x = alt.X("label:O").title("sparsity (%)").sort(order).scale(domain=order).axis(ticks=False)
    domain = alt.Scale(type="log", domain=[1, top]) if logarithmic else alt.Scale(domain=[R2_FLOOR, top], clamp=True)
    axis = alt.Axis(values=_powers(top)) if logarithmic else alt.Axis(format=".1f")
    y = alt.Y("value:Q").title(y_title).scale(domain).axis(axis)
    light = alt.Chart(data).encode(x=x, y=y, detail="target:N")
    place = alt.Tooltip("label:N", title="dense or sparsity, %")
    upper = alt.Tooltip("null_high:Q", format=".3f", title="null, upper end")
    tips = [
        alt.Tooltip("factor:N"),
        alt.Tooltip("target:N", title="name in the tables"),
        place,
        alt.Tooltip("value:Q", format=".3f"),
        upper,
    ]
    bold = alt.Chart(median).encode(x=x, y=y, color=series_colour(series_names(median)))
    median_tips = [place, alt.Tooltip("factors:Q"), alt.Tooltip("value:Q", format=".3f", title="median")]
    return layered(
        light.transform_filter("datum.representation != 'dense'").mark_line(color=FACTOR.light, strokeWidth=1),
        light.mark_point(filled=True, size=14, color=FACTOR.light, opacity=1).encode(tooltip=tips),
        *null_line(median, x, "null_high", y_title),
        bold.mark_line(strokeWidth=2.5),
        bold.mark_point(filled=True, size=75, opacity=1).encode(tooltip=median_tips),
    )


def _without_unit(text: str) -> str:
    return text.removesuffix(f"{NBSP}%")


def _powers(top: float) -> list[int]:
    values = [1]
    while values[-1] * 4 <= top:
        values.append(values[-1] * 4)
    return values


def category_map(cells: pl.DataFrame, *, categories: Sequence[str]) -> Chart:
    """Draw the share of predicted factors per category (row) and layer (column)."""
    y = alt.Y("category:N").title(None).sort(list(categories)).axis(labelLimit=130)
    base = alt.Chart(cells).encode(x=alt.X("layer:O").title("layer"), y=y)
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


def by_representation(
    rows: pl.DataFrame, *, x_title: str, fraction: bool = True, logarithmic: bool = False
) -> alt.LayerChart:
    """Draw one row per representation with its interval; for codes the mean over seeds, and each seed as a ring."""
    kinds = {DENSE: "dense", CODES: "codes", **dict.fromkeys(UNINFORMATIVE, "nothing")}
    kind = pl.col("representation").replace_strict(kinds, default="other").alias("kind")
    data, means = (plain_rows(part).with_columns(kind) for part in (rows, with_seed_means(rows)))
    order = [r.label for r in REPRESENTATIONS.values() if r.label in set(data["series"])]
    colour = fixed_colour("kind:N", KIND_COLOURS).legend(None)
    scale = alt.Scale(type="log", nice=False) if logarithmic else alt.Scale(zero=False, padding=6)
    if (means["metric"] == "task_r2").any():
        scale = alt.Scale(domain=[R2_FLOOR, 1], clamp=True)
    axis = alt.Axis(format=PERCENT if fraction else "~g", grid=True, tickCount=5)
    x = alt.X("value:Q").title(x_title).scale(scale).axis(axis)
    y = alt.Y("series:N").title(None).sort(order).axis(labelLimit=170, grid=False)
    tips = tooltip("series:N", "seed:Q")
    base, seeds = (alt.Chart(part).encode(y=y, color=colour) for part in (means, data))
    return layered(
        *intervals(means, base, x_title, along="x"),
        seeds.mark_point(size=28, opacity=0.7, strokeWidth=1.2).encode(x=x, tooltip=tips),
        base.mark_point(filled=True, size=75, opacity=1).encode(x=x, tooltip=tips),
    )


ROW_PX = 20
"""Height of a row of `by_representation`, at which no label overlaps the next and is left out."""


def height_of(rows: pl.DataFrame) -> int:
    """Return the height of a chart with one row per representation, in pixels."""
    return ROW_PX * rows["representation"].n_unique()


def by_size(rows: pl.DataFrame, *, y_title: str, sizes: Sequence[int]) -> alt.LayerChart:
    """Draw a value against the number of dimensions used, one line per representation."""
    data = plain_rows(with_seed_means(rows)).unique(["series", "dimensions"], keep="first", maintain_order=True)
    x = alt.X("dimensions:O").title("number of dimensions").sort(list(sizes)).axis(labelAngle=0)
    main = data.filter(pl.col("representation").is_in([DENSE, CODES]))
    y = alt.Y("value:Q").title(y_title).axis(format=PERCENT)
    colour = series_colour(series_names(data))
    base, compared = (alt.Chart(part).encode(x=x, color=colour) for part in (data, main))
    return layered(
        *intervals(main, compared, y_title, band=len(sizes) > 1),
        *curve(base, y, tooltip("series:N", "dimensions:Q")),
    )


def category_by_layer(rows: pl.DataFrame, *, y_title: str, top: float) -> alt.LayerChart:
    """Draw one category over layers: its mean with its interval, and the upper end of its null."""
    data = plain_rows(rows).sort("layer")
    x = layer_axis(data["layer"].to_list())
    y = alt.Y("value:Q").title(y_title).axis(format=PERCENT).scale(alt.Scale(domain=[0, top], clamp=True))
    base = alt.Chart(data).encode(x=x, color=alt.value(DENSE_COLOUR.light))
    return layered(
        *intervals(data, base, y_title, band=True),
        *null_line(data, x, "null_high", y_title),
        *curve(base, y, tooltip("layer:Q")),
    )
