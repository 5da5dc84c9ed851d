"""Page of a reproduction: every number compared with the published number."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from otoscope.artifacts import atomic, read_json_as, read_table
from otoscope.config.mariotte2025 import ReproductionSettings, allowed_choices, authors_choices
from otoscope.formatting import comma_list, count, decimal, sparsity
from otoscope.protocols.mariotte2025.published import STANDARD_ERRORS, models_not_run
from otoscope.report import tables
from otoscope.report.claims import PAGE
from otoscope.report.layout import PageSection, render_page

TITLES = {
    "probe_accuracy": "Probe accuracy, %",
    "mse": "Reconstruction error (MSE, raw units), in thousandths",
    "top_r2_in_sample": "Mean in-sample R² of the ten best factors",
    "top_completeness": "Mean completeness of ten factors",
    "category_count": "Categories of the ten best factors, mean count",
}
"""Heading of each quantity, in the order in which they are shown."""

_SCALE = {"probe_accuracy": (100.0, 1), "mse": (1000.0, 2), "category_count": (1.0, 1)}
_PLAIN = (1.0, 3)


class Matrix(NamedTuple):
    """One table of cells, such as one row per layer of a model and one column per sparsity or category."""

    title: str
    rows: pl.DataFrame


def matrix(comparison: pl.DataFrame, metric: str) -> list[Matrix]:
    """Return the tables of a quantity; a cell holds our number, the published number and their difference."""
    rows, title = comparison.filter(pl.col("metric") == metric), TITLES[metric]
    if metric != "probe_accuracy":
        across = "target" if metric == "category_count" else "sparsity"
        return [Matrix(title, _opened(rows, across))]
    layers = rows.filter(pl.col("representation") == "dense")
    codes = rows.filter(pl.col("representation") == "sae")
    opened = codes.select("model", "layer").unique(maintain_order=True)
    # the layer's own probe comes before those of its dictionaries
    together = [
        pl.concat([one.join(pair, on=["model", "layer"]) for one in (layers, codes)]) for pair in opened.iter_slices(1)
    ]
    return [
        Matrix(f"{title}, every layer", _every_layer(layers)),
        Matrix(f"{title}, layer and dictionaries", _opened(pl.concat(together), "sparsity")),
    ]


def cell(row: dict[str, Any]) -> str:
    """Return three lines: our number, the published number, and their difference with the standard error."""
    scale, digits = _SCALE.get(row["metric"], _PLAIN)

    def shown(value: float | None) -> str:
        return decimal(None if value is None else scale * value, digits)

    if row["here"] is None:
        return f"–\n{shown(row['published'])}\n± {shown(row['standard_error'])}"
    sign = "+" if (row["difference"] or 0) > 0 else ""
    difference = f"{sign}{shown(row['difference'])} ± {shown(row['standard_error'])}"
    return f"{shown(row['here'])}\n{shown(row['published'])}\n{difference}"


def _every_layer(rows: pl.DataFrame) -> pl.DataFrame:
    """Return probes with one row per layer and one column per model."""
    by_layer: dict[int, dict[str, str]] = {}
    for row in rows.iter_rows(named=True):
        by_layer.setdefault(row["layer"], {})[row["model"]] = cell(row)
    models = rows["model"].unique(maintain_order=True).to_list()
    return pl.DataFrame(
        [{"layer": str(layer), **{m: cells.get(m, "") for m in models}} for layer, cells in sorted(by_layer.items())]
    )


def _opened(rows: pl.DataFrame, across: str) -> pl.DataFrame:
    """Return cells with one row per layer with dictionaries and one column per sparsity or category."""
    values = rows[across].unique(maintain_order=True)
    names = [_column(value, across) for value in (values.sort() if across == "sparsity" else values)]
    table: list[dict[str, str]] = []
    for (model, layer), part in rows.group_by("model", "layer", maintain_order=True):
        here = next((by_layer for by_layer in part["layer_here"] if by_layer is not None and by_layer != layer), None)
        cells = {"layer of": f"{model} {layer}" + (f"\n(here {here})" if here is not None else "")}
        cells |= dict.fromkeys(names, "")
        for row in part.iter_rows(named=True):
            key = _column(row[across], across)
            # two runs of one label share a cell
            cells[key] = f"{cells[key]}\n{cell(row)}" if cells[key] else cell(row)
        table.append(cells)
    return pl.DataFrame(table)


def _column(value: Any, across: str) -> str:
    if across == "sparsity":
        return "dense" if value is None else sparsity(value)
    return str(value)


def left_out(comparison: pl.DataFrame) -> str:
    """Return a sentence about models that were not reproduced; empty if all were."""
    models, numbers = models_not_run(comparison)
    if not models:
        return ""
    return f"Not reproduced here: {comma_list(models)} ({count(numbers, 'published number')})."


def write_comparison(folder: Path) -> Path:
    """Write `report/index.html` of a reproduction from its comparison and card."""
    comparison = read_table(folder / "comparison.parquet")
    card = read_json_as(folder / "reproduction.json", dict[str, Any])
    text = render_page(
        title="Mariotte et al. 2025, reproduced",
        subtitle="Sparse Autoencoders Make Audio Foundation Models more Explainable (arXiv 2509.24793)",
        sections=list(_sections(comparison, card)),
    )
    page = folder / "report" / "index.html"
    with atomic(page) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return page


class ComparisonSummary(NamedTuple):
    """Content of the first section: counts, source of the published numbers, models, models left out."""

    counts: str
    source: str
    claims_page: str
    models: Sequence[str]
    left_out: str


class Matrices(NamedTuple):
    """Content of a quantity's section."""

    standard_error: str
    matrices: Sequence[Matrix]


