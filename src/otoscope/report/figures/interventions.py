"""Figures of interventions: dose-response curves, and the matrix of erased concepts and readouts."""

import altair as alt
import polars as pl

from otoscope.factors.readable_names import readable_name
from otoscope.report.figures.figure import Chart, Figure, Panel
from otoscope.report.figures.marks import curve, intervals, layer_axis, layered, series_colour, series_names
from otoscope.report.figures.theme import OTHER

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


ERASERS = {
    "latents": "latents of the concept",
    "random_latents": "random latents, equal norm",
    "leace": "LEACE",
}


def erasure_matrix(rows: pl.DataFrame | None) -> Figure | None:
    """Return the gain that each readout loses when each concept is erased, one panel per technique."""
    if rows is None:
        return None
    shown = rows["erased"].unique(maintain_order=True).to_list()
    cells = rows.filter(pl.col("readout").is_in(shown)).with_columns(pl.selectors.float().fill_nan(None))
    widest = max(0.1, float(cells["lost"].abs().max() or 0))  # type: ignore[arg-type]
    panels = [
        Panel(_matrix(cells.filter(pl.col("technique") == technique), shown, widest), title)
        for technique, title in ERASERS.items()
    ]
    return Figure(
        name="erasure",
        title="Gain that readouts lose when a concept is erased",
        caption=(
            "Rows: concept erased from the layer. Columns: readout of the last layer. Gain is the slope of a readout's "
            "output on the true value over test clips, 1 if it is perfect. A technique that erases its concept alone "
            "has a dark diagonal and nothing else. Random latents have the same firing rates and change frames by "
            "the same mean norm. A ring marks values whose 95 % interval over groups excludes 0."
        ),
        panels=panels,
        table=rows.drop("kind"),
        height=26 * max(len(shown), 4),
        notes=[
            "Group: all singers (speakers), read on clips of theirs on which neither readout nor latents were fitted."
        ],
    )


def _matrix(cells: pl.DataFrame, order: list[str], widest: float) -> Chart:
    beyond = (pl.col("low") > 0) | (pl.col("high") < 0)
    base = alt.Chart(cells.with_columns(beyond.fill_null(value=False).alias("beyond"))).encode(
        x=alt.X("readout:N").title("readout").sort(order).axis(labelAngle=-60, labelLimit=120, labelOverlap=False),
        y=alt.Y("erased:N").title("erased").sort(order).axis(labelLimit=150),
    )
    colour = alt.Color("lost:Q").title("gain lost").scale(domain=[0, widest], clamp=True)
    tips: list[alt.Tooltip] = [alt.Tooltip("erased:N"), alt.Tooltip("readout:N")]
    tips += [alt.Tooltip(f"{name}:Q", format=".3f") for name in ("lost", "low", "high", "gain")]
    legend = alt.Legend(format="~g", orient="top", gradientLength=140)
    return layered(
        base.mark_rect(cornerRadius=2).encode(color=colour.legend(legend), tooltip=tips),
        base.transform_filter("datum.beyond")
        .mark_point(size=40, color=OTHER.light, strokeWidth=1.6)
        .encode(tooltip=tips),
    )


ENCODERS = {
    "untouched": "untouched encoder",
    "sae": "layer replaced by its reconstruction",
    "mean": "layer replaced by its mean frame",
}


def lens(rows: pl.DataFrame | None) -> Figure | None:
    """Return the word error rate of transcripts from each layer; None without rows."""
    if rows is None or rows.is_empty():
        return None
    series = pl.col("encoder").replace_strict(ENCODERS).alias("series")
    data = rows.with_columns(series, pl.selectors.float().fill_nan(None))
    names = [name for name in ENCODERS.values() if name in set(data["series"])]
    title = "word error rate"
    y = alt.Y("word_error_rate:Q").title(title).scale(zero=True)
    base = alt.Chart(data).encode(x=layer_axis(data["layer"].to_list()), color=series_colour(names))
    tips = [alt.Tooltip("series:N", title="encoder"), alt.Tooltip("layer:O"), alt.Tooltip("transcript:N")]
    tips.append(alt.Tooltip("word_error_rate:Q", title=title, format=".3f"))
    return Figure(
        name="lens",
        title="Word error rate of transcripts from each layer",
        caption=(
            "The decoder reads each layer through the encoder's final norm; later blocks are skipped. 0 is a perfect "
            "transcript; rates above 1 have more wrong words than were spoken. Bars: 95 % interval over speakers."
        ),
        panels=[Panel(layered(*intervals(data, base, title), *curve(base, y, tips)))],
        table=rows,
        height=220,
        legend=names,
    )


ORDERS = {"relevance": "relevance", "spectrogram": "the spectrogram's energy", "random": "chance"}


def occlusion(rows: pl.DataFrame | None) -> Figure | None:
    """Return the activation left while cells of the sound are silenced, and restored; None without rows."""
    if rows is None or rows.is_empty():
        return None
    means = rows.group_by("order", "share", maintain_order=True).agg(pl.col("deletion", "insertion").mean())
    data = means.with_columns(pl.col("order").replace_strict(ORDERS).alias("series"))
    names = [name for name in ORDERS.values() if name in set(data["series"])]
    panels = []
    for column, title in (("deletion", "cells silenced"), ("insertion", "cells restored")):
        x = alt.X("share:Q").title(f"share of {title}").axis(format="~%")
        base = alt.Chart(data).encode(x=x, color=series_colour(names))
        y = alt.Y(f"{column}:Q").title("activation left").axis(format="~%").scale(zero=True)
        tips = [
            alt.Tooltip("series:N", title="order"),
            alt.Tooltip("share:Q"),
            alt.Tooltip(f"{column}:Q", format=".2f"),
        ]
        panels.append(Panel(layered(*curve(base, y, tips)), f"{title}, highest value first"))
    return Figure(
        name="occlusion",
        title="Activation left while cells of the sound are silenced or restored",
        caption=(
            "Mean over latents of the mean activation, relative to the untouched clip. A good order lowers the left "
            "curve early and raises the right one early. The spectrogram's energy is the control: loud cells matter "
            "to most latents."
        ),
        panels=panels,
        table=rows,
        height=210,
        legend=names,
    )
