"""Figures of latents: blind scores of cards, timing, splices of the layer, and partners in other dictionaries."""

from collections.abc import Mapping
from typing import Any

import altair as alt
import polars as pl

from otoscope.explain.temporal_profile import SLOWEST_HZ
from otoscope.formatting import count, nothing_exceeds
from otoscope.report.figures.figure import Chart, Figure, Panel
from otoscope.report.figures.marks import curve, intervals, layered, series_colour
from otoscope.report.tables import without_few_groups
from otoscope.resampling.intervals import MIN_GROUPS

SCORED = {
    "auroc": "card",
    "permuted_high": "firing of other clips",
    "others": "cards of other latents",
    "level": "level alone",
}
"""Names of the blind score and of its controls."""


def too_few(card: Mapping[str, Any]) -> str:
    """Return what is too few to compare a card with its controls; empty if nothing is."""
    if card["groups"] < MIN_GROUPS:
        return "test groups"
    return "test clips" if nothing_exceeds(card["permuted_high"]) else ""


def beats_controls(card: Mapping[str, Any]) -> bool:
    """True if a card can be compared with its controls and beats them."""
    return card["beats_controls"] and not too_few(card)


def names_nothing(card: Mapping[str, Any]) -> bool:
    """True if a card has no condition, so that all frames have the same score."""
    return card["auroc"] == card["low"] == card["high"] == 0.5


def card_sentence(card: Mapping[str, Any]) -> str:
    """Return the sentence of a card, with conditions that test groups do not confirm marked as such."""
    rate, _, conditions = card["sentence"].partition(": ")
    if not conditions or names_nothing(card) or beats_controls(card):
        return card["sentence"]
    return f"{rate}. Not confirmed: {conditions}"


def cards(rows: pl.DataFrame | None) -> Figure | None:
    """Return the blind scores of all cards beside their controls; None without a score."""
    if rows is None:
        return None
    sentences = pl.Series("sentence", map(card_sentence, rows.iter_rows(named=True)), dtype=pl.String())
    shown = without_few_groups(_scores(rows.with_columns(sentences)))
    best = shown.filter(pl.col("auroc").is_not_nan()).sort("auroc", descending=True)
    if best.is_empty():
        return None
    named = best.with_columns(pl.format("latent {}", "latent").alias("name"), pl.selectors.float().fill_nan(None))
    order = named["name"].to_list()
    data = named.unpivot(
        list(SCORED), index=["name", "low", "high", "groups", "sentence"], variable_name="series"
    ).with_columns(
        pl.col("series").replace_strict(SCORED),
        pl.when(pl.col("series") == "auroc").then(pl.col("low", "high")),
    )
    title, y = "AUROC on test groups", alt.Y("name:N").title(None).sort(order)
    base = alt.Chart(data).encode(y=y, color=series_colour(list(SCORED.values())))
    x = alt.X("value:Q").title(title).scale(zero=False)
    tips = [alt.Tooltip("series:N", title="score"), alt.Tooltip("value:Q", format=".3f"), alt.Tooltip("sentence:N")]
    points = base.mark_point(filled=True, size=60, opacity=1).encode(x=x, tooltip=tips)
    return Figure(
        name="cards",
        title="Blind scores of cards",
        caption=(
            f"{_tally(best, rows.height)} Frames "
            "of test groups are predicted from the card alone, within each group. Area under the ROC curve with its "
            "95 % interval over three or more groups, and three controls: the upper end for firing moved to other "
            "clips, the mean for cards of other latents, and the level alone. A card beats its controls if its "
            "interval is above the first, and better than the other two in the same groups."
        ),
        panels=[Panel(layered(*intervals(data, base, title, along="x"), points))],
        table=shown.select("latent", "sentence", *SCORED, "low", "high"),
        height=26 * max(best.height, 4),
        legend=list(SCORED.values()),
    )


def _tally(scored: pl.DataFrame, total: int) -> str:
    """Return how many of the cards with a score are below the controls, and how many beat them."""
    below = scored.filter(pl.col("auroc") < pl.col("level")).height
    moved = scored.filter(pl.col("auroc") <= pl.col("permuted_high")).height
    compared = [card for card in scored.iter_rows(named=True) if not too_few(card)]
    beating = f"{sum(map(beats_controls, compared))} beat all controls"
    without = total - scored.height
    return (
        f"Of {count(scored.height, 'scored card')}, {below} {'predicts' if below == 1 else 'predict'} less than the "
        f"level alone, {moved} no more than firing moved to other clips; "
        f"{beating if compared else 'too few test groups or clips to compare any with its controls'}."
        + (f" No score without a condition, or in no test group: {count(without, 'card')}." if without else "")
    )


def _scores(rows: pl.DataFrame) -> pl.DataFrame:
    """Return cards without the scores of those that state no condition, which are 0.5 by construction."""
    stated = ~pl.all_horizontal(pl.col("auroc", "low", "high") == 0.5)
    return rows.with_columns(pl.when(stated).then(pl.col(*SCORED, "low", "high")))


TIMES = {
    "lag_s": "rise after sound onsets (s)",
    "duration_s": "median time of firing (s)",
    "persistence_s": "persistence (s)",
    "modulation_hz": "strongest modulation (Hz)",
}
"""Parts of the temporal profile, with their units."""


