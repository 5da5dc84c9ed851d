"""Figure of causal response curves: activation while the synthesiser changes one factor of a voice."""

import altair as alt
import polars as pl

from otoscope.explain import SWEPT
from otoscope.report.figures.figure import Chart, Figure, Panel
from otoscope.report.figures.marks import curve, intervals, layered, series_colour

MAX_LATENTS = 4
"""Curves per panel: those of the latents whose response predicts unseen singers best."""


def sweeps(rows: pl.DataFrame | None, latent: int | None = None) -> Figure | None:
    """Return the causal curves of one latent, or of those that respond most clearly; None without rows."""
    if rows is None or rows.is_empty():
        return None
    clearest = rows.group_by("latent").agg(pl.col("r2").fill_nan(-1.0).max()).sort(-pl.col("r2"), "latent")
    shown = clearest["latent"].to_list()[:MAX_LATENTS] if latent is None else [latent]
    largest = pl.col("mean").max().over("latent")
    data = rows.filter(pl.col("latent").is_in(shown)).with_columns(
        pl.format("latent {}", "latent").alias("series"),
        *(pl.when(largest > 0).then(pl.col(name) / largest).alias(name) for name in ("mean", "low", "high")),
    )
    names = [f"latent {number}" for number in shown]
    return Figure(
        name="sweeps",
        title="Activation while one factor of a sung note changes",
        caption=(
            "The synthesiser sang the same note with other values of one factor; everything else stayed the same. Mean "
            "activation over the note, relative to the latent's largest, with 95 % intervals over singers."
        ),
        panels=[_panel(part, names) for part in data.partition_by("factor", maintain_order=True)],
        table=rows,
        height=180,
        legend=names,
    )


def _panel(rows: pl.DataFrame, names: list[str]) -> Panel:
    data = rows.with_columns(pl.selectors.float().fill_nan(None))
    factor = SWEPT[rows["factor"][0]]
    return Panel(_curves(data, names, list(factor.classes)), f"{factor.label} ({factor.unit})".replace(" ()", ""))


def _curves(data: pl.DataFrame, names: list[str], classes: list[str]) -> Chart:
    axis = alt.X("value:Q").title(None).scale(zero=False, nice=False)
    x = alt.X("class:N").title(None).sort(classes) if classes else axis
    title = "activation, relative"
    base = alt.Chart(data).encode(x=x, color=series_colour(names))
    y = alt.Y("mean:Q").title(title).scale(zero=True)
    tips = [alt.Tooltip("series:N", title="latent"), alt.Tooltip("class:N" if classes else "value:Q", title="value")]
    tips += [alt.Tooltip(f"{name}:Q", format=".3f") for name in ("mean", "r2", "p_value")]
    return layered(*intervals(data, base, title), *curve(base, y, tips))
