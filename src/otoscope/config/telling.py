"""What to say of a configuration that cannot be used."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, get_args

from otoscope.config.run import RunConfig
from otoscope.errors import spelt, suggest


def explain(error: Any, raw: Mapping[str, Any]) -> str:
    """Return one line for one of pydantic's errors: the key, what it got, what is allowed."""
    place = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"unknown key {place!r}; {suggest(error['loc'][-1], _keys_at(error['loc'][:-1]))}"
    if error["type"] == "missing":
        return f"{place!r} is missing" + ("" if raw else " (the file is empty)")
    known: list[str] = re.findall(r"'([^']*)'", error["ctx"]["expected"]) if error["type"] == "literal_error" else []
    if len(known) > 1:  # one word alone is mostly what may stand in a number's place
        return f"{place}: got {error['input']!r}; {suggest(error['input'], known)}"
    if error["type"] == "value_error" and isinstance(error["input"], Mapping):  # a section: the message names the clash
        told = error["msg"].removeprefix("Value error, ")
        return f"{place}: {told}" if place else told
    if error["type"] == "tuple_type":
        wanted = "[0.9], each between 0 and 1" if place == "train.sparsities" else f"[{error['input']}]"
        return f"{place}: got {spelt(error['input'])}; give a list, e.g. {wanted}"
    return f"{place}: got {spelt(error['input'])}; {error['msg'].removeprefix('Value error, ')}"


def _keys_at(location: Iterable[object]) -> list[str]:
    model: Any = RunConfig
    for part in location:
        annotation = model.model_fields[str(part)].annotation
        model = next((a for a in (annotation, *get_args(annotation)) if hasattr(a, "model_fields")), model)
    return list(model.model_fields)