def temporal_profile(rows: pl.DataFrame | None) -> Figure | None:
    """Return lag, duration, persistence and modulation of the explained latents; None without rows."""
    if rows is None or rows.is_empty():
        return None
    named = rows.with_columns(pl.format("latent {}", "latent").alias("name"), pl.selectors.float().fill_nan(None))
    panels: list[Panel] = []
    for column, title in TIMES.items():
        shown = named.filter(pl.col(column).is_not_null()).sort(column)
        if shown.is_empty():
            continue
        x, y = alt.X(f"{column}:Q").title(title), alt.Y("name:N").title(None).sort(shown["name"].to_list())
        tips = [alt.Tooltip("name:N", title="latent"), alt.Tooltip(f"{column}:Q", format=".3f")]
        points = alt.Chart(shown).mark_point(filled=True, size=60, opacity=1)
        panels.append(Panel(layered(points.encode(x=x, y=y, tooltip=tips)), title))
    if not panels:
        return None
    return Figure(
        name="temporal-profile",
        title="When latents fire",
        caption=(
            "Time from a sound onset to half of the rise, median length of uninterrupted firing, time in which the "
            "autocorrelation of the activation around its mean in each clip falls to 1/e, and the rate from "
            f"{SLOWEST_HZ:g} Hz on with the largest power of its fluctuation. Latents without a rise, or whose power "
            f"falls from {SLOWEST_HZ:g} Hz, are left out there."
        ),
        panels=panels,
        table=rows.select("latent", *TIMES, "onsets", "lag_onsets", "syllable_share"),
        height=22 * max(rows.height, 4),
    )


SUBSTITUTES = {
    "sae": "reconstruction",
    "principal_components": "k principal components",
    "random_atoms": "random atoms, encoder untrained",
}
QUANTITIES = {
    "cosine": "cosine of the last layer",
    "probe_accuracy": "probe accuracy: {target}",
    "word_error_rate": "word error rate",
    "words_found": "words found",
}


def compared_substitutes(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of `SUBSTITUTES`, without principal components that are as many as the layer is wide.

    These return the untouched layer, so their share is 100 % whatever the encoder does.
    """
    components = pl.col("substitute") == "principal_components"
    whole = rows.filter(components, pl.col("quantity") == "cosine", pl.col("value") > 1 - 1e-9)["sae_id"]
    kept = ~(components & pl.col("sae_id").is_in(whole.to_list()))
    return rows.filter(pl.col("substitute").is_in(list(SUBSTITUTES)), kept)


def splice(rows: pl.DataFrame | None) -> Figure | None:
    """Return the recovered shares of a layer's substitutes by k, one panel per quantity; None without a share."""
    if rows is None:
        return None
    known = compared_substitutes(rows).filter(pl.col("recovered").is_not_nan())
    data = known.with_columns(
        pl.col("substitute").replace_strict(SUBSTITUTES).alias("series"), pl.selectors.float().fill_nan(None)
    )
    names = [name for name in SUBSTITUTES.values() if name in set(data["series"])]
    panels = [
        Panel(_shares(part, names), QUANTITIES[part["quantity"][0]].format(target=part["target"][0]))
        for part in data.partition_by("quantity", "target", maintain_order=True)
    ]
    if not panels:
        return None
    return Figure(
        name="splice",
        title="Share that the encoder recovers with the layer replaced",
        caption=(
            "Recovered share by k, the number of active latents per frame: 0 is as bad as the layer's mean frame, 1 "
            "as good as the untouched layer. Lines: 95 % intervals over three or more groups, clipped to -0.5 and 1.5. "
            "Quantities that the mean frame does not harm beyond noise have no share."
        ),
        panels=panels,
        table=without_few_groups(rows),
        height=220,
        legend=names,
    )


def _shares(rows: pl.DataFrame, names: list[str]) -> Chart:
    clipped = without_few_groups(rows).with_columns(pl.col("low", "high").clip(-0.5, 1.5))
    # substitutes that coincide stand side by side
    beside = alt.XOffset("series:N").scale(domain=names)
    base = alt.Chart(clipped).encode(x=alt.X("k:O").title("k"), xOffset=beside, color=series_colour(names))
    title = "share recovered"
    y = alt.Y("recovered:Q").title(title).scale(domain=[-0.5, 1.5], clamp=True)
    tips = [alt.Tooltip("series:N", title="substitute"), alt.Tooltip("k:O")]
    tips += [alt.Tooltip(f"{name}:Q", format=".3f") for name in ("recovered", "value", "untouched", "ablated")]
    return layered(*intervals(clipped, base, title), *curve(base, y, tips))


PARTNERS = {"correlation": "partner", "null_high": "largest of the null"}
MAX_POINTS = 200
"""Latents drawn per curve, evenly spaced by rank."""


def matching(rows: pl.DataFrame | None) -> Figure | None:
    """Return the correlation of latents with their partners beside the null, one panel per dictionary."""
    if rows is None or rows.is_empty():
        return None
    panels: list[Panel] = []
    for part in rows.partition_by("other", maintain_order=True):
        curves: list[pl.DataFrame] = []
        for column, series in PARTNERS.items():
            ranked = part.select(value=pl.col(column)).sort("value", descending=True).with_row_index("rank")
            step = max(ranked.height // MAX_POINTS, 1)
            share = (pl.col("rank") + 0.5) / ranked.height
            curves.append(ranked.gather_every(step).select("value", share=share, series=pl.lit(series)))
        base = alt.Chart(pl.concat(curves)).encode(
            x=alt.X("share:Q").title("share of latents").axis(format="~%"), color=series_colour(list(PARTNERS.values()))
        )
        y = alt.Y("value:Q").title("correlation over clips").scale(domain=[0, 1], clamp=True)
        panels.append(Panel(layered(base.mark_line(strokeWidth=2).encode(y=y)), part["other"][0]))
    return Figure(
        name="matching",
        title="Latents and their partners in other dictionaries",
        caption=(
            "Correlation of the mean codes over clips of each latent and its one-to-one partner, sorted, beside the "
            "largest correlation of the latent with random mixtures of its code and with other clips, sorted."
        ),
        panels=panels,
        table=rows,
        height=200,
        legend=list(PARTNERS.values()),
    )
