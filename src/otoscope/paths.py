"""Paths that a user writes: `~` is a home folder, text has no control character, and only regular files are read."""

import errno
import os
import stat
import tempfile
from io import BufferedReader
from pathlib import Path

from otoscope.errors import ConfigError, quote
from otoscope.formatting import is_clean

CACHE_VARIABLE = "OTOSCOPE_CACHE"
"""Environment variable that names the folder of otoscope's cache."""


def user_path(path: str | Path) -> Path:
    """Return a path with `~` and `~user` expanded.

    Raises `ConfigError` if the home folder is unknown, or if the path contains a control character.

    >>> user_path("runs/demo").as_posix()
    'runs/demo'
    """
    text = os.fspath(path)
    if not is_clean(text):
        raise ConfigError(
            f"the path {text!r} contains a control character, or a name that is not UTF-8; rename it (in YAML, write"
            " paths in single quotes)"
        )
    try:
        if text.startswith("~") and os.environ.get("HOME") == _STAND_IN:
            raise RuntimeError("no home folder")
        return Path(text).expanduser()
    except RuntimeError as error:
        unknown = quote(Path(text).parts[0])
        raise ConfigError(
            f"{quote(text)}: no home folder is known for {unknown}; write the whole path, or set HOME"
        ) from error


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file for reading, in binary mode.

    Raises `OSError` for a pipe, a socket or a device, at which a reader would wait, and as `open` does.
    """
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # `open` refuses a folder
        raise OSError(errno.EINVAL, "it is a pipe, a socket or a device, not a file", str(path))
    return path.open("rb")


def cache_folder() -> Path:
    """Return the folder of otoscope's cache: `OTOSCOPE_CACHE`, else `otoscope` in the user's cache folder.

    Raises `ConfigError` if neither is known: no home folder and no `XDG_CACHE_HOME`.
    """
    if folder := os.environ.get(CACHE_VARIABLE):
        return user_path(folder)
    if base := os.environ.get("XDG_CACHE_HOME"):
        return user_path(base) / "otoscope"
    try:
        return user_path("~") / ".cache" / "otoscope"
    except ConfigError as error:
        raise ConfigError(f"no home folder is known for a cache; set {CACHE_VARIABLE} to a folder") from error


_STAND_IN = os.path.join(tempfile.gettempdir(), "no-home")  # noqa: PTH118  a value of an environment variable


def ensure_home() -> None:
    """Set HOME to a folder that does not exist if no home folder is known; libraries expect one when they load.

    `user_path` and `cache_folder` still refuse `~`.
    """
    if not os.path.isabs(os.path.expanduser("~")):  # noqa: PTH111, PTH117  Path.home() raises
        os.environ["HOME"] = _STAND_IN
