"""The strict protocol's figure of where sparsity breaks what is kept."""

from collections.abc import Sequence

import polars as pl

from otoscope.protocols.strict.names import CODES
from otoscope.report import strict_charts, words
from otoscope.report.panels import Figure, Panel
from otoscope.report.strict_rows import StrictRows, listed


def limits_figure(rows: StrictRows) -> Figure | None:
    """Return the figure of each recipe whose limit was looked for, none where it was nowhere."""
    at = rows.of("sparsity_limit")
    recipes = list(dict.fromkeys(target.split(": ")[0] for target in at["target"]))
    if not recipes:
        return None
    names = _named(recipes)
    codes = rows.rows.filter((pl.col("representation") == CODES) & (pl.col("split") == "test"))
    first = codes["seed"].min()
    codes = codes.filter(pl.col("preset").is_in(recipes) & (pl.col("layer") == rows.layer) & (pl.col("seed") == first))
    codes = codes.with_columns(pl.col("preset").replace_strict(names, default="").alias("series"))
    sparsities = codes["sparsity"].drop_nans().unique().sort().to_list()
    questions = [
        ("explained_variance", "", "explained variance", "share"),
        ("mean_factor_r2", "", "factors", "mean R²"),
    ]
    questions += [(m, t, t, "R²" if m == "task_r2" else "balanced accuracy") for m, t in rows.tasks[:1]]
    panels: list[Panel] = []
    used: list[pl.DataFrame] = []
    for metric, target, title, y_title in questions:
        part = codes.filter((pl.col("metric") == metric) & (pl.col("target") == target)).sort("sparsity")
        if part["value"].is_not_nan().any():
            drawn = strict_charts.by_sparsity(part, y_title=y_title, sparsities=sparsities, names=list(names.values()))
            panels.append(Panel(drawn, title))
            used.append(part.drop("series"))
    if not panels:
        return None
    return Figure(
        name="strict-limits",
        title="Where sparsity breaks what is kept",
        caption=(
            "From a quarter of the latents active to hardly any: what is rebuilt, what is predicted and what is told "
            f"apart on test groups, for {of_recipes(recipes)}. The table ends with the sparsest level that loses less "
            "than the margin fixed beforehand."
        ),
        panels=panels,
        table=listed(pl.concat([*used, rows.of(["sparsity_limit", "sparsity_knee"])])),
        height=230,
        legend=list(names.values()),
    )


def _named(recipes: Sequence[str]) -> dict[str, str]:
    """Return what the legend calls each recipe: by its name where more than one of them is not the study's."""
    own = [recipe for recipe in recipes if recipe != "mariotte2025"]
    called = {own[0]: "SAE codes"} if len(own) == 1 else {recipe: f"SAE, {recipe}" for recipe in own}
    return {recipe: called.get(recipe, "SAE, the study's recipe") for recipe in recipes}


def of_recipes(recipes: Sequence[str]) -> str:
    """Return the recipes as a caption names them."""
    study = ["the study's recipe (mariotte2025: mean activations, pooled first)"] if "mariotte2025" in recipes else []
    own = [f"this run's ({recipe})" for recipe in recipes if recipe != "mariotte2025"]
    return words.listed([*study, *own])
