"""Stage `factors`: one row per clip, one column per factor."""

from otoscope.artifacts import digest, fingerprint
from otoscope.factors.egemaps import measure_in_parallel
from otoscope.factors.table import FactorTable, build_factors, factors_identity
from otoscope.formatting import count
from otoscope.runs.cache import run_stage
from otoscope.runs.context import Context
from otoscope.runs.folder import load_corpus
from otoscope.runs.progress import progress_counter


def factors(run: Context) -> None:
    """Measure or collect the factors of every clip; write `factors.parquet`."""
    config, folder, progress = run.config, run.folder, run.progress
    corpus = load_corpus(folder)
    settings = config.factors
    table_digest = digest(settings.table) if settings.table is not None and settings.table.is_file() else None
    inputs = fingerprint(corpus.fingerprint, settings.model_dump(mode="json"), table_digest, factors_identity())

    def work() -> None:
        cache = folder.root / "cache" / "egemaps"
        with progress_counter(progress, "measuring factors", "clips") as on_progress:
            if settings.egemaps and not run.executor.in_process:
                measure_in_parallel(
                    corpus.clips, corpus.root, cache=cache, executor=run.executor, on_progress=on_progress
                )
            table = build_factors(
                corpus,
                egemaps=settings.egemaps,
                truth=settings.truth,
                table=settings.table,
                cache=cache,
                on_progress=on_progress,
            )
        table.save(folder.factors)

    outputs = [folder.factors, folder.factors.with_suffix(".json")]
    run_stage(folder, "factors", inputs=inputs, outputs=outputs, work=work, progress=progress)
    table = FactorTable.load(folder.factors)
    for note in table.notes:
        progress.message(f"  {note}")
    if not table.failed.is_empty():
        clip_id, reason = table.failed.row(0)
        progress.message(
            f"  {count(table.failed.height, 'clip')} without eGeMAPS factors, such as {clip_id} ({reason});"
            f" all in {outputs[-1]}"
        )
