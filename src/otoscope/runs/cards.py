"""Cards of stages and cached results, and the record of a finished run.

A card has the fingerprint of the inputs and the checksums of the files. It is written last, so an item whose
computation was killed counts as missing. By the record, a later run sees without PyTorch that nothing is left to do.
The record is cautious: whatever it does not cover, such as a store at another address, sends the caller to the stages
themselves, which compare their inputs in full.
"""

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from otoscope.artifacts import (
    digest,
    environment,
    fingerprint,
    read_json_as,
    remove_file,
    resolve_inside,
    write_json,
)
from otoscope.errors import ArtifactError
from otoscope.runs.code_version import SOURCE
from otoscope.runs.folder import MARK, RunFolder

LARGE_BYTES = 4_000_000
"""Size above which an unchanged time stands for unchanged content: an up-to-date run hashes smaller files only."""

MAX_FILES = 200_000
"""Most files of a corpus that are compared one by one."""

Outputs = Sequence[Path] | Mapping[Path, str | None]
"""Files of a stage, or each with its SHA-256 if it is known."""


class StageCard(TypedDict):
    """Card of a cached item: fingerprint of its inputs, and the SHA-256 of each file, by path relative to a root."""

    inputs: str
    outputs: dict[str, str]
    checksum: str
    """Fingerprint of both, so that a card that lost an entry is not taken for whole."""
    times: dict[str, tuple[int, int]]
    """Size in bytes and time of the last change, in nanoseconds, of each file above `LARGE_BYTES`."""


def is_current(card: Path, *, inputs: str, root: Path) -> bool:
    """Return whether a card names these inputs and all of its files still have the digests that it lists."""
    content = read_card(card)
    return content is not None and content["inputs"] == inputs and not changed_files(content, root)


def read_card(card: Path) -> StageCard | None:
    """Read the card of a cached item; None if it is missing or damaged, so that the item is computed again."""
    try:
        content = read_json_as(card, StageCard)
    except ArtifactError:
        return None
    return content if content["checksum"] == fingerprint(content["inputs"], content["outputs"]) else None


def changed_files(content: StageCard, root: Path) -> list[str]:
    """Return the files of a card that are missing or have other content."""
    each = content["outputs"].items()
    return [name for name, sha in each if not is_whole(root, name, sha, content["times"].get(name))]


def is_whole(root: Path, name: str, sha256: str, times: tuple[int, int] | None = None) -> bool:
    """Return whether a file that a card names has its content.

    A large file with the size and the time of the card counts as unchanged; every other file is hashed.
    """
    try:
        path = resolve_inside(root, name)
        return path.is_file() and ((times is not None and _times(path) == tuple(times)) or digest(path) == sha256)
    except (ArtifactError, OSError):
        return False


def remove_changed(card: Path, *, root: Path) -> None:
    """Remove the files of a card that have other content, and links in their place; names outside `root` stay."""
    content = read_card(card)
    for name in [] if content is None else changed_files(content, root):
        try:
            path = resolve_inside(root, name, follow_links=True)
            resolve_inside(root, str(Path(name).parent / "x"))  # a link is removed, but not what lies behind one
        except ArtifactError:
            continue
        remove_file(path)


