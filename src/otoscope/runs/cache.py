"""A stage: skipped when its inputs and outputs are as its card says, otherwise done again.

Results by part: each made once, kept with what it rests on, and taken up again after a kill.
"""

import os
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
    digest,
    environment,
    read_json,
    read_table,
    read_tensors,
    write_json,
    write_table,
    write_tensors,
)
from otoscope.errors import ArtifactError
from otoscope.executors.base import Executor, run_tasks
from otoscope.metrics.record import Record, to_table
from otoscope.runs.folder import RunFolder
from otoscope.runs.progress import ProgressReporter, task


def run_stage(
    folder: RunFolder,
    name: str,
    *,
    inputs: str,
    outputs: Sequence[Path],
    work: Callable[[], object],
    progress: ProgressReporter,
    intact: Callable[[], bool] = lambda: True,
) -> bool:
    """Do `work` unless the stage's card holds the fingerprint `inputs` and the digests of `outputs`.

    `intact` says whether what is too large to be read each time is still there.
    Returns whether work was done. The card is written last, so a stage that was killed counts as
    not done; what it can reuse of its own unfinished work is its own affair.
    """
    if is_current(folder, name, inputs=inputs, outputs=outputs) and intact():
        folder.log("skipped", stage=name, fingerprint=inputs)
        progress.message(f"{name}: up to date")
        return False
    folder.card(name).unlink(missing_ok=True)
    folder.log("started", stage=name, fingerprint=inputs)
    start_s = time.monotonic()
    work()
    seconds = time.monotonic() - start_s
    made = {str(path.relative_to(folder.root)): digest(path) for path in outputs}
    write_json(folder.card(name), {"stage": name, "fingerprint": inputs, "outputs": made, "versions": environment()})
    folder.log("finished", stage=name, seconds=round(seconds, 3))
    progress.message(f"{name}: {seconds:.1f} s")
    return True


def is_current(folder: RunFolder, name: str, *, inputs: str, outputs: Sequence[Path]) -> bool:
    """Whether a stage's card and its files agree with what is asked."""
    try:
        card = read_json(folder.card(name))
    except ArtifactError:
        return False
    made = {str(path.relative_to(folder.root)): path for path in outputs}
    return (
        card.get("fingerprint") == inputs
        and card.get("outputs", {}).keys() == made.keys()
        and all(path.is_file() and digest(path) == card["outputs"][name] for name, path in made.items())
    )


MAX_PARALLEL_RESULTS = 4
"""Parts made at once; each may take half a gigabyte."""

Arrays = dict[str, NDArray[Any]]


class ComputedResult(NamedTuple):
    """What a part came to: records, and arrays that later parts read."""

    records: Sequence[Record]
    arrays: Mapping[str, NDArray[Any]] = {}


@dataclass(frozen=True)
class CachedResult:
    """The results of one representation: what they rest on, and how they are made."""

    name: str
    inputs: str
    compute: Callable[[], ComputedResult] = field(compare=False)


def ensure(
    folder: Path,
    parts: Sequence[CachedResult],
    watch: ProgressReporter,
    *,
    title: str,
    unit: str,
    executor: Executor | None = None,
) -> None:
    """Make the parts that are missing or rest on something else, several at once; write each as it is done."""
    missing = [part for part in parts if not is_whole(folder, part)]
    if not missing:
        return
    if executor is None or executor.in_process:
        computed = _made(missing)
    else:
        computed = run_tasks(executor, _Maker, missing)
    with task(watch, title, len(missing), unit):
        for place, made in computed:
            part = missing[place]
            _write(folder, part, made)
            watch.advance(1, note=part.name.rsplit("/", 1)[-1])


def read_records(folder: Path, parts: Sequence[CachedResult]) -> pl.DataFrame:
    """Return the records of parts, one after the other."""
    return pl.concat([read_table(_table(folder, part)) for part in parts])


def read_arrays(folder: Path, part: CachedResult) -> Arrays:
    """Return the arrays that a part kept."""
    return read_tensors(_table(folder, part).with_suffix(".safetensors"))


def is_whole(folder: Path, part: CachedResult) -> bool:
    """Whether a part's files are there, as its card says, and rest on what is asked."""
    table = _table(folder, part)
    try:
        card = read_json(table.with_suffix(".json"))
    except ArtifactError:
        return False
    # a run that was killed between two files leaves some that their card does not describe
    if card.get("inputs") != part.inputs or not table.is_file() or digest(table) != card.get("sha256"):
        return False
    arrays, kept = table.with_suffix(".safetensors"), card.get("arrays")
    return kept is None or (arrays.is_file() and digest(arrays) == kept)


def _made(parts: Sequence[CachedResult]) -> Iterator[tuple[int, ComputedResult]]:
    """Make parts side by side in threads, in order, each with one thread for linear algebra.

    A part is many small problems: threads inside a product would only wait for each other, and one
    thread gives the same bytes on any number of cores.
    """
    workers = min(len(os.sched_getaffinity(0)), MAX_PARALLEL_RESULTS)
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(workers) as pool:
        waiting = [pool.submit(part.compute) for part in parts]
        try:
            for place in range(len(parts)):
                yield place, waiting.pop(0).result()  # let go of each, so that its arrays do not pile up
        finally:
            pool.shutdown(cancel_futures=True)


class _Maker:
    """Makes parts on another machine."""

    def __call__(self, part: CachedResult) -> ComputedResult:
        with threadpool_limits(1, user_api="blas"):
            return part.compute()


def _write(folder: Path, part: CachedResult, made: ComputedResult) -> None:
    table = _table(folder, part)
    card: dict[str, str] = {"inputs": part.inputs}
    table.with_suffix(".json").unlink(missing_ok=True)
    write_table(table, to_table(made.records))
    card["sha256"] = digest(table)
    if made.arrays:
        arrays = table.with_suffix(".safetensors")
        write_tensors(arrays, made.arrays)
        card["arrays"] = digest(arrays)
    write_json(table.with_suffix(".json"), card)


def _table(folder: Path, part: CachedResult) -> Path:
    return folder / f"{part.name}.parquet"
