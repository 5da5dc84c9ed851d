"""One figure per claim: published numbers, the study's method, and held-out groups."""

import math
from collections.abc import Mapping
from typing import Any

import altair as alt
import polars as pl

from otoscope.formatting import count, sparsity
from otoscope.protocols.claim_sources import EARLY_LATE
from otoscope.protocols.claims import Claims, TaskClaim
from otoscope.protocols.comparison import Estimate
from otoscope.report.figures.figure import Figure, Panel
from otoscope.report.figures.marks import PERCENT, curve, fixed_colour, intervals, layer_axis, layered
from otoscope.report.figures.strict import POOLED_FIRST
from otoscope.report.figures.theme import DENSE, NULL, OTHER, SAE, SAE_POOLED, Colour

POINTS = "datum.value == 0 ? '0' : format(datum.value, '+.2~f')"
"""Vega expression: a number of points with its sign."""

SOURCES: tuple[str, ...] = ("published", "the study's method, here", "held-out groups, here")
"""Sources of numbers, in the order of the charts."""

STUDY_PRESET = "study's preset, held-out"
"""Further source of the first claim, if dictionaries of another preset decide it."""

ONE_SEED = "1 seed"
"""Codes of a single seed, which are drawn hollow."""

UNITS = {"difference": "points", "low": "points", "high": "points", "codes": "percent", "dense": "percent"}
"""Units of the columns of the task's table."""

COLOURS: dict[str, Colour] = dict(zip((*SOURCES, STUDY_PRESET), (NULL, SAE_POOLED, SAE, OTHER), strict=True))
CATEGORY_COLOURS = dict(zip(EARLY_LATE, (DENSE, SAE, OTHER), strict=True))


def task_figure(sources: Mapping[str, Claims]) -> Figure | None:
    """Return the loss of codes against their layer, by sparsity."""
    rows: list[dict[str, Any]] = []
    for source, claims in sources.items():
        if (found := claims.task) is not None:
            rows += [_loss(source, found, level, number) for level, number in found.codes.items()]
    if not rows:
        return None
    data = pl.DataFrame(rows).sort("source", "sparsity")
    x = alt.X("sparsity:O").title("sparsity").axis(format=".4~%", labelAngle=0).scale(paddingInner=0.7)
    y = alt.Y("difference:Q").title("codes minus layer, points").axis(labelExpr=POINTS)
    colours = {name: colour for name, colour in COLOURS.items() if name in set(data["source"])}
    base = alt.Chart(data).encode(
        x=x, color=fixed_colour("source:N", colours), xOffset=alt.XOffset("source:N").sort(list(COLOURS))
    )
    tips = [alt.Tooltip("source:N"), alt.Tooltip("sparsity:Q", format=".4~%"), alt.Tooltip("mean:N")]
    tips += [alt.Tooltip(f"{name}:Q", format=".1f") for name in ("difference", "codes", "dense")]
    no_loss = alt.Chart(pl.DataFrame({"difference": [0.0]})).mark_rule(color=NULL.light, strokeDash=[4, 3])
    single = alt.datum.mean == ONE_SEED
    points = [
        base.mark_point(filled=filled, size=70, opacity=1).transform_filter(shown).encode(y=y, tooltip=tips)
        for filled, shown in ((True, ~single), (False, single))
    ]
    chart = layered(no_loss.encode(y="difference:Q"), *intervals(data, base, ""), *points)
    return Figure(
        name="claim-1",
        title="Task accuracy of codes compared with their layer",
        caption=(
            "Accuracy from codes minus accuracy from their layer, in percentage points, by sparsity; 0 means no loss. "
            "Published and the study's method: plain accuracy, mean over the layers with dictionaries. Held-out "
            f"groups: balanced accuracy of one layer{_seeds(sources)}, with the interval of the difference on the "
            "same clips, on which the verdict rests. Hollow: a single seed."
            f"{_study_preset(sources)}"
        ),
        panels=[Panel(chart)],
        table=data.rename({name: f"{name}_{unit}" for name, unit in UNITS.items()}),
    )


def _study_preset(sources: Mapping[str, Claims]) -> str:
    """Return the difference between the study's preset and codes of frames, as a sentence; empty without its codes."""
    found = sources.get(STUDY_PRESET)
    if found is None or found.task is None:
        return ""
    return f" {POOLED_FIRST}; codes of frames, averaged over a clip, have more."


