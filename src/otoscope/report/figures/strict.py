"""Figures of the strict protocol."""

from collections.abc import Sequence

import polars as pl

from otoscope import formatting
from otoscope.factors.readable_names import readable_name
from otoscope.formatting import NBSP, comma_list, decimal, sparsity
from otoscope.metrics.audit import order_by_truth
from otoscope.metrics.registry import METRICS, SHARE, STRUCTURE
from otoscope.metrics.representation import CODES, REPRESENTATIONS, representation_label
from otoscope.metrics.results import ResultsTable
from otoscope.protocols.strict.results import StrictResults
from otoscope.report.estimates import undetermined_limits
from otoscope.report.figures import charts
from otoscope.report.figures.figure import Figure, Panel
from otoscope.report.figures.marks import R2_FLOOR
from otoscope.report.tables import result_rows

CURVES = tuple(r.name for r in REPRESENTATIONS.values() if r.colour is not None)
"""Representations with a curve; the table holds all representations."""

AXES = {"explained_variance": "share", "mean_factor_r2": "mean R²", "task_r2": "R²"}
"""Axis title of the sparsity limits by metric; other metrics are balanced accuracies."""

LIMITS = "strict-limits"
"""Name of the figure of sparsity limits."""

MAX_TASKS = 3
"""Most tasks whose curves by number of dimensions are drawn; the table holds all."""

WITHOUT_LEARNED_ATOMS = ("start", "random_topk", "frozen_decoder", "soft_frozen_decoder")
"""Representations as wide as the codes whose atoms are (nearly) random, or not trained."""

POOLED_FIRST = "The study's preset encodes one mean per clip, so each clip has k active latents"
"""Difference of the study's preset beside its own settings."""

MIN_PREDICTED = 0.5
"""Minimum share of the common factors that a representation must predict for its structure to be drawn."""


def strict_figures(results: pl.DataFrame) -> list[Figure]:
    """Return the figures of the strict protocol; none if it was not run."""
    rows = StrictResults.of(results)
    if not rows:
        return []
    figures = [tasks(rows), structure(rows), few_dimensions(rows), layers(rows), limits(rows)]
    return [figure for figure in figures if figure is not None]


def tasks(rows: StrictResults) -> Figure | None:
    """Return tasks and factors read from each representation."""
    panels: list[Panel] = []
    table_rows: list[pl.DataFrame] = []
    drawn = _first_of_each_kind(rows.tasks)
    for metric, target in [*rows.tasks, ("mean_factor_r2", "")]:
        part = rows.compared(metric, target)
        if part.is_empty():
            continue
        if metric.startswith("task_") and (metric, target) not in drawn:
            table_rows.append(part)
            continue
        title = "R² on test groups" if metric.endswith("r2") else "balanced accuracy on test groups"
        name = readable_name(target) or "factors of the layer or of every seed"
        panels.append(Panel(charts.by_representation(part, x_title=title), name))
        table_rows.append(part)
    if not panels:
        return None
    at_edge = f" R² and interval ends under {decimal(R2_FLOOR, 1)} are drawn at the edge; the table holds them."
    return Figure(
        name="strict-read",
        title="Scores by representation",
        caption=(
            "Each label or value is predicted by ridge regression, the LASSO or few dimensions, whichever scores "
            "highest on left-out groups, for every representation alike; factors that the layer or every seed of the "
            "codes predicts by ridge regression, R² and interval ends below 0 counting as 0. Orange: the "
            "dense layer. Blue: the codes, the mean over seeds, and each seed as a small ring. Magenta: the baselines. "
            "Grey: random codes, and those of other clips of the group. "
            f"Lines: 95{NBSP}% intervals over groups. A claim about the dictionary "
            "needs blue to the right of magenta, not only of grey."
            + (at_edge if any(metric == "task_r2" for metric, _ in drawn) else "")
        ),
        notes=[
            f"The table also holds {comma_list(readable_name(pair[1]) for pair in rows.tasks if pair not in drawn)}."
        ]
        if len(rows.tasks) > len(drawn)
        else [],
        panels=panels,
        table=result_rows(pl.concat(table_rows)),
        height=max(map(charts.height_of, table_rows)),
    )


