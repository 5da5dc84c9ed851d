"""Stage `evaluate`: results and predicted classes of every protocol, joined into one table each."""

from collections.abc import Callable
from pathlib import Path

import polars as pl

from otoscope.artifacts import fingerprint, write_table
from otoscope.metrics.predictions import PREDICTIONS
from otoscope.metrics.record import SCHEMA
from otoscope.protocols import held_out
from otoscope.protocols.mariotte2025 import run as mariotte2025
from otoscope.protocols.strict import run as strict
from otoscope.runs.cache import CACHED_SUFFIXES, run_stage
from otoscope.runs.context import Context
from otoscope.runs.inputs import EvaluationInputs, ProtocolRun, load_inputs

PROTOCOLS: dict[str, Callable[[Context, EvaluationInputs], ProtocolRun]] = {
    "held_out": held_out.plan,
    "mariotte2025": mariotte2025.plan,
    "strict": strict.plan,
}
"""Function of each name in `evaluate.protocols`; a new protocol adds one here and its name to the configuration."""


def evaluate(run: Context) -> None:
    """Evaluate by every protocol of the configuration; write `parts/`, `predictions.parquet` and `results.parquet`."""
    folder, inputs = run.folder, load_inputs(run)
    protocols = {name: PROTOCOLS[name](run, inputs) for name in run.config.evaluate.protocols}

    def work() -> None:
        for protocol in protocols.values():
            protocol.compute()
        write_table(folder.predictions, pl.concat([protocol.predictions() for protocol in protocols.values()]))
        write_table(folder.results, pl.concat([protocol.table() for protocol in protocols.values()]))

    total = fingerprint(
        list(SCHEMA), list(PREDICTIONS), [(name, protocol.inputs) for name, protocol in protocols.items()]
    )

    def outputs() -> list[Path]:
        parts = sorted(path for path in folder.parts.rglob("*") if path.suffix in CACHED_SUFFIXES)
        return [folder.results, folder.predictions, *parts]

    run_stage(folder, "evaluate", inputs=total, outputs=outputs, work=work, progress=run.progress)