def _seeds(sources: Mapping[str, Claims]) -> str:
    """Return the number of seeds behind the codes of held-out groups, by sparsity; empty where it is unknown."""
    counts = next(
        (claims.task.seed_counts for claims in sources.values() if claims.task and claims.task.seed_counts), {}
    )
    if len(set(counts.values())) < 2:
        return f", mean over {n} seeds" if (n := max(counts.values(), default=0)) > 1 else ""
    rare = min(counts.values())
    more = [f"{n} at {sparsity(s)}" for s, n in sorted(counts.items()) if n > rare]
    return f", mean over the seeds of a sparsity ({', '.join(more)}, {rare} elsewhere)"


def dimensions_figure(sources: Mapping[str, Claims]) -> Figure | None:
    """Return completeness of layers and codes, and effective dimensions on held-out groups."""
    rows: list[dict[str, Any]] = []
    for source, claims in sources.items():
        if (found := claims.compactness) is not None:
            rows += _pair(source, "completeness", found.completeness.dense, found.completeness.codes)
    held = next(
        (claims.compactness for claims in reversed(list(sources.values())) if claims.compactness is not None), None
    )
    more: list[dict[str, Any]] = []
    if held is not None and held.dimensions is not None:
        more += _pair(SOURCES[-1], "effective dimensions", held.dimensions.dense, held.dimensions.codes)
    few: list[dict[str, Any]] = []
    if held is not None and held.few is not None:
        few += _pair(SOURCES[-1], f"R² from {held.few_k} dimensions", held.few.dense, held.few.codes)
    if not rows:
        return None
    panels = [Panel(_sides(pl.DataFrame(rows, schema=_PAIR), "completeness"), "Completeness")]
    if more:
        panels.append(Panel(_sides(pl.DataFrame(more, schema=_PAIR), "dimensions"), "Effective dimensions per factor"))
    if few:
        panels.append(Panel(_sides(pl.DataFrame(few, schema=_PAIR), "R²"), few[0]["quantity"]))
    return Figure(
        name="claim-2",
        title="Dimensions per factor",
        caption=(
            "Completeness is 1 if a single dimension carries a factor. The published comparison selects factors of "
            "codes by completeness and factors of the layer by R², divides by the logarithm of different sizes, and "
            "assigns 1 to factors that are not predicted. On held-out groups both sides are compared on the same "
            "factors, with intervals over factors (codes are means over seeds). Fewer effective dimensions and a "
            "higher R² from few dimensions support the claim."
        ),
        panels=panels,
        table=pl.DataFrame([*rows, *more, *few], schema=_PAIR),
        height=210,
        legend=("dense", "SAE"),
    )


def layers_figure(sources: Mapping[str, Claims]) -> Figure | None:
    """Return categories by layer on held-out groups, and the study's counts in its first and last layer."""
    panels: list[Panel] = []
    tables: list[pl.DataFrame] = []
    strict = next(
        (c.ordering for c in reversed(list(sources.values())) if c.ordering and c.ordering.curves is not None), None
    )
    if strict is not None and strict.curves is not None and strict.curves["layer"].n_unique() > 1:
        panels.append(Panel(_by_layer(strict.curves), "Held-out groups: mean R² by layer"))
        tables.append(_curves(strict.curves))
    counts: list[dict[str, Any]] = []
    for source, claims in sources.items():
        if claims.ordering is not None:
            for end, values in (("first", claims.ordering.early), ("last", claims.ordering.late)):
                counts += [{"source": source, "layer": end, "category": c, "count": v} for c, v in values.items()]
    if counts:
        data = pl.DataFrame(counts)
        tables.append(
            data.select("source", pl.lit("of the ten best").alias("quantity"), "layer", "category", value="count")
        )
        for source in dict.fromkeys(data["source"]):
            shown = data.filter(pl.col("source") == source)
            panels.append(Panel(_counts(shown), f"{source[:1].upper()}{source[1:]}: factors among the ten best"))
    if not panels:
        return None
    return Figure(
        name="claim-3",
        title="Pitch, formants and MFCC by layer",
        caption=(
            "The study counts categories among the ten best-predicted factors of codes, in an early and a late layer; "
            "large categories are counted more often. On held-out groups the chart shows the mean R² of each "
            "category's factors from the dense layer, with its interval and, "
            "dashed, the upper end of its null. The verdict rests on the centre of each "
            "curve: the mean layer number weighted with R²."
        ),
        panels=panels,
        table=pl.concat(tables, how="diagonal"),
        height=230,
    )


