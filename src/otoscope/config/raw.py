"""The mapping of a configuration file: YAML, overrides and environment variables, before validation.

Needs neither PyTorch nor the models of the sections, so that an up-to-date run is recognised in a moment.
"""

import os
import re
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

from otoscope.config.yaml_text import MAX_DEPTH, parse_yaml
from otoscope.errors import ConfigError, quote
from otoscope.paths import open_regular

MAX_NAME = 100
"""Longest name of a run, in characters: it is the name of a folder."""


class ConfigText(NamedTuple):
    """Text of a configuration file and its mapping."""

    text: str
    mapping: dict[str, Any]


def read_mapping(path: Path) -> ConfigText:
    """Read a configuration file; raise `ConfigError` if it is missing, unreadable or no mapping in YAML."""
    if path.is_dir():
        raise ConfigError(f"{path} is a folder without config.yaml; give a run folder or a YAML file")
    try:
        with open_regular(path):
            text = path.read_text(encoding="utf-8-sig")
        mapping: object = parse_yaml(text)
    except FileNotFoundError as error:
        raise ConfigError(f"no configuration file {path}") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"cannot read {path}: line {line} is not UTF-8; save it as UTF-8") from error
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    except ConfigError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(mapping, dict):
        got = "nothing" if mapping is None else type(mapping).__name__
        raise ConfigError(f"{path} must hold `key: value` lines, got {got}")
    return ConfigText(text, mapping)


def complete_mapping(mapping: dict[str, Any], path: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """Return a mapping with its overrides, environment variables and the name of the run."""
    mapping = deepcopy(mapping)
    for override in overrides:
        _apply_override(mapping, override)
    return _expand_variables({"name": run_name(path), **mapping})


def run_name(path: Path) -> str:
    """Return the name of a run for the path of its configuration: letters, digits, `_`, `.` and `-`.

    >>> run_name(Path("my config (2).yaml"))
    'my-config-2'
    """
    return re.sub(r"[^\w.-]+", "-", path.stem).strip("-.")[:MAX_NAME] or "run"


def _apply_override(raw: dict[str, Any], override: str) -> None:
    key, sign, text = override.partition("=")
    if not sign:
        raise ConfigError(f"--set wants key.sub=VALUE, got {quote(override)}")
    *parents, last = key.strip().split(".")
    if len(parents) > MAX_DEPTH:
        raise ConfigError(f"--set {override[:40]!r}...: no setting is {len(parents)} sections deep")
    for parent in parents:
        section: object = raw.get(parent)
        if section is None:  # absent, or a section's name with nothing under it
            section = raw[parent] = {}
        if not isinstance(section, dict):
            raise ConfigError(f"--set {quote(override)}: {parent!r} is not a section")
        raw = section
    try:
        raw[last] = parse_yaml(text)
    except ConfigError as error:
        raise ConfigError(f"--set {quote(override)}: the value is not valid YAML ({error})") from error


def _expand_variables(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _expand_variables(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_expand_variables(v) for v in value]
    if isinstance(value, str):
        return re.sub(r"\$\{(\w+)(?::-([^}]*))?\}", _variable, value)
    return value


def _variable(match: re.Match[str]) -> str:
    name: str = match.group(1)
    default: str | None = match.group(2)
    value = os.environ.get(name, default)
    if value is None:
        raise ConfigError(f"the configuration needs the environment variable {name}, which is not set")
    return value