def structure(rows: StrictResults) -> Figure | None:
    """Return compactness and separation of each representation, over the same factors."""
    predictive = _predictive(rows)
    panels: list[Panel] = []
    ordered = order_by_truth(STRUCTURE)
    drawn = [metric for name in ordered if (metric := METRICS[name]).axis]
    for metric in drawn:
        part = rows.compared(metric.name).filter(pl.col("representation").is_in(predictive))
        if part["value"].is_not_nan().any():
            fraction = metric.bounds == SHARE
            chart = charts.by_representation(
                part, x_title=metric.axis, fraction=fraction, logarithmic=metric.logarithmic
            )
            panels.append(Panel(chart, metric.axis.removesuffix(" (log)")))
    if not panels:
        return None
    everything = pl.concat([rows.compared(metric) for metric in ordered])
    left_out = [representation_label(name) for name in _measured(rows) if name not in predictive]
    notes = [
        "Compare codes of the same size: completeness depends on it, and wide codes can spread a factor over more "
        "effective dimensions, also without learning. The null of these measures is the value for codes of other "
        "clips. These predict nothing and may therefore look most compact, so a null above the value is no evidence "
        "against it. Measures are sorted by their correlation with the share of recovered features on synthetic "
        "dictionaries."
    ]
    if left_out:
        notes.append(
            f"Not drawn, because they predict fewer than half of these factors: {comma_list(left_out)}. The table "
            "holds their numbers."
        )
    return Figure(
        name="strict-structure",
        title="Compactness and separation, over the same factors",
        caption=(
            "Computed over the factors that the dense layer and the codes of every seed predict well. Effective "
            "dimensions: number of units that share a factor (fewer is more compact). Completeness: the same on a "
            "scale from 0 to 1 that depends on the size of the code. Disentanglement: 1 if each unit serves a single "
            f"factor{_without_learning(rows, predictive)}. Explicitness: 1 if a linear model predicts as well as a "
            "larger one. Lines: intervals from leaving out one factor at a time, widened because factors depend on "
            "each other."
        ),
        panels=panels,
        table=result_rows(everything),
        height=charts.height_of(everything),
        notes=notes,
    )


def _without_learning(rows: StrictResults, predictive: Sequence[str]) -> str:
    """Return the representations without learned atoms that are as disentangled as the codes, as a clause.

    Values are compared as they are shown.
    """
    codes = rows.one("disentanglement", CODES)
    if codes is None or not formatting.known(codes["value"]):
        return ""
    found = {name: rows.one("disentanglement", name) for name in WITHOUT_LEARNED_ATOMS if name in predictive}
    values = {name: row["value"] for name, row in found.items() if row is not None and formatting.known(row["value"])}
    reached = [
        f"{representation_label(name)} {decimal(value, 2)}"
        for name, value in values.items()
        if round(value, 2) >= round(codes["value"], 2)
    ]
    if not reached:
        return ""
    of_codes = decimal(codes["value"], 2)
    return f"; without learned atoms, it is no lower than the {of_codes} of the codes ({comma_list(reached)})"


def few_dimensions(rows: StrictResults) -> Figure | None:
    """Return scores from the best k dimensions of each representation."""
    labels = rows.targets("sparse_probe_balanced_accuracy")
    questions = [("sparse_r2", ""), *(("sparse_probe_balanced_accuracy", label) for label in labels)]
    panels: list[Panel] = []
    table_rows: list[pl.DataFrame] = []
    for metric, target in questions:
        part = rows.compared(metric, target)
        drawn_rows = part.filter(pl.col("representation").is_in(CURVES))
        if not drawn_rows["value"].is_not_nan().any():
            continue
        table_rows.append(part)
        if target in labels[MAX_TASKS:]:
            continue
        title = "mean R²" if metric == "sparse_r2" else "balanced accuracy"
        name = "factors (mean R²)" if metric == "sparse_r2" else readable_name(target)
        panels.append(Panel(charts.by_size(drawn_rows, y_title=title, sizes=rows.sizes), name))
    if not panels:
        return None
    everything = pl.concat(table_rows)
    return Figure(
        name="strict-few",
        title="Scores from a few dimensions",
        caption=(
            "A direct test of “fewer dimensions encode the same”: the best 1, 2, 4, ... dimensions for a target are "
            "chosen on training groups, a regression uses only these, and is scored on test groups. If single latents "
            "are meaningful, the blue curve starts higher than the others on the left; the sentence “A few "
            "dimensions” above states the result. Blue is the mean over seeds; the table holds each seed. Bands: "
            f"95{NBSP}% intervals, of the mean R² over factors, of accuracies over groups."
        ),
        panels=panels,
        table=result_rows(everything),
        height=240,
        legend=[REPRESENTATIONS[name].label for name in CURVES if name in set(everything["representation"])],
        notes=[f"The table also holds {comma_list(map(readable_name, labels[MAX_TASKS:]))}."]
        * (len(labels) > MAX_TASKS),
    )


def layers(rows: StrictResults) -> Figure | None:
    """Return the mean R² of each category of factors by layer."""
    curves = rows.where(metric="category_r2", split="test").rows.with_columns(pl.lit("dense layer").alias("series"))
    if curves["layer"].n_unique() < 2:
        return None
    values = [v for v in [*curves["high"], *curves["value"]] if formatting.known(v)]
    top = min(max(values, default=1.0), 1.0)
    panels = [
        Panel(
            charts.category_by_layer(curves.filter(pl.col("target") == category), y_title="mean R²", top=top),
            f"{category} ({curves.filter(pl.col('target') == category)['n'][0]})",
        )
        for category in rows.targets("category_r2")
    ]
    summaries = _without_points(rows.where(metric=("centre_layer", "earliest_layer", "layer_lead"), split="test").rows)
    return Figure(
        name="strict-layers",
        title="Categories of factors by layer",
        caption=(
            "Mean R² of each category's factors from the dense layers, on test groups, with equal weight per factor; "
            "the number of factors is in brackets. Band: interval over groups and factors. Dashed: upper end of the "
            "null. The table ends with the centre of each curve (mean layer number weighted with R²), the first layer "
            "within a tenth of the best, and the leads between centres in layers; an interval that no resampling moves "
            "is left out. R² and interval ends below 0 count as 0."
        ),
        panels=panels,
        table=result_rows(
            pl.concat([curves.drop("series"), summaries.with_columns(pl.lit(None, pl.Int64).alias("layer"))])
        ),
        height=170,
        small=True,
    )


