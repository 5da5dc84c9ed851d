"""Loading of configurations: YAML, overrides, environment variables, and error messages."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from otoscope.config.base import SETTING_ERROR
from otoscope.config.run import RunConfig
from otoscope.config.yaml_text import complete_mapping, key_lines, missing_blank, read_mapping
from otoscope.corpus.catalog import CORPORA, corpus_class, expectation
from otoscope.errors import MAX_QUOTED, ConfigError, quote, suggest
from otoscope.formatting import count
from otoscope.paths import user_path

MAX_REPORTED = 3
"""Maximum number of settings in one message."""


class InvalidSettings(ConfigError):
    """Settings of a configuration are unusable; `problems` has a line for each, misspelt keys first."""

    def __init__(self, where: str, problems: Sequence[str]) -> None:
        more = len(problems) - MAX_REPORTED
        shown = [*problems[:MAX_REPORTED], *([f"and {count(more, 'other problem')}"] if more > 0 else [])]
        super().__init__(f"{where}: {'; '.join(shown)}")
        self.where, self.problems = where, problems


def describe_errors(errors: Iterable[Any], raw: Mapping[str, Any]) -> list[str]:
    """Return pydantic's errors: key, got and allowed values of each setting; misspelt keys first."""
    by_key: dict[str, list[Any]] = {}
    for error in sorted(errors, key=lambda error: error["type"] != "extra_forbidden"):
        by_key.setdefault(_key(error["loc"]), []).append(error)
    # an error in a list entry is more specific than the error that the list is not a single value
    return [
        _describe(quote(key)[1:-1], some, raw)
        for key, some in by_key.items()
        if not any(k.startswith(f"{key}.") for k in by_key)
    ]


def _describe(key: str, errors: list[Any], raw: Mapping[str, Any]) -> str:
    error = errors[0]
    if error["type"] == SETTING_ERROR:
        return error["msg"]
    if len(errors) > 1:  # a union: no kind matched
        return f"{key}: got {quote(error['input'])}; should be {', or '.join(map(_expected_kind, errors))}"
    if error["type"] == "extra_forbidden":
        return f"unknown key '{key}'; {suggest(error['loc'][-1], _keys_at(error['loc'][:-1]))}"
    if error["type"] == "missing":
        return f"'{key}' is missing" + ("" if raw else " (the file is empty)")
    if error["type"] == "literal_error":
        return f"{key}: got {quote(error['input'])}; {suggest(error['input'], _allowed_words(error))}"
    if error["type"] == "value_error" and isinstance(error["input"], Mapping):  # a section
        message = error["msg"].removeprefix("Value error, ")
        return f"{key}: {message}" if key else message
    if error["type"] == "tuple_type":
        shown = str(error["input"])[:MAX_QUOTED]
        example = "[0.9], each between 0 and 1" if key == "train.sparsities" else f"[{shown}]"
        return f"{key}: got {quote(error['input'])}; give a list, e.g. {example}"
    return f"{key}: got {quote(error['input'])}; {expectation(error)}{_of_percent(error)}"


def _of_percent(error: Any) -> str:
    """Return the share that a percentage stands for, where a share is expected; else an empty string."""
    text = str(error["input"]).strip()
    is_share = error["type"].startswith("less_than") and 1 in error["ctx"].values()
    percent = re.fullmatch(r"(\d+(?:\.\d+)?) ?%?", text)
    if percent is None or not (is_share or text.endswith("%")) or float(percent[1]) > 100:
        return ""
    return f"; {percent[1]} % is {float(percent[1]) / 100:g}"


def _expected_kind(error: Any) -> str:
    """Return the expected kind of value of one error of a union."""
    if error["type"] == "literal_error":
        return ", or ".join(_allowed_words(error))
    if error["type"] == "tuple_type":
        return "a list"
    return error["msg"].removeprefix("Input should be ").partition(",")[0]


def _allowed_words(error: Any) -> list[str]:
    return re.findall(r"'([^']*)'", error["ctx"]["expected"])


