"""List of stages: names, help texts, inputs and artifacts.

The stage NAME is the function `otoscope.pipeline.NAME.NAME(run: Context)`. A new stage is that module and one
entry here; the command line, `stages_until` and the documentation read this list.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from otoscope.errors import ConfigError, suggest

if TYPE_CHECKING:  # the command line reads this list without loading torch
    from otoscope.runs.context import Context


@dataclass(frozen=True)
class Stage:
    """One step of a run, with a command of the same name."""

    name: str
    help: str
    inputs: tuple[str, ...]
    """Stages whose artifacts it reads."""
    outputs: tuple[str, ...]
    """Artifacts in the run folder."""

    def run(self, run: "Context") -> None:
        """Update the artifacts; does nothing when they are current."""
        getattr(import_module(f"otoscope.pipeline.{self.name}"), self.name)(run)


STAGES = {
    stage.name: stage
    for stage in (
        Stage(
            "corpus",
            "List, check and split the clips.",
            (),
            ("corpus.parquet", "set_aside.parquet", "suspects.parquet"),
        ),
        Stage("factors", "Measure or collect the factors of every clip.", ("corpus",), ("factors.parquet",)),
        Stage("extract", "Compute and store the hidden states of every clip.", ("corpus",), ("activations/",)),
        Stage("train", "Train the SAEs.", ("extract",), ("saes/",)),
        Stage("evaluate", "Evaluate layers and SAEs by every protocol.", ("factors", "train"), ("results.parquet",)),
        Stage("explain", "Find the top-activating clips of the chosen latents.", ("evaluate",), ("explain/",)),
        Stage("report", "Write the report pages.", ("explain",), ("report/index.html",)),
    )
}
"""Stages by name, in order of execution."""


def stages_until(name: str) -> list[str]:
    """Return a stage and all stages that it depends on, in order; raise `ConfigError` for an unknown name.

    >>> stages_until("train")
    ['corpus', 'extract', 'train']
    """
    if name not in STAGES:
        raise ConfigError(f"no stage {name!r}; {suggest(name, STAGES)}")
    needed, pending = {name}, [name]
    while pending:
        new = set(STAGES[pending.pop()].inputs) - needed
        needed |= new
        pending += new
    return [stage for stage in STAGES if stage in needed]
