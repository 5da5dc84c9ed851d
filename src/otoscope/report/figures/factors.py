"""Figures of factors: how well they are predicted, from how many dimensions, and in which layers."""

import math
from collections.abc import Mapping, Sequence

import polars as pl

from otoscope.formatting import comma_list, count, decimal, sparsity
from otoscope.protocols.comparison import TOLD_BY_GROUPS
from otoscope.protocols.strict import NAME as STRICT
from otoscope.report.figures import charts
from otoscope.report.figures.figure import Figure, Panel
from otoscope.report.figures.marks import R2_FLOOR, series_names, with_series_names
from otoscope.report.results import PREDICTED_R2, SHOWN, Results, predicted
from otoscope.report.run_data import category_of


def factors_by_sparsity(
    results: Results, categories: Mapping[str, str], metric: str, covariates: Sequence[str] = ()
) -> Figure | None:
    """Return a factor metric for dense and all sparsities at the layer shown, with one panel per category.

    `covariates` are those of `factor_r2_given`.
    """
    layer = factor_layer(results)
    if layer is None:
        return None
    rows = with_series_names(results.of(metric, SHOWN, layer=layer), results.pooling)
    # the mean over factors has no target
    rows = rows.filter(pl.col("value").is_not_nan() & (pl.col("target") != ""))
    if rows.is_empty():
        return None
    logarithmic = metric == "effective_latents"
    largest = max([2.0, *rows["value"]])
    top = 2.0 ** math.ceil(math.log2(largest)) if logarithmic else 1.0
    y_title = "effective dimensions (log)" if logarithmic else "held-out R²"
    members_of = _members(categories, rows["target"].unique().to_list())
    panels = [
        Panel(
            charts.factor_panel(
                rows.filter(pl.col("target").is_in(members)),
                sparsities=results.sparsities,
                y_title=y_title,
                logarithmic=logarithmic,
                top=top,
            ),
            f"{category} ({len(members)})",
        )
        for category, members in members_of.items()
    ]
    r2_caption = (
        "How well a LASSO fitted on training groups predicts each factor on test groups. 1 is perfect, 0 is no better "
        f"than the mean; values under {decimal(R2_FLOOR, 1)} are drawn at the edge.{_high_nulls(rows)}"
    )
    size_caption = (
        "Effective number of dimensions of each factor's regression: the exponential of the entropy of the LASSO's "
        "absolute weights. 1: it uses a single dimension, however little of the factor that predicts. The number is "
        "not divided by the logarithm of the width, as completeness is, and wide codes can spread a factor over more "
        "dimensions, also without learning: compare codes of the same width that predict a factor about equally well "
        f"(its R² is in the figure above). It has no interval. {_sized(results)}"
    )
    table = factor_table(results, categories, metric, layer, covariates)
    return Figure(
        name="effective-latents" if logarithmic else "factor-r2",
        title="Effective dimensions per factor" if logarithmic else "R² of each factor",
        caption=(
            f"{size_caption if logarithmic else r2_caption} Layer {layer}; one panel per category, one thin line per "
            "factor, large points for the category's median: orange the dense layer, blue the codes"
            f"{'.' if logarithmic else '. Dashed grey: median of the upper ends of the nulls.'}"
        ),
        panels=panels,
        table=table,
        height=190,
        small=True,
        legend=series_names(rows),
        notes=_notes(table, covariates),
    )


def _sized(results: Results) -> str:
    """Return which factors have effective dimensions, as a sentence."""
    if results.protocol != STRICT:
        return "Factors with an R² below the setting completeness_min_r2 have no value."
    return "Only factors that the layer and the codes of every seed predict have a value."


def _high_nulls(rows: pl.DataFrame) -> str:
    """Return the number of factors in which groups differ, as a sentence after a blank; empty without any."""
    nulls = rows.filter(pl.col("null_mean").fill_nan(None) > TOLD_BY_GROUPS)
    factors = nulls["target"].n_unique()
    if not factors:
        return ""
    verb = "has" if factors == 1 else "have"
    highest = decimal(float(max(nulls["null_mean"])), 2)
    return (
        f" {count(factors, 'factor')} {verb} a mean R² above {decimal(TOLD_BY_GROUPS, 1)} (up to {highest}) for "
        "permuted clips, because groups differ in them: read the R² within groups in the table."
    )


def _notes(table: pl.DataFrame, covariates: Sequence[str]) -> list[str]:
    notes = ["Factors within a category depend on each other and are not independent evidence."]
    within = any(column.endswith(" within groups") for column in table.columns)
    if any(column.endswith(" null") for column in table.columns):
        permuted = "clips permuted within their groups" if within else "permuted clips"
        notes.append(f"In the table, “null” is the upper end of the R² for {permuted}.")
    if within:
        notes.append("“Within groups” is the R² of deviations from the mean of each group.")
    given = _given(covariates)
    if any(column.endswith(given) for column in table.columns):
        classes = "class" if len(covariates) == 1 else "combination of classes"
        notes.append(
            f"“Given {comma_list(covariates)}” is the R² of deviations from the mean of each {classes} of "
            f"{comma_list(covariates)} (evaluate.covariates): differences between them do not count."
        )
    return notes


def _given(covariates: Sequence[str]) -> str:
    return f" given {comma_list(covariates)}"