def _without_points(rows: pl.DataFrame) -> pl.DataFrame:
    """Return rows without intervals that are a point: no resampling moved the value."""
    point = (pl.col("low") == pl.col("high")) & (pl.col("low") == pl.col("value"))
    return rows.with_columns(pl.when(~point).then(pl.col("low", "high")))


def _first_of_each_kind(tasks: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the first task with one label, the first with several labels, and the first regression task."""
    kinds: dict[tuple[str, bool], tuple[str, str]] = {}
    for metric, target in tasks:
        kinds.setdefault((metric, " + " in target), (metric, target))
    return list(kinds.values())


def _measured(rows: StrictResults) -> list[str]:
    return rows.compared("effective_latents")["representation"].unique(maintain_order=True).to_list()


def _predictive(rows: StrictResults) -> list[str]:
    """Return the representations that predict at least half of the common factors."""
    shares = rows.compared("predicted_share", "common").filter(pl.col("value") >= MIN_PREDICTED)
    return shares["representation"].unique(maintain_order=True).to_list()


def limits(results: StrictResults) -> Figure | None:
    """Return the figure of each preset with a limit; None without limits."""
    presets = list(dict.fromkeys(limit.preset for limit in results.limits))
    if not presets:
        return None
    labels = _series(presets)
    codes = ResultsTable(results.first_seed_codes).where(preset=presets)
    series = pl.col("preset").replace_strict(labels, default="").alias("series")
    sparsities = codes.rows["sparsity"].drop_nans().unique().sort().to_list()
    panels: list[Panel] = []
    used: list[pl.DataFrame] = []
    for quantity, (metric, target) in results.limit_questions.items():
        part = codes.where(metric=metric, target=target).rows.sort("sparsity")
        if part["value"].is_not_nan().any():
            y_title = AXES.get(metric, "balanced accuracy")
            names = list(labels.values())
            chart = charts.by_sparsity(part.with_columns(series), y_title=y_title, sparsities=sparsities, names=names)
            panels.append(Panel(chart, readable_name(target) or quantity))
            used.append(part)
    if not panels:
        return None
    knees = results.where(metric="sparsity_knee", split="test").rows
    return Figure(
        name=LIMITS,
        title="Sparsity limits",
        caption=(
            f"From {sparsity(sparsities[0])} sparsity to {sparsity(sparsities[-1])}: explained variance, factors and "
            f"the first task on test groups, for {preset_list(presets)}; the first seed of each."
            f"{_differently_pooled(codes.rows)} The table ends with "
            "the sparsest level that loses no more than the margin against the densest (a dash where it is "
            "undetermined, as said above), and with the knee of each curve; an interval that no resampling moves is "
            "left out."
        ),
        panels=panels,
        table=result_rows(pl.concat([*used, _determined_limits(results), _without_points(knees)])),
        height=230,
        legend=list(labels.values()),
    )


def _determined_limits(results: StrictResults) -> pl.DataFrame:
    """Return the rows of limits, without a number where a limit is undetermined."""
    rows = results.where(metric="sparsity_limit", split="test").rows
    determined = pl.Series([not reason for reason in undetermined_limits(results)], dtype=pl.Boolean)
    return rows.with_columns(pl.when(determined).then(pl.col("value", "low", "high")).otherwise(None))


def _differently_pooled(codes: pl.DataFrame) -> str:
    """Return the difference in pooling between the study's preset and all others, as a sentence after a blank."""
    is_study = pl.col("preset") == "mariotte2025"
    study, own = (set(codes.filter(of)["pooling"]) for of in (is_study, ~is_study))
    if (study, own) != ({"pool_then_encode"}, {"encode_then_pool"}):
        return ""
    return f" {POOLED_FIRST}; this run's encodes frames, and the mean over a clip has more active latents."


def _series(presets: Sequence[str]) -> dict[str, str]:
    """Return the legend's label of each preset: its name where more than one of them is not the study's."""
    own = [preset for preset in presets if preset != "mariotte2025"]
    labels = {own[0]: "SAE codes"} if len(own) == 1 else {preset: f"SAE, {preset}" for preset in own}
    return {preset: labels.get(preset, "SAE, the study's preset") for preset in presets}


def preset_list(presets: Sequence[str]) -> str:
    """Return the presets as a caption names them."""
    study = ["the study's preset (mariotte2025: mean activations, pooled first)"] if "mariotte2025" in presets else []
    own = [f"this run's ({preset})" for preset in presets if preset != "mariotte2025"]
    return comma_list([*study, *own])
