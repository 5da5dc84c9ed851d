"""Where sparsity breaks what is kept: the figure of the strict protocol, and the sentence about it."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from otoscope.formatting import comma_list, percent, sparsity
from otoscope.metrics.representation import CODES
from otoscope.protocols.comparing import number_of
from otoscope.protocols.strict.layers_and_limits import MARGINS
from otoscope.report.claims.formatting import within
from otoscope.report.figures import charts
from otoscope.report.figures.figure import Figure, Panel
from otoscope.report.sections.findings import Finding
from otoscope.report.sections.strict_rows import StrictRows, listed

MEASURED = {"explained variance": "explained variance", "factors": "R²", "task": "accuracy (or R²)"}
"""What each quantity's margin is counted in."""


def limits_figure(rows: StrictRows) -> Figure | None:
    """Return the figure of each recipe whose limit was looked for, none where it was nowhere."""
    at = rows.of("sparsity_limit")
    recipes = list(dict.fromkeys(target.split(": ")[0] for target in at["target"]))
    if not recipes:
        return None
    names = _named(recipes)
    codes = _codes(rows).filter(pl.col("preset").is_in(recipes))
    codes = codes.with_columns(pl.col("preset").replace_strict(names, default="").alias("series"))
    sparsities = codes["sparsity"].drop_nans().unique().sort().to_list()
    panels: list[Panel] = []
    used: list[pl.DataFrame] = []
    for metric, target, title, y_title in _questions(rows):
        part = codes.filter((pl.col("metric") == metric) & (pl.col("target") == target)).sort("sparsity")
        if part["value"].is_not_nan().any():
            drawn = charts.by_sparsity(part, y_title=y_title, sparsities=sparsities, names=list(names.values()))
            panels.append(Panel(drawn, title))
            used.append(part.drop("series"))
    if not panels:
        return None
    return Figure(
        name="strict-limits",
        title="Where sparsity breaks what is kept",
        caption=(
            f"From {sparsity(sparsities[0])} sparsity to {sparsity(sparsities[-1])}: what is rebuilt, "
            f"what is predicted and what is told apart on test groups, for {of_recipes(recipes)}; the first seed of "
            "each. The table ends with the sparsest level that loses no more than the margin against the densest (a "
            "dash where it cannot be determined), and with the bend of each curve."
        ),
        panels=panels,
        table=listed(pl.concat([*used, _determined(rows), rows.of("sparsity_knee")])),
        height=230,
        legend=list(names.values()),
    )


def limit_findings(rows: StrictRows) -> list[Finding]:
    """Say up to which sparsity each recipe's dictionaries keep what its densest one has, where that can be read."""
    told: dict[str, list[str]] = {}
    densest = ""
    for row in rows.of("sparsity_limit").iter_rows(named=True):
        recipe, quantity = row["target"].split(": ")
        levels = _levels(rows, row)
        densest = sparsity(min(levels)) if levels else densest
        text = f"{quantity} {sparsity(row['value'])}{within(number_of(row), sparsity)}"
        if (best := beaten_at(levels, MARGINS[quantity])) is not None:
            base, top = percent(levels[min(levels)]), percent(levels[best])
            text = f"{quantity} undetermined (the densest have {base}, sparser ones {top}, at {sparsity(best)})"
        told.setdefault(recipe, []).append(text)
    if not told:
        return []
    parts = [f"with the recipe {recipe} {comma_list(limits)}" for recipe, limits in told.items()]
    against = f" ({densest} sparsity)" if densest else ""
    return [
        Finding(
            "How sparse before it costs",
            f"Up to which sparsity no level loses more than the margin against the densest{against}: "
            f"{'; '.join(parts)}. Margins, fixed beforehand: {margins_told()}.",
        )
    ]


def _levels(rows: StrictRows, limit: Mapping[str, Any]) -> dict[float, float]:
    """Return what the dictionaries reach, by sparsity, whose limit a row is."""
    recipe, quantity = limit["target"].split(": ")
    asked = {name: (metric, target) for (metric, target, *_), name in zip(_questions(rows), MARGINS, strict=False)}
    metric, target = asked.get(quantity, ("", ""))
    same = (pl.col("preset") == recipe) & (pl.col("metric") == metric) & (pl.col("target") == target)
    return dict(_codes(rows).filter(same & pl.col("value").is_not_nan()).select("sparsity", "value").iter_rows())


def _determined(rows: StrictRows) -> pl.DataFrame:
    """Return the rows of limits, without a number where it cannot be determined."""
    limits = rows.of("sparsity_limit")
    known = [
        beaten_at(_levels(rows, row), MARGINS[row["target"].split(": ")[1]]) is None for row in limits.rows(named=True)
    ]
    numbers = pl.col("value", "low", "high")
    return limits.with_columns(pl.when(pl.Series(known)).then(numbers).otherwise(None))


def margins_told() -> str:
    """Return the margins in words.

    >>> margins_told().split(", ", 1)[0]
    '5 points of explained variance'
    """
    return comma_list(f"{100 * margin:.0f} points of {MEASURED[name]}" for name, margin in MARGINS.items())


def beaten_at(levels: Mapping[float, float], margin: float) -> float | None:
    """Return the sparsity whose codes beat the densest by more than the margin; None where none do.

    A limit is what is lost against the densest codes; where these are the worse ones, it says nothing.

    >>> beaten_at({0.75: 0.3, 0.9: 0.6, 0.99: 0.2}, 0.02), beaten_at({0.75: 0.6, 0.9: 0.61}, 0.02)
    (0.9, None)
    """
    if not levels:
        return None
    best = max(levels, key=lambda s: levels[s])
    return best if levels[best] - levels[min(levels)] > margin else None


def _questions(rows: StrictRows) -> list[tuple[str, str, str, str]]:
    """Return metric, target, title and axis of what limits are looked for of, in the order of `MARGINS`."""
    found = [("explained_variance", "", "explained variance", "share"), ("mean_factor_r2", "", "factors", "mean R²")]
    return found + [(m, t, t, "R²" if m == "task_r2" else "balanced accuracy") for m, t in rows.tasks[:1]]


def _codes(rows: StrictRows) -> pl.DataFrame:
    """Return what codes of the compared layer and the first seed reach on test groups."""
    codes = rows.rows.filter((pl.col("representation") == CODES) & (pl.col("split") == "test"))
    first = pl.col("seed").eq_missing(pl.lit(codes["seed"].min()))
    return codes.filter((pl.col("layer") == rows.layer) & first)


def _named(recipes: Sequence[str]) -> dict[str, str]:
    """Return what the legend calls each recipe: by its name where more than one of them is not the study's."""
    own = [recipe for recipe in recipes if recipe != "mariotte2025"]
    called = {own[0]: "SAE codes"} if len(own) == 1 else {recipe: f"SAE, {recipe}" for recipe in own}
    return {recipe: called.get(recipe, "SAE, the study's recipe") for recipe in recipes}


def of_recipes(recipes: Sequence[str]) -> str:
    """Return the recipes as a caption names them."""
    study = ["the study's recipe (mariotte2025: mean activations, pooled first)"] if "mariotte2025" in recipes else []
    own = [f"this run's ({recipe})" for recipe in recipes if recipe != "mariotte2025"]
    return comma_list([*study, *own])
