"""The figures of a report: which rows go into which chart, and the words beside it."""

import math
from collections.abc import Mapping, Sequence

import polars as pl

from otoscope.report import charts, tables, words
from otoscope.report.charts import Figure, Panel
from otoscope.report.folder import Run
from otoscope.report.results import PREDICTED_R2, Results, predicted
from otoscope.report.strict import strict_figures

POOLINGS = {
    "encode_then_pool": "every frame is encoded, then the codes are pooled over the clip",
    "pool_then_encode": "frames are averaged over the clip first, then encoded (the order of Mariotte et al. 2025)",
}


def probe_by_layer(results: Results) -> Figure | None:
    """Accuracy of a linear probe at each layer, dense and codes at the reference sparsity, a panel a label."""
    at = results.reference_sparsity
    at_reference = pl.col("sparsity").eq_missing(pl.lit(at, dtype=pl.Float64))
    rows = pl.concat([results.of("probe_accuracy"), _pooled_first(results, "probe_accuracy")])
    rows = charts.named(rows.filter((pl.col("representation") != "sae") | at_reference), results.pooling)
    if rows.is_empty():
        return None
    codes = f" Blue: the codes of the layer's dictionary at {words.sparsity(at)} sparsity." if at is not None else ""
    labels = results.labels
    return Figure(
        name="probe-by-layer",
        title=f"Which layers know the {words.listed(labels)}",
        caption=(
            "Accuracy of a linear probe on the clips of groups that no fit or choice has seen. "
            f"Orange: the layer as it is.{codes} Upright lines: 95{words.NBSP}% intervals over groups. "
            "Grey: what the same probe reaches with permuted labels, from the mean to the upper end; "
            "a point in the grey says nothing."
        ),
        panels=[
            Panel(charts.by_layer(rows.filter(pl.col("target") == label), y_title="accuracy on test groups"), label)
            for label in labels
        ],
        table=_all_probe_metrics(results),
        height=240 if len(labels) > 1 else 300,
        legend=charts.series_names(rows),
    )


def probe_against_sparsity(results: Results) -> list[Figure]:
    """Accuracy of probes on codes against sparsity, the dense layer as a line across.

    The first label has a panel a layer; a second figure has a panel for each other label, at the
    layer that stands for all codes.
    """
    if results.of("probe_accuracy", "sae").is_empty():
        return []
    rows = pl.concat([results.of("probe_accuracy"), _pooled_first(results, "probe_accuracy")])
    rows = charts.named(rows.filter(pl.col("value").is_not_nan()), results.pooling)
    first, *others = results.labels
    caption = (
        "Probe accuracy from the codes (blue) as fewer latents may fire; the orange line is the dense layer with its "
        "interval. Where blue meets orange the codes lose nothing. Grey: permuted labels, from the mean to the upper "
        "end."
    )
    of_first = rows.filter(pl.col("target") == first)
    layers = of_first.filter(pl.col("representation") == "sae")["layer"].unique().sort().to_list()
    at_layer = {f"layer {layer}": of_first.filter(pl.col("layer") == layer) for layer in layers}
    figures = [_against_sparsity(results, "probe-against-sparsity", first, caption, at_layer)]
    if others:
        layer = results.codes_layer.layer
        of_layer = rows.filter(pl.col("layer") == layer)
        per_label = {label: of_layer.filter(pl.col("target") == label) for label in others}
        said = f"{caption} Layer {layer}."
        figures.append(
            _against_sparsity(results, "probe-against-sparsity-others", words.listed(others), said, per_label)
        )
    return figures


def _against_sparsity(
    results: Results, name: str, what: str, caption: str, panels: Mapping[str, pl.DataFrame]
) -> Figure:
    rows = pl.concat(list(panels.values()))
    top = min(math.ceil(20 * max(v for v in [*rows["value"], *rows["high"], 0.05] if words.known(v))) / 20, 1.0)
    sparsities = results.sparsities
    drawn = [
        Panel(charts.against_sparsity(part, y_title="accuracy", sparsities=sparsities, top=top), title)
        for title, part in panels.items()
    ]
    return Figure(
        name=name,
        title=f"What sparse codes keep of the {what}",
        caption=caption,
        panels=drawn,
        table=tables.result_rows(rows.drop("series")),
        height=230 if len(drawn) > 1 else 300,
        legend=charts.series_names(rows),
    )


