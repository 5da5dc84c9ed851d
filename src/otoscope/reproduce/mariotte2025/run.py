"""Reproduction of the study: one folder per model, and one comparison with the published numbers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from otoscope.artifacts import digest, fingerprint, read_table, write_json, write_table
from otoscope.config.mariotte2025 import ReproductionSettings
from otoscope.corpus.table import Corpus
from otoscope.factors.table import FactorTable, build_factors, factors_identity
from otoscope.formatting import count
from otoscope.protocols.mariotte2025 import NAME
from otoscope.protocols.mariotte2025.models import StudyModel
from otoscope.protocols.mariotte2025.published import SOURCE, compare
from otoscope.report.claims import write_claims
from otoscope.report.run_data import read_run
from otoscope.reproduce.mariotte2025.corpus import read_vocalset
from otoscope.reproduce.mariotte2025.estimate import require_disk_space
from otoscope.reproduce.mariotte2025.model_run import ModelRun
from otoscope.reproduce.mariotte2025.page import write_comparison
from otoscope.runs.cache import run_stage
from otoscope.runs.folder import RunFolder
from otoscope.runs.progress import ProgressReporter, SilentReporter, progress_counter
from otoscope.tables import format_csv

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