class SwitchTables(NamedTuple):
    """Content of the section of settings: choices of method, and effort."""

    switches: tables.Table
    effort: tables.SettingsTable


def _sections(comparison: pl.DataFrame, card: dict[str, Any]) -> Iterator[PageSection]:
    yield PageSection("summary", "What was run", "comparison_summary.html", _summary(comparison, card))
    for metric, title in TITLES.items():
        content = Matrices(STANDARD_ERRORS[metric], matrix(comparison, metric))
        yield PageSection(metric.replace("_", "-"), title, "comparison_matrices.html", content)
    yield PageSection("switches", "Switches", "comparison_switches.html", _switches(card["settings"]))
    everything = tables.folded("Every published number", comparison, "comparison", digits=4)
    yield PageSection("numbers", "All numbers", "comparison_numbers.html", everything)


def _summary(comparison: pl.DataFrame, card: dict[str, Any]) -> ComparisonSummary:
    compared = comparison.filter(pl.col("here").is_not_null())
    near = compared.filter(pl.col("in_errors").abs() <= 2).height
    stand_ins = [
        f"{name}: {model['checkpoint']}, layers {comma_list(model['layers'])} instead of "
        f"{comma_list(model['published'])}"
        for name, model in card["models"].items()
        if model["layers"] != model["published"]
    ]
    return ComparisonSummary(
        counts=(
            f"{compared.height} of {count(comparison.height, 'published number')} can be compared with this run; "
            f"{near} of these are within two standard errors of the published number."
        ),
        source=card["source"],
        claims_page=PAGE,
        models=stand_ins or [f"{name}: {model['checkpoint']}" for name, model in card["models"].items()],
        left_out=left_out(comparison),
    )


def _switches(settings: dict[str, Any]) -> SwitchTables:
    rows = [
        {
            "switch": name,
            "here": settings[name],
            "as in the authors' code": "yes" if settings[name] == default else f"no: {default}",
            "choices": ", ".join(allowed_choices(name)),
            "what it decides": ReproductionSettings.model_fields[name].description or "",
        }
        for name, default in authors_choices().items()
    ]
    effort = {name: value for name, value in settings.items() if name not in authors_choices()}
    return SwitchTables(tables.table(pl.DataFrame(rows), caption="Switches"), tables.settings(effort, caption="Effort"))
