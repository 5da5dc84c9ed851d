"""What a dictionary's card may hold: JSON, with the numbers of NumPy as Python's own."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from otoscope.errors import ConfigError

ALLOWED = "a card holds text, numbers, true, false, None, and lists and mappings of these"


def as_card(given: object) -> dict[str, Any]:
    """Return what JSON will hold of a mapping; raise `ConfigError` naming the first key that it cannot.

    >>> as_card({"seed": np.int64(3), "layers": (0, 1)})
    {'seed': 3, 'layers': [0, 1]}
    """
    if not isinstance(given, Mapping):
        raise ConfigError(f"card: got {given!r}; give a mapping, such as {{'layer': 3}}")
    return _plain(given, "card")


def _plain(value: object, key: str) -> Any:
    if isinstance(value, np.bool_ | np.integer | np.floating):
        return value.item()
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return _text(value, key)
    if isinstance(value, list | tuple):
        return [_plain(one, f"{key}[{place}]") for place, one in enumerate(value)]
    if isinstance(value, Mapping):
        return {_name(name, key): _plain(one, f"{key}[{name!r}]") for name, one in value.items()}
    raise ConfigError(f"{key}: got {_shown(value)}, of type {type(value).__name__}; {ALLOWED}{_hint(value)}")


def _name(name: object, key: str) -> Any:
    plain = name.item() if isinstance(name, np.integer) else name
    if isinstance(plain, str):
        return _text(plain, key)
    if plain is None or isinstance(plain, bool | int | float):  # JSON makes text of them
        return plain
    raise ConfigError(f"{key}: got the key {_shown(name)}, of type {type(name).__name__}; the keys of a card are text")


def _text(value: str, key: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"{key}: got {value!r}, which UTF-8 cannot spell; {ALLOWED}") from error
    return value


def _shown(value: object) -> str:
    """Return a value for a message, in one short line."""
    line = " ".join(repr(value).split())
    return line if len(line) <= 80 else f"{line[:77]}..."


def _hint(value: object) -> str:
    if hasattr(value, "tolist"):
        return "; give its `.tolist()`"
    if hasattr(value, "__fspath__"):
        return "; give `str` of it"
    if hasattr(value, "model_dump"):
        return '; give its `.model_dump(mode="json")`'
    return ""