def _times(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def write_card(card: Path, *, inputs: str, root: Path, outputs: Outputs, **facts: object) -> None:
    """Write the card of computed files; `outputs` may map them to their digests, where these are known."""
    known: Mapping[Path, str | None] = outputs if isinstance(outputs, Mapping) else dict.fromkeys(outputs)
    names = {path: path.relative_to(root).as_posix() for path in known}
    large = {name: _times(path) for path, name in names.items() if path.stat().st_size > LARGE_BYTES}
    digests = {name: known[path] or digest(path) for path, name in names.items()}
    checksum = fingerprint(inputs, digests)
    write_json(card, {"inputs": inputs, "outputs": digests, "checksum": checksum, "times": large, **facts})


@dataclass(frozen=True)
class RunSummary:
    """Result of a run: artifacts, duration, memory, number of clips, and the notes of each stage."""

    run: Path
    report: Path | None
    results: Path | None
    seconds: float
    peak_rss_mb: float
    set_aside: int
    clips: int
    notes: Mapping[str, Sequence[str]]

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


class RunRecord(TypedDict):
    """Inputs of a finished run, and the lines that it printed."""

    key: str
    files: list[str]
    """Recordings, tables and other files outside the run folder."""
    trees: list[str]
    """Folders of which every file counts, such as that of the model."""
    state: str
    """Fingerprint of sizes and times of `files` and `trees`."""
    cards: dict[str, str]
    """SHA-256 of the configuration in the run folder and of the card of each stage."""
    notes: dict[str, list[str]]
    tables: str
    clips: int
    set_aside: int


def run_key(mapping: Mapping[str, Any], path: Path, *, fail_fast: bool) -> str:
    """Return a fingerprint of the settings before validation, the code and the versions of packages."""
    code = _file_state([], [str(SOURCE)])
    settings = repr(mapping), str(path.resolve().parent), fail_fast
    return fingerprint(settings, code, environment(), platform.python_version())


def record_run(
    folder: RunFolder, summary: RunSummary, *, key: str, files: Sequence[Path], trees: Sequence[Path], tables: str
) -> None:
    """Write the record of a finished run, unless it rests on too many files."""
    names, roots = sorted({str(path.resolve()) for path in files}), sorted({str(path.resolve()) for path in trees})
    state = _file_state(names, roots)
    if state is None:
        return
    record: RunRecord = {
        "key": key,
        "files": names,
        "trees": roots,
        "state": state,
        "cards": {stage: digest(_stage_card(folder, stage)) for stage in ("", *summary.notes)},
        "notes": {stage: list(notes) for stage, notes in summary.notes.items()},
        "tables": tables,
        "clips": summary.clips,
        "set_aside": summary.set_aside,
    }
    write_json(_record_path(folder), record)


def up_to_date(folder: RunFolder, key: str, stages: Sequence[str]) -> RunRecord | None:
    """Return the record of a run if these stages of it are up to date; None if the stages have to look themselves."""
    try:
        record = read_json_as(_record_path(folder), RunRecord)
        if record["key"] != key or not set(stages) <= record["notes"].keys() or folder.damaged.exists():
            return None
        if any(digest(_stage_card(folder, stage)) != record["cards"].get(stage) for stage in ("", *stages)):
            return None
        if _file_state(record["files"], record["trees"]) != record["state"]:
            return None
        cards = [read_card(folder.card(stage)) for stage in stages]
    except (ArtifactError, OSError):
        return None
    whole = all(card is not None and not changed_files(card, folder.root) for card in cards)
    return record if whole else None


def _record_path(folder: RunFolder) -> Path:
    return folder.root / "stages" / "up_to_date.json"


def _stage_card(folder: RunFolder, stage: str) -> Path:
    return folder.card(stage) if stage else folder.config


def _file_state(files: Sequence[str], trees: Sequence[str]) -> str | None:
    """Return a fingerprint of sizes and times; None for more than `MAX_FILES` files."""
    states: list[tuple[str, int, int, int]] = []
    for path in (*files, *(path for root in trees for path in _files_below(root))):
        if len(states) == MAX_FILES:
            return None
        try:
            stat = os.stat(path)  # noqa: PTH116  twice as fast for many files
            states.append((path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
        except OSError:
            states.append((path, -1, 0, 0))
    return fingerprint(states)


def _files_below(root: str) -> Iterator[str]:
    """Yield the files below a folder, in order; compiled code, which Python and Numba renew, and runs do not count."""
    for folder, folders, names in os.walk(root, followlinks=True):
        if MARK in names and folder != root:
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        yield from (os.path.join(folder, name) for name in sorted(names))  # noqa: PTH118
