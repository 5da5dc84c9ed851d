"""Cache of a run: a stage or result is computed again only when its inputs, code or files changed."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from otoscope.artifacts import (
    environment,
    fingerprint,
    read_table,
    read_tensors,
    remove_file,
    write_table,
    write_tensors,
)
from otoscope.executors.base import Executor, run_tasks
from otoscope.hardware import available_cores
from otoscope.metrics.record import Record, to_table
from otoscope.runs.cards import Outputs, is_current, remove_changed, write_card
from otoscope.runs.code_version import code_version
from otoscope.runs.folder import RunFolder
from otoscope.runs.progress import ProgressReporter, task

MAX_PARALLEL_RESULTS = 4
"""Results computed at once; each may take half a gigabyte of memory."""

CACHED_SUFFIXES = (".json", ".parquet", ".safetensors")
"""Suffixes of the files of cached results: card, records, arrays."""

Arrays = dict[str, NDArray[Any]]


def run_stage(
    folder: RunFolder,
    name: str,
    *,
    inputs: str,
    outputs: Outputs | Callable[[], Outputs],
    work: Callable[[], object],
    progress: ProgressReporter,
    code: Sequence[str] = (),
    intact: Callable[[], bool] = lambda: True,
) -> bool:
    """Run `work` unless the stage is current; return whether it ran.

    `outputs` are all files that the stage promises; a function lists them once they are written. Those that were
    damaged are removed before `work`, so that it writes them again. `code` names the modules that they depend on.
    `intact` checks artifacts outside the run folder. Raises `ArtifactError` for a folder in the place of a file.
    """
    card = folder.card(name)
    inputs = fingerprint(inputs, code_version(*code))
    if is_current(card, inputs=inputs, root=folder.root) and intact():
        folder.log("skipped", stage=name, fingerprint=inputs)
        progress.message(f"{name}: up to date")
        return False
    remove_changed(card, root=folder.root)
    remove_file(card)
    folder.log("started", stage=name, fingerprint=inputs)
    start_s = time.monotonic()
    work()
    seconds = time.monotonic() - start_s
    written = outputs() if callable(outputs) else outputs
    write_card(card, inputs=inputs, root=folder.root, outputs=written, stage=name, versions=environment())
    folder.log("finished", stage=name, seconds=round(seconds, 3))
    progress.message(f"{name}: {seconds:.1f} s")
    return True


class ComputedResult(NamedTuple):
    """Records of one representation, and arrays that later results read."""

    records: Sequence[Record]
    arrays: Mapping[str, NDArray[Any]] = {}


@dataclass(frozen=True)
class CachedResult:
    """Results of one representation: file name, fingerprint of the inputs (code included), computation."""

    name: str
    inputs: str
    compute: Callable[[], ComputedResult] = field(compare=False)

    def table(self, folder: Path) -> Path:
        """Return the path of the records; arrays and card have the same stem."""
        return folder / f"{self.name}.parquet"

    def is_current(self, folder: Path) -> bool:
        """Return whether the stored result has the same inputs and undamaged files."""
        card = self.table(folder).with_suffix(".json")
        return is_current(card, inputs=self.inputs, root=card.parent)


def ensure(
    folder: Path,
    cached: Sequence[CachedResult],
    progress: ProgressReporter,
    *,
    title: str,
    unit: str,
    executor: Executor | None = None,
) -> None:
    """Compute missing or outdated results in parallel; write each as soon as it is computed."""
    missing = [result for result in cached if not result.is_current(folder)]
    if not missing:
        return
    with task(progress, title, len(missing), unit):
        if executor is None or executor.in_process:
            computed = _compute_in_threads(missing)
        else:
            computed = run_tasks(executor, _Compute, missing)
        for index, result in computed:
            _write(folder, missing[index], result)
            progress.advance(1, note=missing[index].name.rsplit("/", 1)[-1])


def read_records(folder: Path, cached: Sequence[CachedResult]) -> pl.DataFrame:
    """Return the records of cached results, in order."""
    return pl.concat([read_table(result.table(folder)) for result in cached])


def read_arrays(folder: Path, cached: CachedResult) -> Arrays:
    """Return the arrays of a cached result."""
    return read_tensors(cached.table(folder).with_suffix(".safetensors"))


def _compute_in_threads(cached: Sequence[CachedResult]) -> Iterator[tuple[int, ComputedResult]]:
    """Compute results in threads and yield them in order.

    Each thread uses one BLAS thread: a result is many small problems, which gain nothing from more, and one
    thread gives the same bytes on any number of cores.
    """
    workers = min(available_cores(), MAX_PARALLEL_RESULTS)
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(result.compute) for result in cached]
        try:
            for index in range(len(cached)):
                yield index, futures.pop(0).result()  # drop each future, so that its arrays are freed
        finally:
            pool.shutdown(cancel_futures=True)


class _Compute:
    """Worker function of another machine."""

    def __call__(self, cached: CachedResult) -> ComputedResult:
        with threadpool_limits(1, user_api="blas"):
            return cached.compute()


def _write(folder: Path, cached: CachedResult, computed: ComputedResult) -> None:
    table = cached.table(folder)
    outputs = [table]
    remove_file(table.with_suffix(".json"))
    write_table(table, to_table(computed.records))
    if computed.arrays:
        outputs.append(table.with_suffix(".safetensors"))
        write_tensors(outputs[-1], computed.arrays)
    write_card(table.with_suffix(".json"), inputs=cached.inputs, root=table.parent, outputs=outputs)
