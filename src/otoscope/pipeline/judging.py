"""The evaluation stage: the parts of every protocol, joined into `results.parquet`."""

from collections.abc import Callable

import polars as pl

from otoscope.artifacts import fingerprint, write_table
from otoscope.metrics.record import SCHEMA
from otoscope.pipeline import judging_held_out, judging_mariotte2025
from otoscope.pipeline.context import Context
from otoscope.pipeline.judged import Judged
from otoscope.pipeline.material import Material, gather
from otoscope.pipeline.stage import run_stage
from otoscope.pipeline.strict.judge import judge as judge_strictly

PROTOCOLS: dict[str, Callable[[Context, Material], Judged]] = {
    "held_out": judging_held_out.judge,
    "mariotte2025": judging_mariotte2025.judge,
    "strict": judge_strictly,
}
"""What answers each name in `evaluate.protocols`; a new protocol is a function here and a name in the configuration."""


def evaluate_all(run: Context) -> None:
    """Judge by every protocol that the configuration names; write `parts/` and `results.parquet`."""
    folder, material = run.folder, gather(run)
    judged = {name: PROTOCOLS[name](run, material) for name in run.config.evaluate.protocols}

    def work() -> None:
        for promised in judged.values():
            promised.make()
        write_table(folder.results, pl.concat([promised.rows() for promised in judged.values()]))

    inputs = fingerprint(list(SCHEMA), [(name, promised.inputs) for name, promised in judged.items()])
    run_stage(folder, "evaluate", inputs=inputs, outputs=[folder.results], work=work, watch=run.watch)
