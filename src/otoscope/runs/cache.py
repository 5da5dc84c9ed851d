"""Cache of a run: a stage or result is computed again only when its inputs, code or files changed.

Each cached item has a card: the fingerprint of its inputs and the SHA-256 of its files. The card is written
last, so an item whose computation was killed counts as missing.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, NotRequired

import polars as pl
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from typing_extensions import TypedDict

from otoscope.artifacts import (
    digest,
    environment,
    fingerprint,
    read_json_as,
    read_table,
    read_tensors,
    resolve_inside,
    write_json,
    write_table,
    write_tensors,
)
from otoscope.errors import ArtifactError
from otoscope.executors.base import Executor, run_tasks
from otoscope.hardware import available_cores
from otoscope.metrics.record import Record, to_table
from otoscope.runs.code_version import code_version
from otoscope.runs.folder import RunFolder
from otoscope.runs.progress import ProgressReporter, task

MAX_PARALLEL_RESULTS = 4
"""Results computed at once; each may take half a gigabyte of memory."""

LARGE_BYTES = 4_000_000
"""Size above which an unchanged time stands for unchanged content: an up-to-date run hashes smaller files only."""

CACHED_SUFFIXES = (".json", ".parquet", ".safetensors")
"""Suffixes of the files of cached results: card, records, arrays."""

Arrays = dict[str, NDArray[Any]]

Outputs = Sequence[Path] | Mapping[Path, str | None]
"""Files of a stage, or each with its SHA-256 if it is known."""


class StageCard(TypedDict):
    """Card of a cached item: fingerprint of its inputs, and the SHA-256 of each file, by path relative to a root."""

    inputs: str
    outputs: dict[str, str]
    times: NotRequired[dict[str, tuple[int, int]]]
    """Size in bytes and time of the last change, in nanoseconds, of each file above `LARGE_BYTES`."""


def is_current(card: Path, *, inputs: str, root: Path) -> bool:
    """Return whether a card names these inputs and all of its files still have the digests that it lists."""
    content = _read_card(card)
    return content is not None and content["inputs"] == inputs and not _changed(content, root)


def _read_card(card: Path) -> StageCard | None:
    try:
        return read_json_as(card, StageCard)
    except ArtifactError:  # missing or damaged: the item is computed again
        return None


def _changed(content: StageCard, root: Path) -> list[str]:
    times = content.get("times", {})
    return [name for name, sha in content["outputs"].items() if not is_whole(root, name, sha, times.get(name))]


def is_whole(root: Path, name: str, sha256: str, times: tuple[int, int] | None = None) -> bool:
    """Return whether a file that a card names has its content.

    A large file with the size and the time of the card counts as unchanged; every other file is hashed.
    """
    try:
        path = resolve_inside(root, name)
        return path.is_file() and ((times is not None and _times(path) == tuple(times)) or digest(path) == sha256)
    except (ArtifactError, OSError):
        return False


def _remove_changed(card: Path, *, root: Path) -> None:
    """Remove the files of a card that have other content, and links in their place; names outside `root` stay."""
    content = _read_card(card)
    for name in [] if content is None else _changed(content, root):
        try:
            path = resolve_inside(root, name, follow_links=True)
            resolve_inside(root, str(Path(name).parent / "x"))  # a link is removed, but not what lies behind one
        except ArtifactError:
            continue
        remove_file(path)


def remove_file(path: Path) -> None:
    """Remove a file or link of a run, if it exists; raise `ArtifactError` for a folder in its place."""
    try:
        path.unlink(missing_ok=True)
    except NotADirectoryError:
        return
    except OSError as error:
        if path.is_dir():
            raise ArtifactError(f"{path} is a folder where a file of the run belongs; move it away") from error
        raise


def _times(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def write_card(card: Path, *, inputs: str, root: Path, outputs: Outputs, **facts: object) -> None:
    """Write the card of computed files; `outputs` may map them to their digests, where these are known."""
    known: Mapping[Path, str | None] = outputs if isinstance(outputs, Mapping) else dict.fromkeys(outputs)
    names = {path: path.relative_to(root).as_posix() for path in known}
    large = {name: _times(path) for path, name in names.items() if path.stat().st_size > LARGE_BYTES}
    digests = {name: known[path] or digest(path) for path, name in names.items()}
    write_json(card, {"inputs": inputs, "outputs": digests, "times": large, **facts})


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
    _remove_changed(card, root=folder.root)
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
