"""Figures of response curves: observed in recordings, and caused by one factor that the synthesiser changes."""

import altair as alt
import polars as pl

from otoscope.explain import DESCRIPTORS, SWEPT, curve_agreement
from otoscope.formatting import decimal, known
from otoscope.report.figures.figure import Chart, Figure, Panel
from otoscope.report.figures.marks import curve, intervals, layered, series_colour

RECORDINGS, SUNG = "recordings", "sung, only this changes"
"""Names of the observed and the causal curve in legends."""
MAX_DESCRIPTORS = 6
"""Observed curves shown: those that predict unseen groups best."""
MAX_LATENTS = 4
"""Curves per panel: those of the latents whose response predicts unseen singers best."""


def responses(rows: pl.DataFrame | None, latent: int, swept: pl.DataFrame | None = None) -> Figure | None:
    """Return the observed curves of a latent, beside the causal ones where a factor is swept; None without rows."""
    if rows is None or rows.is_empty():
        return None
    own = rows.filter(pl.col("latent") == latent).sort(-pl.col("r2").fill_nan(-1.0), "bin", maintain_order=True)
    curves = own.partition_by("descriptor", maintain_order=True)[:MAX_DESCRIPTORS]
    caused = {} if swept is None else {
        factor.descriptor: swept.filter((pl.col("latent") == latent) & (pl.col("factor") == name)).sort("value")
        for name, factor in SWEPT.items()
        if factor.descriptor
    }  # fmt: skip
    return Figure(
        name="responses",
        title=f"Response of latent {latent}",
        caption=(
            "Mean activation relative to the largest of each curve, with 95 % intervals over groups: frames of unseen "
            "groups by the value of a descriptor, and sung notes in which nothing but this factor changed."
        ),
        panels=[_observed_panel(curve, caused.get(curve["descriptor"][0])) for curve in curves],
        table=own,
        height=180,
        legend=[RECORDINGS, SUNG] if any(not each.is_empty() for each in caused.values()) else [RECORDINGS],
    )


def _observed_panel(observed: pl.DataFrame, caused: pl.DataFrame | None) -> Panel:
    """Return the panel of a descriptor; its title has the held-out R2 and the agreement with the causal curve."""
    descriptor, r2 = DESCRIPTORS[observed["descriptor"][0]], observed["r2"][0]
    title = f"{descriptor.label} ({descriptor.unit})".replace(" ()", "") + f": R² {decimal(r2, 2)}"
    parts = [_relative(observed.rename({"median": "value"}), RECORDINGS)]
    if caused is not None and not caused.is_empty():
        both = caused["value"].to_numpy(), caused["mean"].to_numpy()
        agreement = curve_agreement(*both, observed["median"].to_numpy(), observed["mean"].to_numpy())
        title += f", agreement {decimal(agreement, 2)}" if known(agreement) else ""
        parts.append(_relative(caused, SUNG))
    data = pl.concat(parts)
    x = alt.X("value:Q").title(None).scale(zero=False, nice=False)
    base = alt.Chart(data).encode(x=x, color=series_colour([RECORDINGS, SUNG][: len(parts)]))
    y = alt.Y("mean:Q").title("activation, relative").scale(zero=True)
    tips = [
        alt.Tooltip("series:N", title="curve"),
        *(alt.Tooltip(f"{name}:Q", format=".3f") for name in ("value", "mean")),
    ]
    return Panel(layered(*intervals(data, base, "activation, relative"), *curve(base, y, tips)), title)


def _relative(rows: pl.DataFrame, series: str) -> pl.DataFrame:
    """Return a curve relative to its largest value, NaN as null."""
    largest = rows["mean"].fill_nan(0.0).max() or 1.0
    scaled = (pl.col(name).fill_nan(None) / largest for name in ("mean", "low", "high"))
    return rows.select(pl.lit(series).alias("series"), "value", *scaled)


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
