"""The charts of the strict protocol: what stands beside what, few dimensions, layers, limits."""

from collections.abc import Sequence

import altair as alt
import polars as pl

from otoscope.config.strict import CODES, DENSE, KNOWS_NOTHING
from otoscope.protocols.comparing import with_means
from otoscope.report import words
from otoscope.report.baselines import WORDS
from otoscope.report.chart_parts import PERCENT, R2_FLOOR
from otoscope.report.theme import DENSE as DENSE_COLOUR
from otoscope.report.theme import NULL, OTHER, REPRESENTATIONS, SAE, series_colours

LOWEST = -0.5
"""Explained variance below this is drawn here: the reconstruction is worse than no reconstruction."""


def beside(rows: pl.DataFrame, *, x_title: str, fraction: bool = True, logarithmic: bool = False) -> alt.LayerChart:
    """Draw a row a representation: its value with its interval; for codes the mean over seeds, and each seed small."""
    data = _plain(rows)
    order = [name for name in WORDS.values() if name in set(data["series"])]
    kinds = {DENSE: "dense", CODES: "codes", **dict.fromkeys(KNOWS_NOTHING, "nothing")}
    kind = pl.col("representation").replace_strict(kinds, default="other").alias("kind")
    data, first = data.with_columns(kind), _plain(with_means(rows)).with_columns(kind)
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
    """Draw a value against the number of dimensions that are read, a line a representation."""
    data = _plain(with_means(rows)).unique(["series", "k"], keep="first", maintain_order=True)
    names = [name for name in REPRESENTATIONS if name in set(data["series"])]
    colour = alt.Color("series:N").title(None)
    colour = colour.scale(domain=names, range=[REPRESENTATIONS[name].light for name in names])
    x = alt.X("k:O").title("dimensions read").sort(list(sizes)).axis(labelAngle=0)
    y = alt.Y("value:Q").title(y_title).axis(format=PERCENT)
    tips = [alt.Tooltip("series:N", title="representation"), alt.Tooltip("k:Q", title="dimensions")]
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


def by_layer(rows: pl.DataFrame, *, y_title: str, top: float) -> alt.LayerChart:
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
    """Draw a value against sparsity up to where hardly a latent is left, a line a recipe; `names` are all of them."""
    data = _plain(rows).with_columns(pl.Series("label", [words.sparsity(s) for s in _plain(rows)["sparsity"]]))
    colours = series_colours(names)
    colour = alt.Color("series:N").title(None)
    colour = colour.scale(domain=list(colours), range=[found.light for found in colours.values()])
    order = [words.sparsity(s) for s in sparsities]
    x = alt.X("label:O").title("sparsity").sort(order).scale(domain=order).axis(labelAngle=0)
    floor = data["value"].min()
    low_enough = isinstance(floor, float) and floor < LOWEST
    scale = alt.Scale(domain=[LOWEST, 1], clamp=True) if low_enough else alt.Scale(zero=False)
    y = alt.Y("value:Q").title(y_title).axis(format=PERCENT).scale(scale)
    tips = [alt.Tooltip("series:N", title="recipe"), alt.Tooltip("label:N", title="sparsity"), alt.Tooltip("k:Q")]
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

_COLUMNS = ("metric", "representation", "series", "layer", "k", "sparsity", "seed", "target")
_NUMBERS = ("value", "low", "high", "null_mean", "null_high", "n", "groups")


def _plain(rows: pl.DataFrame) -> pl.DataFrame:
    """Keep rows with a value, NaN as null."""
    kept = rows.filter(pl.col("value").is_not_nan() & pl.col("value").is_not_null())
    return kept.select(*_COLUMNS, *_NUMBERS).with_columns(pl.selectors.float().fill_nan(None))
