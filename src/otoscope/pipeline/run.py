"""The run: stages in their order, each reading the artifact before it and writing its own."""

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from otoscope.artifacts import atomic
from otoscope.config import RunConfig
from otoscope.errors import ConfigError, suggest
from otoscope.executors.base import Executor
from otoscope.executors.local import LocalExecutor
from otoscope.pipeline import corpus, evaluate, explain, extract, report
from otoscope.runs import training
from otoscope.runs.context import Context, LazyEncoder, layers_to_extract
from otoscope.runs.folder import RunFolder, load_corpus
from otoscope.runs.progress import ProgressReporter, SilentReporter
from otoscope.runs.training import training_grid

Stage = Callable[[Context], None]

STAGES: dict[str, Stage] = {
    "corpus": corpus.corpus,
    "factors": corpus.factors,
    "extract": extract.extract,
    "train": training.train_all,
    "evaluate": evaluate.evaluate_all,
    "explain": explain.explain,
    "report": report.report,
}
"""Every stage by name, in order."""

WITHOUT_FACTORS = ("extract", "train")
"""Stages for which factors need not be measured; every other stage needs all before it."""


@dataclass(frozen=True)
class RunSummary:
    """What a run came to."""

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
    """Bring a run folder up to date with a configuration, up to and including one stage.

    Stages whose inputs did not change are skipped; a run that was killed goes on where it was and
    ends in the same bytes. `strict` stops at the first clip that cannot be used. `executor` does the work of the stages
    `factors`, `extract`, `train` and `evaluate`; this process does it when left out.
    """
    folder = folder if isinstance(folder, RunFolder) else RunFolder(Path(folder))
    progress = progress or SilentReporter()
    start_s = time.monotonic()
    stages = stages_until(until)
    model = LazyEncoder(config)
    with folder.locked():
        folder.log("run", until=until, name=config.name)
        if "extract" in stages:
            # what cannot work is told before minutes are spent on what comes first
            grid = training_grid(config, layers_to_extract(config, model.load()))
            if "evaluate" in stages:
                _check_strict(config, {member.layer for member in grid})
        _write_config(config, folder)
        for name in stages:
            STAGES[name](Context(config, folder, progress, model, fail_fast, executor or LocalExecutor()))
        summary = _summary(folder, stages, time.monotonic() - start_s)
        folder.log("done", seconds=round(summary.seconds, 3), peak_rss_mb=round(summary.peak_rss_mb, 1))
    return summary


def stages_until(until: str) -> list[str]:
    """Return the stages that bring `until` up to date, in order; raise `ConfigError` for an unknown one.

    >>> stages_until("train")
    ['corpus', 'extract', 'train']
    """
    if until not in STAGES:
        raise ConfigError(f"no stage {until!r}; {suggest(until, STAGES)}")
    names = list(STAGES)[: list(STAGES).index(until) + 1]
    return [name for name in names if name != "factors" or until not in WITHOUT_FACTORS]


def _check_strict(config: RunConfig, trained: set[int]) -> None:
    wanted = config.evaluate.strict.layer
    if "strict" in config.evaluate.protocols and wanted != "chosen" and wanted not in trained:
        raise ConfigError(f"evaluate.strict.layer: {wanted} has no dictionary; train.layers gives {sorted(trained)}")


def _summary(folder: RunFolder, stages: list[str], seconds: float) -> RunSummary:
    """Sum up what was brought up to date: a report that an earlier run left is not this run's."""
    return RunSummary(
        run=folder.root,
        report=folder.report if "report" in stages else None,
        results=folder.results if "evaluate" in stages else None,
        seconds=seconds,
        peak_rss_mb=_peak_rss_mb(),
        set_aside=corpus.set_aside(folder, extracted="extract" in stages).height,
        clips=load_corpus(folder).clips.height,
    )


def _write_config(config: RunConfig, folder: RunFolder) -> None:
    with atomic(folder.config) as temporary:
        temporary.write_text(
            yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True), encoding="utf-8"
        )


def _peak_rss_mb() -> float:
    """Largest resident set of this process or of any one of its children, in megabytes."""
    largest = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return largest / 1e6 if sys.platform == "darwin" else largest * 1024 / 1e6
