"""Sparsity limits of the strict protocol: their figure and the sentence on them."""

from collections.abc import Sequence

import polars as pl

from otoscope.formatting import comma_list, percent, sparsity
from otoscope.metrics.results import ResultsTable
from otoscope.protocols.strict.layers_and_limits import MARGINS
from otoscope.protocols.strict.results import StrictResults
from otoscope.report.estimates import interval
from otoscope.report.figures import charts
from otoscope.report.figures.figure import Figure, Panel
from otoscope.report.sections.findings import Finding
from otoscope.report.tables import result_rows

UNITS = {"explained variance": "explained variance", "factors": "R²", "task": "accuracy (or R²)"}
"""Unit of each quantity's margin."""

AXES = {"explained_variance": "share", "mean_factor_r2": "mean R²", "task_r2": "R²"}
"""Axis title by metric; other metrics are balanced accuracies."""


def limits_figure(results: StrictResults) -> Figure | None:
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
            panels.append(Panel(chart, target or quantity))
            used.append(part)
    if not panels:
        return None
    knees = results.where(metric="sparsity_knee", split="test").rows
    return Figure(
        name="strict-limits",
        title="Sparsity limits",
        caption=(
            f"From {sparsity(sparsities[0])} sparsity to {sparsity(sparsities[-1])}: explained variance, factors and "
            f"the first task on test groups, for {preset_list(presets)}; the first seed of each. The table ends with "
            "the sparsest level that loses no more than the margin against the densest (a dash where it cannot be "
            "determined), and with the knee of each curve."
        ),
        panels=panels,
        table=result_rows(pl.concat([*used, _determined_limits(results), knees])),
        height=230,
        legend=list(labels.values()),
    )


def limit_findings(results: StrictResults) -> list[Finding]:
    """Return the sparsity up to which each preset keeps what its densest level has."""
    by_preset: dict[str, list[str]] = {}
    densest = ""
    for limit in results.limits:
        densest = sparsity(min(limit.levels)) if limit.levels else densest
        text = f"{limit.quantity} {sparsity(limit.estimate.value)}{interval(limit.estimate, sparsity)}"
        if (better := limit.better_sparsity) is not None:
            base, top = percent(limit.levels[min(limit.levels)]), percent(limit.levels[better])
            text = f"{limit.quantity} undetermined (densest {base}, sparser {top} at {sparsity(better)})"
        by_preset.setdefault(limit.preset, []).append(text)
    if not by_preset:
        return []
    parts = [f"preset {preset}: {comma_list(limits)}" for preset, limits in by_preset.items()]
    base = f" ({densest} sparsity)" if densest else ""
    return [
        Finding(
            "Sparsity limit",
            f"Sparsest level that loses no more than the margin against the densest{base}, as do all levels below: "
            f"{'; '.join(parts)}. Margins, fixed beforehand: {margin_list()}.",
        )
    ]


def _determined_limits(results: StrictResults) -> pl.DataFrame:
    """Return the rows of limits, without a number where a limit cannot be determined."""
    rows = results.where(metric="sparsity_limit", split="test").rows
    determined = pl.Series([limit.better_sparsity is None for limit in results.limits], dtype=pl.Boolean)
    return rows.with_columns(pl.when(determined).then(pl.col("value", "low", "high")).otherwise(None))


def margin_list() -> str:
    """Return the margins in words.

    >>> margin_list().split(", ", 1)[0]
    '5 points of explained variance'
    """
    return comma_list(f"{100 * margin:.0f} points of {UNITS[name]}" for name, margin in MARGINS.items())


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
