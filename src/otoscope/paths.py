"""Paths that a user writes: `~` stands for a home folder, and a path is text without control characters."""

import os
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from otoscope.errors import ConfigError, quote

CACHE_VARIABLE = "OTOSCOPE_CACHE"
"""Environment variable that names the folder of otoscope's cache."""


def user_path(path: str | Path) -> Path:
    """Return a path with `~` and `~user` expanded.

    Raises `ConfigError` if the home folder is unknown, or if the path contains a control character.

    >>> user_path("runs/demo").as_posix()
    'runs/demo'
    """
    text = os.fspath(path)
    if any(ord(character) < 32 or character == "\x7f" for character in text):
        raise ConfigError(f"the path {text!r} contains a control character; in YAML, write paths in single quotes")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        unknown = quote(Path(text).parts[0])
        raise ConfigError(
            f"{quote(text)}: no home folder is known for {unknown}; write the whole path, or set HOME"
        ) from error


def _validated(path: Path) -> Path:
    try:
        return user_path(path)
    except ConfigError as error:
        raise ValueError(str(error)) from error


UserPath = Annotated[Path, AfterValidator(_validated)]
"""A path in a configuration; `load_config` resolves relative ones against the folder of the file."""


def cache_folder() -> Path:
    """Return the folder of otoscope's cache: `OTOSCOPE_CACHE`, else `otoscope` in the user's cache folder.

    Raises `ConfigError` if neither is known: no home folder and no `XDG_CACHE_HOME`.
    """
    if folder := os.environ.get(CACHE_VARIABLE):
        return user_path(folder)
    if base := os.environ.get("XDG_CACHE_HOME"):
        return user_path(base) / "otoscope"
    try:
        return Path.home() / ".cache" / "otoscope"
    except RuntimeError as error:
        raise ConfigError(f"no home folder is known for a cache; set {CACHE_VARIABLE} to a folder") from error
