"""Paths written in a table, matched with the files on disk."""

import os
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from otoscope.errors import CorpusError, quote
from otoscope.formatting import is_clean

DRIVE = re.compile(r"[A-Za-z]:[\\/]|\\\\")
"""Start of an absolute path of Windows: a drive letter, or a server."""


class MatchedPaths(NamedTuple):
    """Path on disk of each written path, relative to the root; reasons of those that name no file of this computer."""

    on_disk: dict[str, str]
    unusable: dict[str, str]


def match_paths(written: Iterable[str], root: Path) -> MatchedPaths:
    r"""Return the relative path, with forward slashes, of each path in a table.

    An absolute path within `root` becomes relative. `sub\a.wav` matches `sub/a.wav`, and composed accents match
    decomposed ones, if the path as written does not exist. A missing file keeps its path. Raises `CorpusError` for a
    path outside `root`.
    """
    on_disk: dict[str, str] = {}
    unusable: dict[str, str] = {}
    composed: dict[str, str] | None = None
    for path in dict.fromkeys(written):
        if not is_clean(path):
            unusable[path] = "its path contains a control character"
            continue
        if os.sep == "/" and DRIVE.match(path) and not os.path.lexists(root / path):
            unusable[path] = "an absolute path of a Windows computer; write paths relative to `root`"
            continue
        relative = _relative(path, root)
        if not os.path.lexists(root / relative) and "\\" in path:
            relative = _relative(path.replace("\\", "/"), root)
        if not relative.isascii() and not os.path.lexists(root / relative):
            composed = _composed_names(root) if composed is None else composed
            relative = composed.get(unicodedata.normalize("NFC", relative), relative)
        on_disk[path] = relative
    return MatchedPaths(on_disk, unusable)


def _relative(path: str, root: Path) -> str:
    """Return a path relative to root with forward slashes; raise `CorpusError` if it is outside root."""
    relative = os.path.normpath(path)
    if Path(path).is_absolute():
        relative = os.path.relpath(path, root)
        if relative.startswith(os.pardir):  # the root, or the path, is spelled with a link
            relative = os.path.relpath(os.path.realpath(path), os.path.realpath(root))
    relative = relative.replace(os.sep, "/")
    if relative.startswith("../") or relative == "..":
        raise CorpusError(
            f"{quote(path)} is outside the root {root}; set `root` to a folder that contains every recording"
        )
    return relative


def _composed_names(root: Path) -> dict[str, str]:
    """Return the relative path of every file whose name is not ASCII, by its form with composed accents."""
    names: dict[str, str] = {}
    for folder, _, files in os.walk(root, followlinks=True):
        for name in files:
            relative = (Path(folder) / name).relative_to(root).as_posix()
            if not relative.isascii():
                names[unicodedata.normalize("NFC", relative)] = relative
    return names
