"""What a loader gives before anything is decoded: which clips there are and what is known of them."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol, runtime_checkable

import polars as pl

from otoscope.corpus.audio import EXTENSIONS
from otoscope.errors import CorpusError

ProgressCallback = Callable[[int, int], None]
"""Called as `on_progress(done, total)` in clips, always from the thread that called."""

LISTING_COLUMNS: dict[str, pl.DataType] = {
    "path": pl.String(),
    "start_s": pl.Float64(),
    "duration_s": pl.Float64(),
    "group": pl.String(),
    "split": pl.String(),
}
"""Columns of every listing; `label_*` (strings, null: unknown) and `factor_*` (floats) follow."""

SET_ASIDE_COLUMNS: dict[str, pl.DataType] = {"path": pl.String(), "reason": pl.String()}


class Listing(NamedTuple):
    """Clips as found: the columns of `LISTED`, then any `label_*` and `factor_*`.

    `path` is relative to `root`; a null `duration_s` means to the end of the file, a null `split`
    that it is to be assigned, a null label that it is unknown. `set_aside` names files that were
    found and cannot be listed (`path, reason`).
    """

    name: str
    root: Path
    licence: str
    citation: str
    clips: pl.DataFrame
    set_aside: pl.DataFrame = pl.DataFrame(schema=SET_ASIDE_COLUMNS)


@runtime_checkable
class CorpusSpec(Protocol):
    """Where clips come from: the settings of one loader, validated, with a way to list what is there."""

    @property
    def kind(self) -> str:
        """Name of the loader in a configuration."""
        ...

    def listing(self, cache: Path, *, on_progress: ProgressCallback | None = None) -> Listing:
        """List the clips; `cache` is a folder where a generated corpus may write its sound, told by `on_progress`."""
        ...


class AudioFiles(NamedTuple):
    """Audio files of a folder: relative paths with forward slashes, sorted, and those that cannot be named."""

    paths: list[str]
    set_aside: pl.DataFrame


def find_audio(root: Path) -> AudioFiles:
    """Find every file with an audio extension (any case) under a folder, following links, skipping hidden names.

    Raises `CorpusError` when there is no such folder or no audio in it; the message says what lies there instead.
    """
    if not root.is_dir():
        state = "is a file, not a folder" if root.is_file() else "does not exist"
        raise CorpusError(f"the corpus folder {root} {state}; set `root` to the folder that holds the recordings")
    paths: list[str] = []
    unnamed: list[tuple[str, str]] = []
    others: Counter[str] = Counter()
    for relative in _walk(root):
        extension = PurePosixPath(relative).suffix.lower()
        if extension not in EXTENSIONS:
            others[extension or "no extension"] += 1
        elif _is_text(relative):
            paths.append(relative)
        else:
            readable = relative.encode("utf-8", "backslashreplace").decode()
            unnamed.append((readable, "the file's name is not valid UTF-8; rename it"))
    if not paths and not unnamed:
        seen = ", ".join(f"{n} {extension}" for extension, n in others.most_common(5)) or "nothing"
        raise CorpusError(f"no audio under {root}: looked for {' '.join(sorted(EXTENSIONS))}; found {seen}")
    return AudioFiles(sorted(paths), set_aside_table(sorted(unnamed)))


def listing_table(rows: Sequence[Mapping[str, object]]) -> pl.DataFrame:
    """Return rows as a frame with the columns of `LISTED`, then labels and factors in the order of the first row.

    >>> listing_table([{"path": "a.wav", "group": "ann", "label_digit": "7"}]).columns
    ['path', 'start_s', 'duration_s', 'group', 'split', 'label_digit']
    """
    extra = [name for name in (rows[0] if rows else {}) if name not in LISTING_COLUMNS]
    schema = LISTING_COLUMNS | {name: pl.String() if name.startswith("label_") else pl.Float64() for name in extra}
    filled = [{"start_s": 0.0, "duration_s": None, "split": None, **row} for row in rows]
    return pl.DataFrame(filled, schema=schema)


def set_aside_table(rows: Iterable[tuple[str, str]]) -> pl.DataFrame:
    """Return pairs of path and reason as a table of what was set aside."""
    return pl.DataFrame(list(rows), schema=SET_ASIDE_COLUMNS, orient="row")


def _walk(root: Path) -> Iterable[str]:
    """Yield the relative path of every file that is not hidden, entering every real folder once.

    A link to a folder elsewhere is followed; one to a folder under root is not, as that folder has its own name.
    """
    inside = root.resolve()
    entered: set[Path] = set()
    for folder, below, files in os.walk(root, followlinks=True):
        here = Path(folder)
        real = here.resolve()
        if real in entered:
            below.clear()
            continue
        entered.add(real)
        below[:] = sorted(name for name in below if not _is_hidden(name) and not _leads_back(here / name, inside))
        for name in sorted(files):
            if not _is_hidden(name):
                yield (here / name).relative_to(root).as_posix()


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX"))


def _leads_back(folder: Path, inside: Path) -> bool:
    return folder.is_symlink() and folder.resolve().is_relative_to(inside)


def _is_text(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
