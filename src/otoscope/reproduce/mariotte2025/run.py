"""Reproduction of the study: one folder per model, one comparison with the published numbers, and its page."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from otoscope.artifacts import atomic, digest, fingerprint, read_json_as, read_table, write_json, write_table
from otoscope.config.mariotte2025 import ReproductionSettings, allowed_choices, authors_choices
from otoscope.corpus.table import Corpus
from otoscope.factors.table import FactorTable, build_factors, factors_identity
from otoscope.formatting import comma_list, count, decimal, sparsity
from otoscope.protocols.mariotte2025 import NAME
from otoscope.protocols.mariotte2025.published import SOURCE, STANDARD_ERRORS, StudyModel, compare, models_not_run
from otoscope.report import tables
from otoscope.report.claims import PAGE, write_claims
from otoscope.report.layout import PageSection, render_page
from otoscope.report.run_data import read_run
from otoscope.reproduce.mariotte2025.corpus import read_vocalset
from otoscope.reproduce.mariotte2025.estimate import require_disk_space
from otoscope.reproduce.mariotte2025.model_run import ModelRun
from otoscope.runs.cache import run_stage
from otoscope.runs.folder import RunFolder
from otoscope.runs.progress import ProgressReporter, SilentReporter, progress_counter
from otoscope.tables import format_csv

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


COMPARISON_CODE = (
    "otoscope.reproduce",
    "otoscope.protocols",
    "otoscope.report",
    "otoscope.metrics",
    "otoscope.formatting",
)
"""Code that the comparison and its pages depend on."""


@dataclass(frozen=True)
class Reproduction:
    """Result of a reproduction: artifacts and the comparison."""

    folder: Path
    results: Path
    comparison: pl.DataFrame
    page: Path

    def as_json(self) -> dict[str, Any]:
        """Return the values that `--json` prints."""
        return {
            "run": str(self.folder),
            "results": str(self.results),
            "comparison": str(self.folder / "comparison.csv"),
            "page": str(self.page),
            "published": self.comparison.height,
            "compared": self.comparison["here"].is_not_null().sum(),
        }


def reproduce(
    data: Path,
    root: Path,
    *,
    models: Sequence[StudyModel],
    settings: ReproductionSettings | None = None,
    device: str = "cpu",
    progress: ProgressReporter | None = None,
) -> Reproduction:
    """Run the study on VocalSet and compare every number with the published one.

    Stages whose inputs and code did not change are skipped. A killed run resumes and gives the same bytes.
    Writes into `root`: `corpus.parquet`, `factors.parquet`, a folder for each model, `results.parquet`,
    `comparison.parquet`, `comparison.csv` and `report/index.html`.
    """
    settings, progress = settings or ReproductionSettings(), progress or SilentReporter()
    folder = RunFolder(root)
    with folder.locked():
        folder.log("reproduce", models=[model.name for model in models], corrected=settings.corrected)
        corpus = _corpus(folder, data, settings, progress)
        table = _factors(folder, corpus, progress)
        runs = [
            ModelRun(model, _model_folder(root, model), corpus, table, settings, device, progress) for model in models
        ]
        # report missing checkpoints, layers and disk space before spending hours on earlier stages
        require_disk_space(root, sum(run.check() for run in runs))
        return _compare(folder, [run.run() for run in runs], settings, progress)


def _corpus(folder: RunFolder, data: Path, settings: ReproductionSettings, progress: ProgressReporter) -> Corpus:
    inputs = fingerprint(NAME, str(data.resolve()), settings.vibrado, _files_fingerprint(data))

    def work() -> None:
        with progress_counter(progress, "checking clips", "clips") as on_progress:
            read_vocalset(data, settings, cache=folder.sound, on_progress=on_progress).save(folder.corpus)

    tables = [folder.corpus.with_name(f"{name}.parquet") for name in ("set_aside", "suspects")]
    outputs = [folder.corpus, folder.corpus.with_suffix(".json"), *tables]
    run_stage(folder, "corpus", inputs=inputs, outputs=outputs, work=work, progress=progress)
    corpus = Corpus.load(folder.corpus)
    sides = dict(corpus.clips.group_by("split").len().iter_rows())
    progress.message(
        f"  {count(sides.get('train', 0), 'file')} of training singers, {sides.get('test', 0)} of test singers"
    )
    return corpus


def _factors(folder: RunFolder, corpus: Corpus, progress: ProgressReporter) -> FactorTable:
    """Measure eGeMAPS of whole test files, the only factors that the study regresses on."""
    test = replace(corpus, clips=corpus.clips.filter(pl.col("split") == "test"))

    def work() -> None:
        with progress_counter(progress, "measuring factors", "clips") as on_progress:
            cache = folder.root / "cache" / "egemaps"
            build_factors(test, truth=False, cache=cache, on_progress=on_progress).save(folder.factors)

    inputs = fingerprint(test.fingerprint, factors_identity())
    outputs = [folder.factors, folder.factors.with_suffix(".json")]
    run_stage(folder, "factors", inputs=inputs, outputs=outputs, work=work, progress=progress)
    return FactorTable.load(folder.factors)


def _compare(
    folder: RunFolder, models: list[StudyModel], settings: ReproductionSettings, progress: ProgressReporter
) -> Reproduction:
    paths = {model.name: _model_folder(folder.root, model).results for model in models}
    results = [(model.name, model.layers, digest(paths[model.name])) for model in models]
    inputs = fingerprint(results, settings.model_dump(mode="json"))
    table, csv, page = folder.root / "comparison.parquet", folder.root / "comparison.csv", folder.report
    card = folder.root / "reproduction.json"

    def work() -> None:
        by_model = {name: read_table(path) for name, path in paths.items()}
        rows = compare(by_model, models)
        write_table(folder.results, pl.concat(by_model.values()))
        write_table(table, rows)
        csv.write_text(format_csv(rows), encoding="utf-8")
        stand_ins = {m.name: {"checkpoint": m.checkpoint, "layers": m.layers, "published": m.published} for m in models}
        write_json(card, {"source": SOURCE, "models": stand_ins, "settings": settings.model_dump(mode="json")})
        write_comparison(folder.root)
        write_claims(read_run(folder.root))

    outputs = [folder.results, table, csv, card, page]
    run_stage(folder, "compare", inputs=inputs, outputs=outputs, work=work, progress=progress, code=COMPARISON_CODE)
    return Reproduction(folder.root, folder.results, read_table(table), page)


def _model_folder(root: Path, model: StudyModel) -> RunFolder:
    return RunFolder(root / "models" / model.name)


def _files_fingerprint(data: Path) -> str:
    """Return a fingerprint of names, sizes and times of the recordings."""
    files = sorted(path for path in data.rglob("*") if path.is_file())
    return fingerprint([(str(path.relative_to(data)), path.stat().st_size, path.stat().st_mtime_ns) for path in files])