def _key(location: Iterable[object]) -> str:
    """Return a location as a dotted key, without pydantic's names of union members."""
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
    """Return the model of a sub-section; None if the key is not a section."""
    field = None if section is None else section.model_fields.get(key)
    annotations = () if field is None else (field.annotation, *get_args(field.annotation))
    return next((a for a in annotations if hasattr(a, "model_fields")), None)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read and validate a configuration; each override is `key.sub=VALUE` with VALUE in YAML.

    `${NAME}` and `${NAME:-default}` in strings are replaced from the environment. Raises
    `ConfigError` with the key, the value and the allowed values.
    """
    path = user_path(path)
    text, raw = read_mapping(path)
    try:
        return _parse(raw, path, overrides)
    except ConfigError as error:
        if not (offending := _offending_overrides(raw, path, overrides)):
            if isinstance(error, InvalidSettings):
                first, *others = [f"{problem}{_line_of(problem, text)}" for problem in error.problems]
                raise InvalidSettings(error.where, [*missing_blank(text), first, *others]) from error
            raise ConfigError(f"{error}{_line_of(str(error).removeprefix(str(path)), text)}") from error
        message = str(error).removeprefix(f"{path}: ")
        raise ConfigError(message if message.startswith("--set") else f"{offending}: {message}") from error


def _line_of(message: str, text: str) -> str:
    """Return the line of the first key that a message names, or of its section, in brackets; empty without a key."""
    lines = key_lines(text)
    for key in re.findall(r"[\w-]+(?:\.[\w-]+)+|\w+(?=: |'; )", message):
        parts = key.split(".")
        places = (lines.get(".".join(parts[:end])) for end in range(len(parts), 0, -1))
        if line := next((line for line in places if line), None):
            return f" (line {line})"
    return ""


def _parse(raw: dict[str, Any], path: Path, overrides: Sequence[str]) -> RunConfig:
    expanded = complete_mapping(raw, path, overrides)
    _resolve_paths(expanded, path.resolve().parent)
    return parse_config(expanded, where=str(path))


def _offending_overrides(raw: dict[str, Any], path: Path, overrides: Sequence[str]) -> str:
    """Return the overrides that make a valid file invalid: each one that alone does, else all; empty if none."""
    if not overrides or not _is_valid(raw, path, ()):
        return ""
    others = [(*overrides[:at], *overrides[at + 1 :]) for at in range(len(overrides))]
    alone = [override for override, rest in zip(overrides, others, strict=True) if _is_valid(raw, path, rest)]
    return " ".join(f"--set {override[:MAX_QUOTED]}" for override in alone or overrides)


def _is_valid(raw: dict[str, Any], path: Path, overrides: Sequence[str]) -> bool:
    try:
        _parse(raw, path, overrides)
    except ConfigError:
        return False
    return True


def parse_config(raw: Mapping[str, Any], *, where: str = "configuration") -> RunConfig:
    """Validate a configuration given as a mapping."""
    if problems := _misplaced(raw):
        raise InvalidSettings(where, problems)
    try:
        return RunConfig.model_validate(raw)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    except ValidationError as error:
        raise InvalidSettings(where, describe_errors(error.errors(), raw)) from error


def _misplaced(raw: Mapping[str, Any]) -> list[str]:
    """Return the keys of the section corpus at the top level, and those of the top level in that section."""
    corpus, problems = raw.get("corpus"), list[str]()
    if corpus is None and (unknown := raw.keys() - RunConfig.model_fields.keys()):
        known = {key for kind in ("folder", "manifest") for key in corpus_class(kind).model_fields}
        if below := [key for key in raw if key in unknown & known]:
            problems.append(f"{' and '.join(below)} belong in the section corpus; indent them below `corpus:`")
    if isinstance(corpus, Mapping) and (kind := str(corpus.get("kind"))) in CORPORA:
        above = RunConfig.model_fields.keys() - corpus_class(kind).model_fields.keys()
        problems += [
            f"corpus.{key} is no key of the corpus; write {key} at the top level, without indentation"
            for key in corpus
            if key in above
        ]
    return problems


def _resolve_paths(raw: dict[str, Any], folder: Path) -> None:
    """Resolve relative paths against the folder of the configuration; paths are recognised by the type of a field."""
    for name, block in raw.items():
        if not isinstance(block, dict):
            continue
        model: Any = _section(RunConfig, name)
        if name == "corpus":
            kind = str(block.get("kind"))
            model = corpus_class(kind) if kind in CORPORA else None
        for key, field in model.model_fields.items() if model is not None else ():
            if _holds_path(field.annotation) and isinstance(block.get(key), str):
                block[key] = _resolved(f"{name}.{key}", block[key], folder)
    model_id = raw.get("model")
    if isinstance(model_id, str) and model_id.startswith((".", "~")):
        raw["model"] = _resolved("model", model_id, folder)


def _resolved(key: str, path: str, folder: Path) -> str:
    try:
        resolved = folder / user_path(path)
        if (variable := re.search(r"\$([A-Za-z_]\w*)", path)) and not resolved.exists():
            raise ConfigError(f"{path} does not exist; an environment variable is written ${{{variable[1]}}}")
        return str(resolved)
    except ConfigError as error:
        raise ConfigError(f"{key}: {error}") from error


def _holds_path(annotation: Any) -> bool:
    return annotation is Path or any(_holds_path(part) for part in get_args(annotation))
