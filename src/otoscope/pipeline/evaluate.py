"""The evaluation stage: the parts of every protocol, joined into `results.parquet`."""

from collections.abc import Callable

import polars as pl

from otoscope.artifacts import fingerprint, write_table
from otoscope.metrics.record import SCHEMA
from otoscope.protocols import held_out
from otoscope.protocols.mariotte2025 import run
from otoscope.protocols.strict.run import judge as judge_strictly
from otoscope.runs.cache import run_stage
from otoscope.runs.context import Context
from otoscope.runs.inputs import EvaluationInputs, ProtocolRun, load_inputs

PROTOCOLS: dict[str, Callable[[Context, EvaluationInputs], ProtocolRun]] = {
    "held_out": held_out.plan,
    "mariotte2025": run.judge,
    "strict": judge_strictly,
}
"""What answers each name in `evaluate.protocols`; a new protocol is a function here and a name in the configuration."""


def evaluate_all(run: Context) -> None:
    """Judge by every protocol that the configuration names; write `parts/` and `results.parquet`."""
    folder, material = run.folder, load_inputs(run)
    judged = {name: PROTOCOLS[name](run, material) for name in run.config.evaluate.protocols}

    def work() -> None:
        for promised in judged.values():
            promised.compute()
        write_table(folder.results, pl.concat([promised.table() for promised in judged.values()]))

    inputs = fingerprint(list(SCHEMA), [(name, promised.inputs) for name, promised in judged.items()])
    run_stage(folder, "evaluate", inputs=inputs, outputs=[folder.results], work=work, progress=run.progress)
