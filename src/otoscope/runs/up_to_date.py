"""Record of a finished run, by which a later one sees without PyTorch that nothing is left to do.

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

from otoscope.artifacts import canonical_json, digest, environment, fingerprint, read_json_as, write_json
from otoscope.errors import ArtifactError
from otoscope.runs.cards import changed_files, read_card
from otoscope.runs.code_version import SOURCE
from otoscope.runs.folder import RunFolder

MAX_FILES = 200_000
"""Most files of a corpus that are compared one by one."""


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
    """What a finished run rested on, and what it printed."""

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
    code = _state([], [str(SOURCE)])
    settings = canonical_json(mapping), str(path.resolve().parent), fail_fast
    return fingerprint(settings, code, environment(), platform.python_version())


def record_run(
    folder: RunFolder, summary: RunSummary, *, key: str, files: Sequence[Path], trees: Sequence[Path], tables: str
) -> None:
    """Write the record of a finished run, unless it rests on too many files."""
    names, roots = sorted({str(path.resolve()) for path in files}), sorted({str(path.resolve()) for path in trees})
    state = _state(names, roots)
    if state is None:
        return
    record: RunRecord = {
        "key": key,
        "files": names,
        "trees": roots,
        "state": state,
        "cards": {stage: digest(_card(folder, stage)) for stage in ("", *summary.notes)},
        "notes": {stage: list(notes) for stage, notes in summary.notes.items()},
        "tables": tables,
        "clips": summary.clips,
        "set_aside": summary.set_aside,
    }
    write_json(_path(folder), record)


def up_to_date(folder: RunFolder, key: str, stages: Sequence[str]) -> RunRecord | None:
    """Return the record of a run if these stages of it are up to date; None if the stages have to look themselves."""
    try:
        record = read_json_as(_path(folder), RunRecord)
        if record["key"] != key or not set(stages) <= record["notes"].keys() or folder.damaged.exists():
            return None
        if any(digest(_card(folder, stage)) != record["cards"].get(stage) for stage in ("", *stages)):
            return None
        if _state(record["files"], record["trees"]) != record["state"]:
            return None
        cards = [read_card(folder.card(stage)) for stage in stages]
    except (ArtifactError, OSError):
        return None
    whole = all(card is not None and not changed_files(card, folder.root) for card in cards)
    return record if whole else None


def _path(folder: RunFolder) -> Path:
    return folder.root / "stages" / "up_to_date.json"


def _card(folder: RunFolder, stage: str) -> Path:
    return folder.card(stage) if stage else folder.config


def _state(files: Sequence[str], trees: Sequence[str]) -> str | None:
    """Return a fingerprint of sizes and times; None for more than `MAX_FILES` files."""
    states: list[tuple[str, int, int, int]] = []
    for path in (*files, *(path for root in trees for path in _below(root))):
        if len(states) == MAX_FILES:
            return None
        try:
            stat = os.stat(path)  # noqa: PTH116  twice as fast for many files
            states.append((path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
        except OSError:
            states.append((path, -1, 0, 0))
    return fingerprint(states)


def _below(root: str) -> Iterator[str]:
    """Yield the files below a folder, in order; compiled code, which Python and Numba renew, does not count."""
    for folder, folders, names in os.walk(root, followlinks=True):
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        yield from (os.path.join(folder, name) for name in sorted(names))  # noqa: PTH118
