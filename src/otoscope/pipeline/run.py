"""Run of all stages, each reading the artifacts of earlier ones and writing its own."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from otoscope.artifacts import atomic
from otoscope.config import RunConfig
from otoscope.config.yaml_text import format_yaml
from otoscope.encoders.resolve import resolve
from otoscope.errors import ConfigError
from otoscope.executors.base import Executor, LocalExecutor
from otoscope.formatting import count
from otoscope.hardware import peak_memory_bytes, return_freed_memory
from otoscope.pipeline.corpus import set_aside
from otoscope.pipeline.estimate import cost_lines
from otoscope.pipeline.stages import STAGES, stages_until
from otoscope.runs.cards import RunSummary
from otoscope.runs.context import Context, LazyEncoder, layers_to_extract
from otoscope.runs.folder import RunFolder, load_corpus
from otoscope.runs.progress import ProgressReporter, SilentReporter
from otoscope.runs.terminal import default_progress
from otoscope.runs.training import GridMember, training_grid


class _Notes:
    """Reporter that passes everything on and keeps the lines that follow the end of each stage."""

    def __init__(self, progress: ProgressReporter) -> None:
        self._progress = progress
        self.notes: dict[str, list[str]] = {}
        self._stage = ""
        self._ended = False

    def begin(self, stage: str) -> None:
        """Begin a stage."""
        self._stage, self._ended, self.notes[stage] = stage, False, []

    def start(self, title: str, total: float, unit: str) -> None:
        """Begin a task."""
        self._progress.start(title, total, unit)

    def advance(self, amount: float, note: str = "") -> None:
        """Move the task on."""
        self._progress.advance(amount, note)

    def finish(self) -> None:
        """End the task."""
        self._progress.finish()

    def message(self, text: str) -> None:
        """Print one line."""
        if self._ended:
            self.notes[self._stage].append(text)
        self._ended = self._ended or text.startswith(f"{self._stage}: ")
        self._progress.message(text)


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
    `extract`, `train` and `evaluate`, by default in this process. Without `progress`, bars and lines appear in a
    terminal and in a notebook only; `SilentReporter()` shows none.
    """
    folder = folder if isinstance(folder, RunFolder) else RunFolder(Path(folder))
    progress = progress or default_progress()
    start_s = time.monotonic()
    stages = stages_until(until)
    notes = _Notes(progress)
    context = Context(config, folder, notes, LazyEncoder(config), fail_fast, executor or LocalExecutor())
    with folder.locked():
        folder.log("run", until=until, name=config.name)
        if "extract" in stages:
            # report impossible layers before spending minutes on earlier stages
            grid = training_grid(config, layers_to_extract(config, context.encoder.load()))
            if "train" in stages:
                per_fold = ", and as many for each fold" if config.splits.per_fold else ""
                progress.message(f"{grid_line(grid)}{per_fold}")
                if not isinstance(progress, SilentReporter):
                    for line in cost_lines(context, grid, stages):
                        progress.message(line)
            if "evaluate" in stages:
                _check_strict(config, {member.layer for member in grid})
        for name in stages:
            notes.begin(name)
            STAGES[name].run(context)
            return_freed_memory()
            if name == "corpus":  # a configuration that the corpus refuses leaves that of the folder as it is
                _write_config(config, folder)
        summary = _summary(folder, notes.notes, time.monotonic() - start_s)
        folder.log("done", seconds=round(summary.seconds, 3), peak_rss_mb=round(summary.peak_rss_mb, 1))
    return summary


def grid_line(grid: Sequence[GridMember]) -> str:
    """Return the size of a grid.

    >>> grid_line([GridMember(layer, "encode_then_pool", "default", 64, 0.9, 0) for layer in (1, 3)])
    'grid: 2 SAEs = 2 layers x 1 pooling x 1 preset x 1 number of latents x 1 sparsity x 1 seed'
    """
    nouns = (
        "layer",
        "pooling",
        "preset",
        ("number of latents", "numbers of latents"),
        ("sparsity", "sparsities"),
        "seed",
    )
    values = zip(*((m.layer, m.pooling, m.preset, m.latents, m.sparsity, m.seed) for m in grid), strict=True)
    sizes = [
        count(len(set(value)), *((noun,) if isinstance(noun, str) else noun))
        for noun, value in zip(nouns, values, strict=True)
    ]
    return f"grid: {count(len(grid), 'SAE')} = {' x '.join(sizes)}"


def _check_strict(config: RunConfig, trained: set[int]) -> None:
    layer = config.evaluate.strict.layer
    if "strict" in config.evaluate.protocols and layer != "chosen" and layer not in trained:
        raise ConfigError(f"evaluate.strict.layer: {layer} has no dictionary; train.layers gives {sorted(trained)}")


def _summary(folder: RunFolder, stages: Mapping[str, Sequence[str]], seconds: float) -> RunSummary:
    """Summarise this run; a report of an earlier run is not listed."""
    return RunSummary(
        run=folder.root,
        report=folder.report if "report" in stages else None,
        results=folder.results if "evaluate" in stages else None,
        seconds=seconds,
        peak_rss_mb=peak_memory_bytes() / 1e6,
        set_aside=set_aside(folder, extracted="extract" in stages).height,
        clips=load_corpus(folder).clips.height,
        notes=stages,
    )


def _write_config(config: RunConfig, folder: RunFolder) -> None:
    with atomic(folder.config) as temporary:
        temporary.write_text(format_yaml(config.model_dump(mode="json")), encoding="utf-8")


def external_inputs(config: RunConfig, folder: RunFolder, *, until: str) -> tuple[list[Path], list[Path]] | None:
    """Return the files, and the folders of which every file counts, that the stages up to `until` rest on.

    None if they are not all on this machine.
    """
    if config.extract.store is not None:
        return None
    corpus, table = load_corpus(folder), getattr(config.corpus, "table", None)
    files = [path for path in (table, config.factors.table, config.extract.segments) if path is not None]
    matched = config.explain.match_run
    read = (config.corpus.annotation_folder(folder.sound), matched and matched / "explain" / "index")
    trees = [path for path in read if path is not None]
    if "extract" in stages_until(until):
        trees.append(resolve(config.model, revision=config.revision).folder)
    if table is None:
        trees.append(corpus.root)
    else:
        files += [corpus.root / path for path in (*corpus.clips["path"], *corpus.set_aside["path"])]
    return files, trees
