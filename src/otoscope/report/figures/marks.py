"""Parts that charts share: rows, axes, colours, tooltips, curves, intervals and nulls."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import altair as alt
import polars as pl

from otoscope.formatting import sparsity
from otoscope.metrics.representation import CODES, REPRESENTATIONS
from otoscope.report.figures.theme import NULL, SERIES, Colour, series_colours
from otoscope.report.tables import without_few_groups

PERCENT = "~%"
"""Format of axes of fractions; Vega adds decimals where the ticks need them."""

R2_FLOOR = -0.2
"""Lower end of axes of held-out R², which has no lower bound; captions state it."""

SHORT_LABELS = {r.name: r.short_label for r in REPRESENTATIONS.values() if r.short_label}

TITLES = {
    "series": "representation",
    "label": "sparsity",
    "low": "interval from",
    "high": "interval to",
    "null_mean": "null",
    "null_high": "null, upper end",
    "n": "rows",
}
"""Titles of columns in tooltips; other columns keep their name."""

DECIMALS = ("value:Q", "low:Q", "high:Q", "null_mean:Q", "null_high:Q")


def plain_rows(rows: pl.DataFrame) -> pl.DataFrame:
    """Keep rows with a value, NaN as null, no interval of too few groups, and add `label`, the sparsity as text."""
    kept = without_few_groups(rows.filter(pl.col("value").is_not_nan() & pl.col("value").is_not_null()))
    columns = ["metric", "target", "representation", "layer", "k", "dimensions", "sparsity", "seed"]
    columns += ["value", "low", "high", "null_mean", "null_high", "n", "groups"]
    columns += ["series"] if "series" in rows.columns else []
    labels = pl.Series("label", [sparsity(s) for s in kept["sparsity"]], dtype=pl.String())
    return kept.select(columns).with_columns(pl.selectors.float().fill_nan(None), labels)


def with_series_names(rows: pl.DataFrame, main_pooling: str) -> pl.DataFrame:
    """Add `series`, the representation's name in legends."""
    pooled_first = (pl.col("pooling") == "pool_then_encode") & (main_pooling != "pool_then_encode")
    series = (
        pl.when((pl.col("representation") == CODES) & pooled_first)
        .then(pl.lit("SAE, pooled first"))
        .otherwise(pl.col("representation").replace(SHORT_LABELS))
    )
    return rows.with_columns(series.alias("series"))


def series_names(rows: pl.DataFrame) -> list[str]:
    """Return the names that a legend explains, in the order of `SERIES`."""
    names = rows["series"].unique().to_list()
    return [n for n in SERIES if n in names] + sorted(n for n in names if n not in SERIES)


def series_colour(names: Sequence[str]) -> alt.Color:
    """Return the colour encoding of the series, as in the legend."""
    return fixed_colour("series:N", series_colours(names))


def fixed_colour(field: str, colours: Mapping[Any, Colour]) -> alt.Color:
    """Return a colour encoding with a colour for each entry."""
    return alt.Color(field).title(None).scale(domain=list(colours), range=[colour.light for colour in colours.values()])


def sparsity_axis(sparsities: Sequence[float], title: str = "sparsity (share of latents held at zero)") -> alt.X:
    """Return the horizontal axis of charts over all sparsities of a page."""
    order = [sparsity(s) for s in sparsities]
    return alt.X("label:O").title(title).sort(order).scale(domain=order)


def layer_axis(layers: Sequence[int]) -> alt.X:
    """Return the horizontal axis of lines over layers."""
    scale = alt.Scale(domain=[min(layers), max(layers)], nice=False)
    return alt.X("layer:Q").title("layer").scale(scale).axis(values=layers, format="d", grid=False)


def tooltip(*first: str) -> list[alt.Tooltip]:
    """Return tooltips of some columns, then of value, interval, null and sample size."""
    fields = [*first, "value:Q", "low:Q", "high:Q", "null_mean:Q", "null_high:Q", "n:Q", "groups:Q"]
    titles = {field: TITLES.get(field.partition(":")[0], field.partition(":")[0]) for field in fields}
    return [
        alt.Tooltip(field, title=title, format=".4f") if field in DECIMALS else alt.Tooltip(field, title=title)
        for field, title in titles.items()
    ]


def curve(base: alt.Chart, y: alt.Y, tips: Sequence[alt.Tooltip], *, opacity: float = 1.0) -> list[alt.Chart]:
    """Draw a line with a point at each value."""
    line = base.mark_line(strokeWidth=2, opacity=opacity).encode(y=y)
    return [line, base.mark_point(filled=True, size=60, opacity=1).encode(y=y, tooltip=list(tips))]


def intervals(
    data: pl.DataFrame, base: alt.Chart, title: str, *, band: bool = False, along: Literal["x", "y"] = "y"
) -> list[alt.Chart]:
    """Draw intervals along an axis, as lines or as a band; nothing without intervals."""
    if not data["low"].is_not_null().any():
        return []
    band = band and data.height > 1
    marks = base.mark_area(opacity=0.16) if band else base.mark_rule(strokeWidth=2, opacity=0.6)
    if along == "x":
        return [marks.encode(x=alt.X("low:Q").title(title), x2="high:Q")]
    return [marks.encode(y=alt.Y("low:Q").title(title), y2="high:Q")]


def null_line(data: pl.DataFrame, x: alt.X, column: str, y_title: str) -> list[alt.Chart]:
    """Draw a null as a dashed line, across the whole chart if there is a single position; nothing without a null."""
    shown = data.filter(pl.col(column).is_not_null())
    if shown.is_empty():
        return []
    chart, y = alt.Chart(shown), alt.Y(f"{column}:Q").title(y_title)
    dashed: dict[str, Any] = {"strokeDash": [4, 3], "strokeWidth": 1.2, "color": NULL.light}
    if shown[_field(x)].n_unique() == 1:
        return [chart.mark_rule(**dashed).encode(y=y)]
    return [chart.mark_line(**dashed).encode(x=x, y=y)]


def null_band(data: pl.DataFrame, x: alt.X, y_title: str) -> list[alt.Chart]:
    """Draw the nulls of all representations at each position as one band, from their mean to the highest end."""
    place = _field(x)
    nulls = data.filter(pl.col("null_mean").is_not_null()).group_by(place, maintain_order=True)
    nulls_by_position = nulls.agg(pl.col("null_mean").mean(), pl.col("null_high").max()).sort(place)
    if nulls_by_position.is_empty():
        return []
    chart, y = alt.Chart(nulls_by_position), alt.Y("null_mean:Q").title(y_title)
    if nulls_by_position.height == 1:
        band = chart.mark_rect(opacity=0.25, color=NULL.light).encode(y=y, y2="null_high:Q")
    else:
        band = chart.mark_area(opacity=0.25, color=NULL.light).encode(x=x, y=y, y2="null_high:Q")
    return [band, *null_line(nulls_by_position, x, "null_mean", y_title)]


def _field(channel: alt.X) -> str:
    return str(channel.shorthand).partition(":")[0]


def layered(*layers: alt.Chart) -> alt.LayerChart:
    """Overlay charts, the first at the bottom."""
    return alt.LayerChart(layer=list(layers))