def explained_variance(results: Results) -> Figure | None:
    """Explained variance against sparsity, a line a layer."""
    rows = results.of("explained_variance", "sae")
    if rows.is_empty():
        return None
    metrics = ["explained_variance", "mse", "cosine", "l0", "dead_fraction", "always_on_fraction"]
    return Figure(
        name="explained-variance",
        title="How much of each layer the dictionaries rebuild",
        caption=(
            "Share of the variance around the training mean that the dictionary's reconstruction explains on test "
            "groups, a line a layer. 100 % is perfect, 0 % is no better than always answering the mean. The more "
            "latents may fire (to the left), the higher it should be; dotted grey, where drawn, is the null."
        ),
        panels=[
            Panel(
                charts.lines_by_layer(
                    rows, y_title="explained variance", layers=results.layers, sparsities=results.sparsities
                )
            )
        ],
        table=tables.result_rows(results.of(metrics, "sae")),
    )


def factors_against_sparsity(run: Run, metric: str) -> Figure | None:
    """A factor metric over dense and all sparsities at the best layer, a panel a category."""
    results = run.results
    layer = factor_layer(results)
    if layer is None:
        return None
    rows = charts.named(results.of(metric, layer=layer), results.pooling)
    rows = rows.filter(pl.col("value").is_not_nan() & pl.col("representation").is_in(["dense", "sae"]))
    if rows.is_empty():
        return None
    logarithmic = metric == "effective_latents"
    largest = max([2.0, *rows["value"]])
    top = 2.0 ** math.ceil(math.log2(largest)) if logarithmic else 1.0
    y_title = "effective dimensions (log)" if logarithmic else "held-out R²"
    categories = _categories(run, rows["target"].unique().to_list())
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
        for category, members in categories.items()
    ]
    r2_caption = (
        "How well a LASSO fitted on training groups predicts each factor on test groups. 1 is perfect, 0 is no better "
        f"than the mean; values under {words.decimal(charts.R2_FLOOR, 1)} are drawn at the edge."
    )
    size_caption = (
        "How many dimensions share the work of predicting each factor: the exponential of the entropy of the LASSO's "
        "absolute weights. 1 means a single latent carries the factor. It does not grow by itself "
        "with a wider code, so dense and codes can be compared. Factors that nothing predicts have no value."
    )
    return Figure(
        name="effective-latents" if logarithmic else "factor-r2",
        title="How many dimensions carry each factor" if logarithmic else "Which factors can be read off",
        caption=(
            f"{size_caption if logarithmic else r2_caption} Layer {layer}; a panel a category, a thin line a factor, "
            "the large points the category's median: orange the dense layer, blue the codes"
            f"{'.' if logarithmic else '; dashed grey the median of the upper ends of the nulls.'}"
        ),
        panels=panels,
        table=factor_table(run, metric, layer),
        height=190,
        small=True,
        legend=charts.series_names(rows),
        notes=[
            "Factors within a category depend on each other; count them as a few facts, not as many.",
            "In the table “null” is the upper end of what permuted factors reach.",
        ],
    )


def factor_table(run: Run, metric: str, layer: int) -> pl.DataFrame:
    """Return a row a factor: category, value from the dense layer and from the codes at each sparsity, and nulls."""
    rows = run.results.of(metric, layer=layer)
    wide: dict[str, dict[str, object]] = {}
    labels = ["dense", *(words.sparsity(s) for s in run.results.sparsities)]
    for row in rows.rows(named=True):
        place = "dense" if row["representation"] == "dense" else words.sparsity(row["sparsity"])
        target = wide.setdefault(row["target"], {"factor": row["target"], "category": run.category(row["target"])})
        target[place] = row["value"]
        if row["null_high"] is not None:
            target[f"{place} null"] = row["null_high"]
        target["rows"], target["groups"] = row["n"], row["groups"]
    schema: dict[str, pl.DataType] = {"factor": pl.String(), "category": pl.String()}
    for label in labels:
        schema |= {label: pl.Float64(), f"{label} null": pl.Float64()}
    table = pl.DataFrame(list(wide.values()), schema={**schema, "rows": pl.Int64(), "groups": pl.Int64()})
    empty = [c for c in table.columns if table[c].dtype.is_float() and table[c].fill_nan(None).is_null().all()]
    return table.drop(empty)