_PAIR = {
    "source": pl.String(),
    "quantity": pl.String(),
    "series": pl.String(),
    "value": pl.Float64(),
    "low": pl.Float64(),
    "high": pl.Float64(),
}


def _pair(source: str, quantity: str, dense: Estimate, codes: Estimate) -> list[dict[str, Any]]:
    return [
        {"source": source, "quantity": quantity, "series": name, "value": n.value, "low": _known(n.low)}
        | {"high": _known(n.high)}
        for name, n in (("dense", dense), ("SAE", codes))
        if math.isfinite(n.value)  # without a common factor there is nothing to draw
    ]


def _loss(source: str, found: TaskClaim, level: float, number: Estimate) -> dict[str, Any]:
    change = found.changes.get(level, Estimate(number.value - found.dense.value))
    seeds = found.seed_counts.get(level, 0)
    numbers = {
        "difference": change.value,
        "low": change.low,
        "high": change.high,
        "codes": number.value,
        "dense": found.dense.value,
    }
    return {
        "source": source,
        "sparsity": level,
        "mean": count(seeds, "seed") if seeds else "mean over layers",
        **{name: 100 * value if math.isfinite(value) else None for name, value in numbers.items()},
    }


def _sides(data: pl.DataFrame, title: str) -> alt.LayerChart:
    y = alt.Y("source:N").title(None).sort(list(SOURCES)).axis(labelLimit=170, grid=False)
    colour = fixed_colour("series:N", {"dense": DENSE, "SAE": SAE})
    x = alt.X("value:Q").title(title).scale(alt.Scale(zero=False, padding=8)).axis(grid=True, tickCount=5)
    base = alt.Chart(data).encode(y=y, yOffset=alt.YOffset("series:N").sort(["dense", "SAE"]), color=colour)
    points = base.mark_point(filled=True, size=75, opacity=1).encode(x=x, tooltip=_tips("source:N", "series:N"))
    return layered(*intervals(data, base, title, along="x"), points)


def _tips(*first: str) -> list[alt.Tooltip]:
    numbers = (alt.Tooltip(f"{column}:Q", format=".3f") for column in ("value", "low", "high"))
    return [*map(alt.Tooltip, first), *numbers]


def _curves(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of the table."""
    ordered = rows.sort("target", "layer")
    return ordered.select(
        pl.lit(SOURCES[-1]).alias("source"),
        pl.lit("mean R²").alias("quantity"),
        pl.col("layer").cast(pl.String()),
        pl.col("target").alias("category"),
        pl.col("value", "low", "high", "null_high").fill_nan(None),
    )


def _by_layer(rows: pl.DataFrame) -> alt.LayerChart:
    data = rows.select("layer", "target", "value", "low", "high", "null_high").fill_nan(None).sort("target", "layer")
    x = layer_axis(data["layer"].unique().sort().to_list())
    y = alt.Y("value:Q").title("mean R²").axis(format=PERCENT)
    base = alt.Chart(data).encode(x=x, color=fixed_colour("target:N", CATEGORY_COLOURS))
    null = base.mark_line(strokeDash=[4, 3], strokeWidth=1.2).encode(y=alt.Y("null_high:Q").title("mean R²"))
    tips = [*_tips("layer:Q", "target:N"), alt.Tooltip("null_high:Q", format=".3f", title="null, upper end")]
    return layered(
        *intervals(data, base, "mean R²", band=True),
        *([null] if data["null_high"].is_not_null().any() else []),
        *curve(base, y, tips),
    )


def _counts(data: pl.DataFrame) -> alt.LayerChart:
    x = alt.X("layer:N").title("layer with dictionaries").sort(["first", "last"]).axis(labelAngle=0).scale(padding=0.4)
    y = alt.Y("count:Q").title("of ten factors").scale(alt.Scale(domainMin=0))
    base = alt.Chart(data).encode(x=x, color=fixed_colour("category:N", CATEGORY_COLOURS))
    tips = [alt.Tooltip("category:N"), alt.Tooltip("layer:N"), alt.Tooltip("count:Q", format=".1f")]
    return layered(*curve(base, y, tips))


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
