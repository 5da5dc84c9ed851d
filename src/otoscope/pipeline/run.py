"""Run of all stages, each reading the artifacts of earlier ones and writing its own."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from otoscope.artifacts import atomic
from otoscope.config import RunConfig
from otoscope.config.yaml_text import format_yaml
from otoscope.errors import ConfigError
from otoscope.executors.base import Executor
from otoscope.executors.local import LocalExecutor
from otoscope.hardware import peak_memory_bytes
from otoscope.pipeline.corpus import set_aside
from otoscope.pipeline.stages import STAGES, stages_until
from otoscope.runs.context import Context, LazyEncoder, layers_to_extract
from otoscope.runs.folder import RunFolder, load_corpus
from otoscope.runs.progress import ProgressReporter, SilentReporter
from otoscope.runs.training import training_grid


@dataclass(frozen=True)
class RunSummary:
    """Result of a run: artifacts, duration, memory, number of clips."""

    run: Path
    report: Path | None
    results: Path | None
    seconds: float
    peak_rss_mb: float
    set_aside: int
    clips: int

    def as_json(self) -> dict[str, Any]:
        """Return the values that `--json` prints."""
        return {
            "run": str(self.run),
            "report": str(self.report) if self.report else None,
            "results": str(self.results) if self.results else None,
            "seconds": round(self.seconds, 3),
            "peak_rss_mb": round(self.peak_rss_mb, 1),
            "set_aside": self.set_aside,
            "clips": self.clips,
        }


def run(
    config: RunConfig,
    folder: RunFolder | Path | str,
    *,
    until: str = "report",
    fail_fast: bool = False,
    progress: ProgressReporter | None = None,
    executor: Executor | None = None,
) -> RunSummary:
    """Update a run folder to a configuration, up to and including the stage `until`.

    Stages whose inputs and code did not change are skipped. A killed run resumes and gives the same bytes.
    `fail_fast` stops at the first clip that cannot be used. `executor` does the work of the stages `factors`,
    `extract`, `train` and `evaluate`, by default in this process.
    """
    folder = folder if isinstance(folder, RunFolder) else RunFolder(Path(folder))
    progress = progress or SilentReporter()
    start_s = time.monotonic()
    stages = stages_until(until)
    context = Context(config, folder, progress, LazyEncoder(config), fail_fast, executor or LocalExecutor())
    with folder.locked():
        folder.log("run", until=until, name=config.name)
        if "extract" in stages:
            # report impossible layers before spending minutes on earlier stages
            grid = training_grid(config, layers_to_extract(config, context.encoder.load()))
            if "evaluate" in stages:
                _check_strict(config, {member.layer for member in grid})
        _write_config(config, folder)
        for name in stages:
            STAGES[name].run(context)
        summary = _summary(folder, stages, time.monotonic() - start_s)
        folder.log("done", seconds=round(summary.seconds, 3), peak_rss_mb=round(summary.peak_rss_mb, 1))
    return summary


def _check_strict(config: RunConfig, trained: set[int]) -> None:
    layer = config.evaluate.strict.layer
    if "strict" in config.evaluate.protocols and layer != "chosen" and layer not in trained:
        raise ConfigError(f"evaluate.strict.layer: {layer} has no dictionary; train.layers gives {sorted(trained)}")


def _summary(folder: RunFolder, stages: list[str], seconds: float) -> RunSummary:
    """Summarise this run; a report of an earlier run is not listed."""
    return RunSummary(
        run=folder.root,
        report=folder.report if "report" in stages else None,
        results=folder.results if "evaluate" in stages else None,
        seconds=seconds,
        peak_rss_mb=peak_memory_bytes() / 1e6,
        set_aside=set_aside(folder, extracted="extract" in stages).height,
        clips=load_corpus(folder).clips.height,
    )


def _write_config(config: RunConfig, folder: RunFolder) -> None:
    with atomic(folder.config) as temporary:
        temporary.write_text(format_yaml(config.model_dump(mode="json")), encoding="utf-8")