def category_map(run: Run) -> Figure | None:
    """Share of each category's factors that are predicted, by layer: dense, and codes at the reference sparsity."""
    results = run.results
    at = results.reference_sparsity
    found = {"dense": results.of("factor_r2", "dense"), "SAE": results.of("factor_r2", "sae", sparsity=at)}
    cells = {name: category_cells(run, rows) for name, rows in found.items() if rows.height}
    if not cells:
        return None
    categories = list(_categories(run, results.factors))
    titles = {"dense": "dense layer", "SAE": f"codes at {words.sparsity(at)} sparsity"}
    table = pl.concat([c.with_columns(representation=pl.lit(titles[name])) for name, c in cells.items()])
    return Figure(
        name="categories-by-layer",
        title="Which kinds of factors each layer holds",
        caption=(
            "Share of the factors of each category that are predicted, by layer: held-out R² of at least "
            f"{PREDICTED_R2} and above the upper end of the null. Each share is of the category's own size, so large "
            "categories do not look better than small ones; a cell reads “predicted / all”."
        ),
        panels=[Panel(charts.category_map(c, categories=categories), titles[name]) for name, c in cells.items()],
        table=table.select("representation", "category", "layer", "predicted", "factors", "share", "mean_r2"),
        height=28 * max(len(categories), 2) + 20,
    )


def category_cells(run: Run, rows: pl.DataFrame) -> pl.DataFrame:
    """Count the predicted factors of each category and layer."""
    categories = [run.category(t) for t in rows["target"]]
    r2 = pl.col("value").fill_nan(None)
    grouped = rows.with_columns(pl.Series("category", categories, dtype=pl.String()))
    grouped = grouped.group_by("category", "layer", maintain_order=True).agg(
        predicted().sum().cast(pl.Int64).alias("predicted"),
        pl.len().cast(pl.Int64).alias("factors"),
        r2.clip(lower_bound=0.0).mean().alias("mean_r2"),
    )
    share = (pl.col("predicted") / pl.col("factors")).alias("share")
    text = pl.format("{}/{}", "predicted", "factors").alias("text")
    return grouped.with_columns(share, text).sort("category", "layer")


def factor_layer(results: Results) -> int | None:
    """Return the layer whose factors are shown: that of the codes, or the nearest to it that has factors."""
    best = results.codes_layer.layer if results.sparsities else results.best_layer.layer
    having = results.of("factor_r2", "sae")["layer"].unique().sort().to_list()
    having = having or results.of("factor_r2")["layer"].unique().sort().to_list()
    return min(having, key=lambda layer: (abs(layer - (best or 0)), layer), default=None)


def all_figures(run: Run) -> dict[str, list[Figure]]:
    """Return every figure that the run's results allow, by section."""
    results = run.results
    sections: dict[str, list[Figure | None]] = {
        "layers": [probe_by_layer(results)],
        "sparsity": [*probe_against_sparsity(results)],
        "reconstruction": [explained_variance(results)],
        "factors": [
            factors_against_sparsity(run, "factor_r2"),
            factors_against_sparsity(run, "effective_latents"),
        ],
        "categories": [category_map(run)],
        "strict": [*strict_figures(run)],
    }
    return {name: [f for f in figures if f is not None] for name, figures in sections.items()}


def _all_probe_metrics(results: Results) -> pl.DataFrame:
    metrics = ["probe_accuracy", "probe_balanced_accuracy", "probe_macro_f1"]
    rows = results.shown.filter(pl.col("metric").is_in(metrics))
    return tables.result_rows(rows.sort("metric", "target", "layer", "representation", "sparsity", maintain_order=True))


def _pooled_first(results: Results, metric: str) -> pl.DataFrame:
    rows = results.shown.filter((pl.col("metric") == metric) & (pl.col("representation") == "sae"))
    return rows.filter(results.in_other_pooling)


def _categories(run: Run, factors: Sequence[str]) -> dict[str, list[str]]:
    """Group factors by category, in the order of the factors' card, then of their names."""
    listed = list(dict.fromkeys(run.categories.values()))
    members: dict[str, list[str]] = {c: [] for c in listed}
    for factor in sorted(factors):
        members.setdefault(run.category(factor), []).append(factor)
    return {c: m for c, m in members.items() if m}
