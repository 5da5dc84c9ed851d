"""A reproduction's page: every number beside the published one."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from otoscope.artifacts import atomic, read_json, read_table
from otoscope.protocols.mariotte2025.published import STANDARD_ERRORS
from otoscope.protocols.mariotte2025.switches import Settings, choices, theirs
from otoscope.report import tables, words
from otoscope.report.html import Html, element, join
from otoscope.report.page import assemble, section

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
    """One table of cells: a row a model's layer, a column a sparsity, layer number or category."""

    title: str
    rows: pl.DataFrame


def matrix(comparison: pl.DataFrame, metric: str) -> list[Matrix]:
    """Return a quantity's tables; a cell holds ours, the published number, and the difference with its error."""
    rows = comparison.filter(pl.col("metric") == metric)
    title = TITLES[metric]
    if metric == "category_count":
        return [Matrix(title, _table(rows, ["model", "layer"], "target", metric))]
    if metric != "probe_accuracy":
        return [Matrix(title, _table(rows, ["model", "layer"], "sparsity", metric))]
    layers = rows.filter(pl.col("representation") == "dense")
    pairs = rows.filter(pl.col("representation") == "sae").select("model", "layer").unique()
    cells = pl.concat([layers.join(pairs, on=["model", "layer"]), rows.filter(pl.col("representation") == "sae")])
    order = {name: place for place, name in enumerate(rows["model"].unique(maintain_order=True))}
    cells = cells.sort(
        pl.col("model").replace_strict(order), "layer", "sparsity", nulls_last=False, maintain_order=True
    )
    return [
        Matrix(f"{title}, every layer", _table(layers, ["model"], "layer", metric)),
        Matrix(f"{title}, dictionaries", _table(cells, ["model", "layer"], "sparsity", metric)),
    ]


def cell(row: dict[str, Any]) -> str:
    """Return three lines: ours, the published number, and the difference with the published number's error."""
    scale, digits = _SCALE.get(row["metric"], _PLAIN)

    def shown(value: float | None) -> str:
        return words.decimal(None if value is None else scale * value, digits)

    if row["here"] is None:
        return f"–\n{shown(row['published'])}\n± {shown(row['standard_error'])}"
    sign = "+" if (row["difference"] or 0) > 0 else ""
    difference = f"{sign}{shown(row['difference'])} ± {shown(row['standard_error'])}"
    return f"{shown(row['here'])}\n{shown(row['published'])}\n{difference}"


def _table(rows: pl.DataFrame, by: list[str], across: str, metric: str) -> pl.DataFrame:
    """Set cells out: one row for each value of `by`, one column for each of `across`."""
    names = [_column(value, across) for value in rows[across].unique(maintain_order=True)]
    found: dict[str, dict[str, str]] = {}
    for row in rows.iter_rows(named=True):
        place = _place(row, by)
        key = _column(row[across], across)
        cells = found.setdefault(place, dict.fromkeys(names, ""))
        # two runs of one label stand one under the other
        cells[key] = f"{cells[key]}\n{cell(row)}" if cells[key] else cell(row)
    del metric
    first = " and ".join(by) if by != ["model", "layer"] else "layer of"
    return pl.DataFrame([{first: place, **cells} for place, cells in found.items()])


def _place(row: dict[str, Any], by: list[str]) -> str:
    if by == ["model"]:
        return row["model"]
    other = row["layer_here"]
    instead = f"\n(here {other})" if other is not None and other != row["layer"] else ""
    return f"{row['model']} {row['layer']}{instead}"


def _column(value: Any, across: str) -> str:
    if across == "sparsity":
        return "dense" if value is None else words.sparsity(value)
    return str(value)


def write_comparison(folder: Path) -> Path:
    """Write `report/index.html` of a reproduction from its comparison and card; computes nothing."""
    comparison, card = read_table(folder / "comparison.parquet"), read_json(folder / "reproduction.json")
    blocks = list(_blocks(comparison, card))
    page = folder / "report" / "index.html"
    text = assemble(
        title="Mariotte et al. 2025, reproduced",
        subtitle="Sparse Autoencoders Make Audio Foundation Models more Explainable (arXiv 2509.24793)",
        blocks=blocks,
    )
    with atomic(page) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return page


def _blocks(comparison: pl.DataFrame, card: dict[str, Any]) -> Iterator[tuple[str, Html]]:
    yield "summary", section("summary", "What was run", *_summary(comparison, card))
    for metric, title in TITLES.items():
        shown = [element("h3", m.title) if len(matrix(comparison, metric)) > 1 else None for m in ()]
        for made in matrix(comparison, metric):
            shown += [element("h3", made.title), _drawn(made)]
        error = element("p", "Standard error of the published number: ", STANDARD_ERRORS[metric], ".", class_="quiet")
        short = metric.replace("_", "-")
        yield short, section(short, title, error, *(one for one in shown if one is not None))
    yield "switches", section("switches", "Switches", _switches(card["settings"]))
    yield (
        "numbers",
        section("numbers", "All numbers", tables.folded("Every published number", comparison, "comparison", digits=4)),
    )


def _summary(comparison: pl.DataFrame, card: dict[str, Any]) -> Iterator[Html]:
    compared = comparison.filter(pl.col("here").is_not_null())
    near = compared.filter(pl.col("in_errors").abs() <= 2).height
    yield element(
        "p",
        f"{compared.height} of {words.count(comparison.height, 'published number')} have one of this run beside them; "
        f"{near} of these lie within two standard errors of the published number. "
        "Each cell shows this run, the published number, and the difference with the published number's standard "
        "error. Published numbers: ",
        card["source"],
        ".",
    )
    stand_ins = [
        f"{name}: {model['checkpoint']}, layers {words.listed(model['layers'])} "
        f"in the place of {words.listed(model['published'])}"
        for name, model in card["models"].items()
        if model["layers"] != model["published"]
    ]
    rest = [f"{name}: {model['checkpoint']}" for name, model in card["models"].items()]
    yield element("ul", *(element("li", text) for text in (stand_ins or rest)))


def _drawn(made: Matrix) -> Html:
    head = [element("th", name, scope="col") for name in made.rows.columns]
    body: list[Html] = []
    for first, *others in made.rows.iter_rows():
        cells = [element("td", *_lines(text), class_="number") for text in others]
        body.append(element("tr", element("th", *_lines(first), scope="row"), *cells))
    inner = element("table", element("thead", element("tr", *head)), element("tbody", *body))
    return element("div", inner, class_="scroll", tabindex=0, role="region", aria_label=made.title)


def _lines(text: str) -> list[str]:
    lines: list[str] = []
    for line in text.split("\n"):
        lines += [element("br"), line] if lines else [line]
    return lines


def _switches(settings: dict[str, Any]) -> Html:
    rows = [
        {
            "switch": name,
            "here": settings[name],
            "as in the authors' code": "yes" if settings[name] == default else f"no: {default}",
            "choices": ", ".join(choices(name)),
            "what it decides": Settings.model_fields[name].description or "",
        }
        for name, default in theirs().items()
    ]
    effort = {name: value for name, value in settings.items() if name not in theirs()}
    return join(
        tables.table(pl.DataFrame(rows), caption="Switches"),
        element("h3", "Effort"),
        tables.settings(effort, caption="Effort"),
    )
