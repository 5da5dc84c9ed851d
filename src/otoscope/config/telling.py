"""What to say of a configuration that cannot be used."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, get_args

from otoscope.config.run import RunConfig
from otoscope.errors import spelt, suggest

MOST = 3
"""Settings that are told at once."""


def explain(errors: Iterable[Any], raw: Mapping[str, Any]) -> str:
    """Return one line for pydantic's errors: of each setting the key, what it got, what is allowed."""
    said: dict[str, list[Any]] = {}
    for error in errors:
        said.setdefault(_key(error["loc"]), []).append(error)
    # what is wrong with an entry of a list says more than that a list is no single value
    told = [_told(key, some, raw) for key, some in said.items() if not any(k.startswith(f"{key}.") for k in said)]
    return "; ".join(told[:MOST])


def _told(key: str, errors: list[Any], raw: Mapping[str, Any]) -> str:
    error = errors[0]
    if len(errors) > 1:  # a setting that may be of several kinds is none of them
        return f"{key}: got {spelt(error['input'])}; should be {', or '.join(map(_kind, errors))}"
    if error["type"] == "extra_forbidden":
        return f"unknown key {key!r}; {suggest(error['loc'][-1], _keys_at(error['loc'][:-1]))}"
    if error["type"] == "missing":
        return f"{key!r} is missing" + ("" if raw else " (the file is empty)")
    if error["type"] == "literal_error":
        return f"{key}: got {error['input']!r}; {suggest(error['input'], _words(error))}"
    if error["type"] == "value_error" and isinstance(error["input"], Mapping):  # a section: the message names the clash
        told = error["msg"].removeprefix("Value error, ")
        return f"{key}: {told}" if key else told
    if error["type"] == "tuple_type":
        wanted = "[0.9], each between 0 and 1" if key == "train.sparsities" else f"[{error['input']}]"
        return f"{key}: got {spelt(error['input'])}; give a list, e.g. {wanted}"
    return f"{key}: got {spelt(error['input'])}; {error['msg'].removeprefix('Value error, ')}"


def _kind(error: Any) -> str:
    """Return what a value should have been, for one of the kinds that were tried."""
    if error["type"] == "literal_error":
        return ", or ".join(_words(error))
    if error["type"] == "tuple_type":
        return "a list"
    return error["msg"].removeprefix("Input should be ").partition(",")[0]


def _words(error: Any) -> list[str]:
    return re.findall(r"'([^']*)'", error["ctx"]["expected"])


def _key(location: Iterable[object]) -> str:
    """Return a location as the configuration spells it, without the kind of value that pydantic tried there."""
    parts: list[str] = []
    section: Any = RunConfig
    for part in location:
        if section is not None or isinstance(part, int):
            parts.append(str(part))
        section = _section(section, part)
    return ".".join(parts)


def _keys_at(location: Iterable[object]) -> list[str]:
    section: Any = RunConfig
    for part in location:
        section = _section(section, part) or section
    return list(section.model_fields)


def _section(section: Any, key: object) -> Any:
    """Return the model of a section within a section; None for a key that is none."""
    field = None if section is None else section.model_fields.get(key)
    annotations = () if field is None else (field.annotation, *get_args(field.annotation))
    return next((a for a in annotations if hasattr(a, "model_fields")), None)
