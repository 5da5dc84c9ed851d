"""Figures of probes and reconstruction with their captions, and all figures of a report."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import polars as pl

from otoscope.factors.readable_names import readable_name
from otoscope.formatting import NBSP, comma_list, count, known, percent, sparsity
from otoscope.metrics.representation import REPRESENTATIONS, WITHOUT_MODEL
from otoscope.protocols.strict.results import StrictResults
from otoscope.report import tables
from otoscope.report.figures import charts
from otoscope.report.figures.classes import class_figures
from otoscope.report.figures.factors import category_map, factors_by_sparsity
from otoscope.report.figures.figure import Figure, Panel
from otoscope.report.figures.interventions import dose_response, erasure_matrix, lens, occlusion
from otoscope.report.figures.latents import cards, matching, splice, temporal_profile
from otoscope.report.figures.marks import series_names, with_series_names
from otoscope.report.figures.responses import sweeps
from otoscope.report.figures.strict import strict_figures
from otoscope.report.results import SHOWN, Results
from otoscope.report.run_data import RunData

POOLINGS = {
    "encode_then_pool": "every frame is encoded, then codes are pooled over the clip",
    "pool_then_encode": "frames are averaged over the clip first, then encoded (the order of Mariotte et al. 2025)",
}


LEAST_POINTS = 0.05
"""Difference in points of variance below which two sparsities count as equal; shown numbers round to tenths."""
MAX_FALLS = 3
"""Maximum number of exceptions that a caption names."""


def probe_by_layer(results: Results) -> Figure | None:
    """Return probe accuracy at each layer, for dense activations and codes, with one panel per label."""
    at = results.reference_sparsity
    at_reference = pl.col("sparsity").eq_missing(pl.lit(at, dtype=pl.Float64))
    rows = pl.concat([results.of("probe_accuracy", SHOWN), _pooled_first(results, "probe_accuracy")])
    rows = rows.filter((pl.col("representation") != "sae") | at_reference)
    if rows.is_empty():
        return None
    rows = with_series_names(pl.concat([rows, _across_layers(results, rows["layer"])]), results.pooling)
    codes = f" Blue: the codes of the layer's dictionary at {sparsity(at)} sparsity." if at is not None else ""
    labels = results.labels
    return Figure(
        name="probe-by-layer",
        title=f"Probe accuracy by layer: {comma_list(labels)}",
        caption=(
            "Accuracy of a linear probe on groups that neither its fit nor the choice of its penalty and of the "
            "dimensions that it reads (all, or the best few) used. Orange: the dense "
            f"layer.{codes}{_without_model_note(rows)} Vertical lines: 95{NBSP}% intervals over groups. Grey: the "
            "null, the same probe with permuted labels, from mean to upper end; a point within the grey band is no "
            "better than chance."
        ),
        panels=[
            Panel(charts.by_layer(rows.filter(pl.col("target") == label), y_title="accuracy on test groups"), label)
            for label in labels
        ],
        table=_all_probe_metrics(results),
        height=240 if len(labels) > 1 else 300,
        legend=series_names(rows),
    )


def _across_layers(results: Results, layers: pl.Series) -> pl.DataFrame:
    """Return probes without a model at each layer of a chart, with the interval at the first only."""
    rows, ends = results.of("probe_accuracy", WITHOUT_MODEL), ("low", "high")
    each = rows.drop("layer").join(layers.unique().sort().to_frame(), how="cross").select(rows.columns)
    return each.with_columns(pl.when(pl.col("layer") == layers.min()).then(pl.col(end)).alias(end) for end in ends)


def _without_model_note(rows: pl.DataFrame) -> str:
    names = [REPRESENTATIONS[name].label for name in WITHOUT_MODEL if name in set(rows["representation"])]
    return f" Level lines: {comma_list(names)}, without any model." if names else ""


def probe_by_sparsity(results: Results) -> list[Figure]:
    """Return probe accuracy of codes against sparsity, the dense layer as a horizontal line.

    The first figure has one panel per layer for the first label. A second figure has one panel per further label, at
    the layer whose codes are shown.
    """
    if results.of("probe_accuracy", "sae").is_empty():
        return []
    rows = pl.concat([results.of("probe_accuracy", SHOWN), _pooled_first(results, "probe_accuracy")])
    rows = with_series_names(rows.filter(pl.col("value").is_not_nan()), results.pooling)
    first, *others = results.labels
    caption = (
        "Probe accuracy of the codes (blue) with fewer and fewer active latents. The orange line is the dense layer "
        "with its interval; the findings above give the difference on the same clips, with its interval. Grey: the "
        "null (permuted labels), from mean to upper end."
    )
    first_rows = rows.filter(pl.col("target") == first)
    layers = first_rows.filter(pl.col("representation") == "sae")["layer"].unique().sort().to_list()
    at_layer = {f"layer {layer}": first_rows.filter(pl.col("layer") == layer) for layer in layers}
    figures = [_against_sparsity(results, "probe-against-sparsity", first, caption, at_layer)]
    if others:
        layer = results.codes_layer.layer
        of_layer = rows.filter(pl.col("layer") == layer)
        per_label = {label: of_layer.filter(pl.col("target") == label) for label in others}
        text = f"{caption} Layer {layer}."
        figures.append(_against_sparsity(results, "probe-against-sparsity-others", comma_list(others), text, per_label))
    return figures


def _against_sparsity(
    results: Results, name: str, what: str, caption: str, panels: Mapping[str, pl.DataFrame]
) -> Figure:
    rows = pl.concat(list(panels.values()))
    top = min(math.ceil(20 * max(v for v in [*rows["value"], *rows["high"], 0.05] if known(v))) / 20, 1.0)
    sparsities = results.sparsities
    panels_drawn = [
        Panel(charts.against_sparsity(part, y_title="accuracy", sparsities=sparsities, top=top), title)
        for title, part in panels.items()
    ]
    return Figure(
        name=name,
        title=f"Probe accuracy of sparse codes: {what}",
        caption=caption,
        panels=panels_drawn,
        table=tables.result_rows(rows.drop("series")),
        height=230 if len(panels_drawn) > 1 else 300,
        legend=series_names(rows),
    )


def explained_variance(results: Results) -> Figure | None:
    """Return explained variance against sparsity, with one line per layer."""
    rows = results.of("explained_variance", "sae")
    if rows.is_empty():
        return None
    components = results.of("explained_variance", "pca").filter(pl.col("pooling").is_in(rows["pooling"].implode()))
    null = " Dotted grey: the null." if rows["null_mean"].is_not_nan().any() else ""
    if components.height:
        null += " Dashed: as many principal components of the training rows as active latents."
    metrics = ["explained_variance", "mse", "cosine", "l0", "dead_fraction", "always_on_fraction"]
    return Figure(
        name="explained-variance",
        title="Explained variance of the dictionaries",
        caption=(
            "Share of the variance around the training mean that the dictionary's reconstruction explains on test "
            "groups, one line per layer. 100 % is perfect, 0 % is no better than predicting the mean. "
            f"{monotonicity_note(rows)}{null}"
        ),
        panels=[
            Panel(
                charts.lines_by_layer(
                    rows,
                    y_title="explained variance",
                    layers=results.layers,
                    sparsities=results.sparsities,
                    reference=components,
                )
            )
        ],
        table=tables.result_rows(results.of(metrics, ["sae", "pca"])),
    )


def monotonicity_note(rows: pl.DataFrame) -> str:
    """State if explained variance grows with active latents, and the largest exceptions.

    Empty for a single sparsity.
    """
    falls: list[tuple[float, str]] = []
    for (layer,), of_layer in rows.filter(pl.col("value").is_not_nan()).sort("layer", "sparsity").group_by("layer"):
        for more, fewer in pairwise(of_layer.rows(named=True)):
            lost = 100 * (fewer["value"] - more["value"])
            if lost >= LEAST_POINTS:
                falls.append((lost, f"layer {layer} explains {_at(more)} and {_at(fewer)}, {lost:.1f} points more"))
    if rows["sparsity"].n_unique() < 2:
        return ""
    expected = "Explained variance should grow with the number of active latents (to the left)"
    if not falls:
        return f"{expected}, as it does here."
    worst = [text for _, text in sorted(falls, reverse=True)[:MAX_FALLS]]
    rest = f"; {count(len(falls) - MAX_FALLS, 'smaller exception')} more" if len(falls) > MAX_FALLS else ""
    return f"{expected}, with exceptions here: {'; '.join(worst)}{rest}."


def _at(row: Mapping[str, Any]) -> str:
    return f"{percent(row['value'])} at {sparsity(row['sparsity'])} sparsity"


def overview_figure(results: Results, probes: Sequence[Figure], reconstruction: Figure | None) -> Figure | None:
    """Return the first chart of the page: the first label, or else the reconstruction.

    With the strict protocol it is the label from each representation, otherwise the panels of `probes`, by layer and by
    sparsity.
    """
    rows = StrictResults.of(results.rows)
    if rows and rows.tasks:
        metric, target = rows.tasks[0]
        axis = "R² on test groups" if metric.endswith("r2") else "balanced accuracy on test groups"
        part = rows.compared(metric, target)
        return Figure(
            name="overview",
            title=f"The {readable_name(target)} from each representation",
            caption="Orange: the layer. Blue: its codes. Magenta: baselines. Grey: random codes, those of other clips.",
            panels=[Panel(charts.by_representation(part, x_title=axis))],
            table=pl.DataFrame(),
            height=charts.height_of(part),
        )
    label = results.labels[0] if results.labels else None
    if label is None or not probes:
        if reconstruction is None:
            return None
        return replace(reconstruction, name="overview", table=pl.DataFrame(), height=230)
    layer = f"layer {results.codes_layer.layer}"
    titles = {"by layer": label, f"by sparsity, {layer}": layer}
    panels = [
        replace(panel, title=title)
        for figure, (title, wanted) in zip(probes, titles.items(), strict=False)
        for panel in figure.panels
        if panel.title == wanted
    ]
    return Figure(
        name="overview",
        title=f"Accuracy of a linear probe for the {label}",
        caption=(
            f"On test groups, with 95{NBSP}% intervals over groups. Grey: permuted labels."
            f"{_without_model_note(results.of('probe_accuracy', WITHOUT_MODEL, target=label))}"
        ),
        panels=panels,
        table=pl.DataFrame(),
        height=230,
        legend=list(dict.fromkeys(name for figure in probes for name in figure.legend)),
    )


def all_figures(run: RunData) -> dict[str, list[Figure]]:
    """Return every figure that the run's results allow, by section."""
    results = run.results
    by_layer, by_sparsity = probe_by_layer(results), probe_by_sparsity(results)
    reconstruction = explained_variance(results)
    probes = [figure for figure in (by_layer, *by_sparsity[:1]) if figure is not None]
    sections: dict[str, list[Figure | None]] = {
        "overview": [overview_figure(results, probes, reconstruction)],
        "layers": [by_layer],
        "sparsity": [*by_sparsity],
        "classes": [*class_figures(run)],
        "reconstruction": [reconstruction],
        "factors": [
            factors_by_sparsity(results, run.categories, "factor_r2", run.covariates),
            factors_by_sparsity(results, run.categories, "effective_latents"),
        ],
        "categories": [category_map(results, run.categories)],
        "strict": [*strict_figures(results.rows)],
        "gallery": [cards(run.explained("cards")), temporal_profile(run.explained("cards"))],
        "splice": [splice(run.explained("splice"))],
        "matching": [matching(run.explained("matches"))],
        "interventions": [dose_response(run.explained("interventions"))],
        "attribution": [occlusion(run.explained("occlusion"))],
        "lens": [lens(run.explained("lens"))],
        "sweeps": [sweeps(run.explained("sweeps"))],
        "erasure": [erasure_matrix(run.explained("erasure"))],
    }
    return {name: [f for f in figures if f is not None] for name, figures in sections.items()}


def _all_probe_metrics(results: Results) -> pl.DataFrame:
    metrics = ["probe_accuracy", "probe_balanced_accuracy", "probe_macro_f1"]
    rows = results.shown.where(metric=metrics).rows
    without_model = pl.col("representation").is_in(WITHOUT_MODEL)
    rows = rows.with_columns(pl.when(~without_model).then(pl.col("layer")).alias("layer"))
    return tables.result_rows(rows.sort("metric", "target", "layer", "representation", "sparsity", maintain_order=True))


def _pooled_first(results: Results, metric: str) -> pl.DataFrame:
    rows = results.shown.where(metric=metric, representation="sae").rows
    return rows.filter(results.in_other_pooling)
