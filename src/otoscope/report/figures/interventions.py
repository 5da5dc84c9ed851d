"""Figures of interventions: the effect on a concept's readout against the size of the intervention."""

import altair as alt
import polars as pl

from otoscope.factors.readable_names import readable_name
from otoscope.report.figures.figure import Chart, Figure, Panel
from otoscope.report.figures.marks import layered, series_colour, series_names

TECHNIQUES = {
    "latent_by_output": "latent chosen by output",
    "latent_by_activation": "latent chosen by activation",
    "random_latent": "random latents",
    "difference_of_means": "difference of means",
    "principal_component": "principal component",
    "audio_minus_silence": "audio minus silence",
    "leace": "LEACE",
}
"""Name of each technique on pages, in the order of legends."""


def dose_response(rows: pl.DataFrame | None) -> Figure | None:
    """Return the effect of adding each direction at five norms, one panel per concept; None without rows."""
    if rows is None:
        return None
    series = pl.col("technique").replace_strict(TECHNIQUES).alias("series")
    added = rows.filter((pl.col("operation") == "add") & (pl.col("readout") == pl.col("target"))).with_columns(series)
    if added.is_empty():
        return None
    names = [name for name in TECHNIQUES.values() if name in series_names(added)]
    panels = [
        Panel(_curves(added.filter(pl.col("target") == target), names), readable_name(target))
        for target in added["target"].unique(maintain_order=True)
    ]
    return Figure(
        name="interventions",
        title="Effect of adding a direction to the layer",
        caption=(
            "Change of the readout of each concept from the last layer, in its standard deviations, when a "
            "direction is added to all frames of test clips without the concept. Size: norm of the direction, relative "
            "to the mean norm of the layer's centred frames. All directions have the same norm. Dashed: root mean "
            "square change of all concepts that are not correlated with this one."
        ),
        panels=panels,
        table=rows.filter(pl.col("readout") == pl.col("target")).drop("readout", "entangled"),
        height=230,
        legend=names,
        notes=[f"Table of all readouts: explain/interventions.parquet, {rows.height:,} rows."],
    )


def _curves(rows: pl.DataFrame, names: list[str]) -> Chart:
    data = rows.with_columns(pl.selectors.float().fill_nan(None))
    x = alt.X("dose:Q").title("size (share of the frames' norm)").scale(type="log", base=2, nice=False)
    base = alt.Chart(data).encode(x=x.axis(values=[0.125, 0.25, 0.5, 1, 2], format="~g"), color=series_colour(names))
    title = "change (standard deviations)"
    y = alt.Y("effect:Q").title(title)
    tips = [alt.Tooltip("series:N", title="direction"), alt.Tooltip("dose:Q", title="size")]
    tips += [alt.Tooltip(f"{name}:Q", format=".3f") for name in ("effect", "low", "high", "side")]
    return layered(
        base.mark_rule(strokeWidth=2, opacity=0.35).encode(y=alt.Y("low:Q").title(title), y2="high:Q"),
        base.mark_line(strokeWidth=1.2, strokeDash=[4, 3], opacity=0.7).encode(y=alt.Y("side:Q").title(title)),
        base.mark_line(strokeWidth=2).encode(y=y),
        base.mark_point(filled=True, size=50, opacity=1).encode(y=y, tooltip=tips),
    )