def factor_table(
    results: Results, categories: Mapping[str, str], metric: str, layer: int, covariates: Sequence[str] = ()
) -> pl.DataFrame:
    """Return one row per factor: category, value for the dense layer and each sparsity, and nulls.

    R² has values within groups, and with `covariates` given their classes.
    """
    rows = results.of(metric, SHOWN, layer=layer)
    by_factor: dict[str, dict[str, object]] = {}
    labels = ["dense", *(sparsity(s) for s in results.sparsities)]
    for row in rows.filter(pl.col("target") != "").rows(named=True):
        place = "dense" if row["representation"] == "dense" else sparsity(row["sparsity"])
        target = by_factor.setdefault(
            row["target"], {"factor": row["target"], "category": category_of(categories, row["target"])}
        )
        target[place] = row["value"]
        if row["null_high"] is not None:
            target[f"{place} null"] = row["null_high"]
        target["rows"], target["groups"] = row["n"], row["groups"]
    inside = {"factor_r2_within": " within groups"}
    if covariates:
        inside["factor_r2_given"] = _given(covariates)
    shown = results.of(list(inside), SHOWN, layer=layer).rows(named=True) if metric == "factor_r2" else ()
    for row in shown:
        place = "dense" if row["representation"] == "dense" else sparsity(row["sparsity"])
        if row["target"] in by_factor:
            by_factor[row["target"]][f"{place}{inside[row['metric']]}"] = row["value"]
    schema: dict[str, pl.DataType] = {"factor": pl.String(), "category": pl.String()}
    for label in labels:
        schema |= {label + kind: pl.Float64() for kind in ("", " null", *inside.values())}
    table = pl.DataFrame(list(by_factor.values()), schema={**schema, "rows": pl.Int64(), "groups": pl.Int64()})
    empty = [c for c in table.columns if table[c].dtype.is_float() and table[c].fill_nan(None).is_null().all()]
    return table.drop(empty)


def category_map(results: Results, categories: Mapping[str, str]) -> Figure | None:
    """Return the share of predicted factors by category and layer: dense, and codes at the reference sparsity."""
    at = results.reference_sparsity
    by_series = {"dense": results.of("factor_r2", "dense"), "SAE": results.of("factor_r2", "sae", sparsity=at)}
    with_values = {name: results.with_test_values(rows) for name, rows in by_series.items()}
    cells = {name: category_cells(categories, rows) for name, rows in with_values.items() if rows.height}
    if not cells:
        return None
    shown = list(_members(categories, results.factors))
    inside = ", and positive within groups" if results.of("factor_r2_within").height else ""
    titles = {"dense": "dense layer", "SAE": f"codes at {sparsity(at)} sparsity"}
    table = pl.concat([c.with_columns(representation=pl.lit(titles[name])) for name, c in cells.items()])
    return Figure(
        name="categories-by-layer",
        title="Predicted factors by category and layer",
        caption=(
            "Share of the factors of each category that are predicted, by layer: held-out R² of at least "
            f"{PREDICTED_R2}, above the upper end of the null{inside}. Shares are relative to the size of the "
            "category. A cell reads “predicted / all”"
            + (f": {missing}." if (missing := results.unmeasured_note) else ".")
        ),
        panels=[Panel(charts.category_map(c, categories=shown), titles[name]) for name, c in cells.items()],
        table=table.select("representation", "category", "layer", "predicted", "factors", "share", "mean_r2"),
        height=28 * max(len(shown), 2) + 20,
    )


def category_cells(categories: Mapping[str, str], rows: pl.DataFrame) -> pl.DataFrame:
    """Count the predicted factors of each category and layer."""
    names = [category_of(categories, target) for target in rows["target"]]
    r2 = pl.col("value").fill_nan(None)
    grouped = rows.with_columns(pl.Series("category", names, dtype=pl.String()))
    grouped = grouped.group_by("category", "layer", maintain_order=True).agg(
        predicted().sum().cast(pl.Int64).alias("predicted"),
        pl.len().cast(pl.Int64).alias("factors"),
        r2.clip(lower_bound=0.0).mean().alias("mean_r2"),
    )
    share = (pl.col("predicted") / pl.col("factors")).alias("share")
    text = pl.format("{}/{}", "predicted", "factors").alias("text")
    return grouped.with_columns(share, text).sort("category", "layer")


def factor_layer(results: Results) -> int | None:
    """Return the layer whose factors are shown: the codes' layer, or the nearest layer with factors."""
    best = results.codes_layer.layer if results.sparsities else results.best_layer.layer
    candidates = results.of("factor_r2", "sae")["layer"].unique().sort().to_list()
    candidates = candidates or results.of("factor_r2")["layer"].unique().sort().to_list()
    return min(candidates, key=lambda layer: (abs(layer - (best or 0)), layer), default=None)


def _members(categories: Mapping[str, str], factors: Sequence[str]) -> dict[str, list[str]]:
    """Group factors by category, in the order of the factors' card, then of their names."""
    listed = list(dict.fromkeys(categories.values()))
    members: dict[str, list[str]] = {c: [] for c in listed}
    for factor in sorted(factors):
        members.setdefault(category_of(categories, factor), []).append(factor)
    return {c: m for c, m in members.items() if m}
