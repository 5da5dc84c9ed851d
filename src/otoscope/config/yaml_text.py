"""YAML of a configuration: one meaning per text, bounded in size, every fault with its line; overrides and variables.

Scalars follow YAML 1.2 where 1.1 surprises: `no` and `on` are text, as are dates and `1:30`. The mapping of a file is
read here before its validation, which needs neither PyTorch nor the models of the sections, so that an up-to-date run
is recognised in a moment.
"""

import os
import re
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from yaml.constructor import ConstructorError
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from otoscope.errors import ConfigError, quote
from otoscope.formatting import is_clean, one_line
from otoscope.paths import open_regular

MAX_DEPTH = 30
"""Deepest nesting of sections and lists."""

MAX_VALUES = 100_000
"""Largest number of values, aliases expanded."""

MAX_DIGITS = 18
"""Longest whole number: larger ones do not fit 64 bits."""

MAX_CHARACTERS = 10_000_000

_NUMBER_TAGS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_BOOLEAN = "tag:yaml.org,2002:bool"
_REPLACED = (_BOOLEAN, "tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:value", *_NUMBER_TAGS)


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses repeated keys, ambiguous numbers, and nesting or aliases without bound."""

    depth = 0

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise ConstructorError(None, None, f"nested more than {MAX_DEPTH} deep", self.peek_event().start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_object(self, node: Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep=deep)
        except (ValueError, TypeError, AttributeError, KeyError, OverflowError) as error:
            shown = f" {node.value[:40]!r}" if isinstance(node, ScalarNode) else ""
            raise ConstructorError(None, None, f"the value{shown} does not fit its tag", node.start_mark) from error

    def flatten_mapping(self, node: MappingNode) -> None:
        keys: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, ScalarNode):
                if (key.tag, key.value) in keys:
                    raise ConstructorError(None, None, f"the key {key.value!r} is given twice", key.start_mark)
                keys.add((key.tag, key.value))
        super().flatten_mapping(node)


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes every text which `_Loader` would read as a number or refuse."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


_RESOLVERS = (
    (_BOOLEAN, r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    (
        _NUMBER_TAGS[1],
        r"^(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
        r"|[-+]?\.[0-9]+(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
        "-+0123456789.",
    ),
    (_NUMBER_TAGS[0], r"^[-+]?(?:0x[0-9a-fA-F_]+|[0-9][0-9_]*)$", "-+0123456789"),
)
"""Tag, pattern and first characters of the plain scalars of YAML 1.2."""

# the inherited tables, by first character, must not change
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _REPLACED]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _pattern, _first in _RESOLVERS:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_tag, re.compile(_pattern), list(_first))


def format_yaml(content: Any) -> str:
    """Return content as YAML that `parse_yaml` reads back unchanged.

    >>> print(format_yaml({"groups": ["01", "1e3", 2]}), end="")
    groups:
    - '01'
    - '1e3'
    - 2
    """
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def parse_yaml(text: str) -> Any:
    """Return the content of a YAML text; raise `ConfigError` with line and column.

    >>> parse_yaml("a: [1, no, 1e-3]")
    {'a': [1, 'no', 0.001]}
    """
    if len(text) > MAX_CHARACTERS:
        raise ConfigError(f"{len(text):,} characters; a configuration has at most {MAX_CHARACTERS:,}")
    loader: _Loader | None = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check(node, {}, set())
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        raise ConfigError(_problem(error)) from error
    except RecursionError:
        raise ConfigError(f"nested more than {MAX_DEPTH} deep") from None
    finally:
        if loader is not None:
            loader.dispose()


def key_lines(text: str) -> dict[str, int]:
    r"""Return the line of every key of a valid YAML text, as `section.key`.

    >>> key_lines("a: 1\nb:\n  c: 2")
    {'a': 1, 'b': 2, 'b.c': 3}
    """
    lines: dict[str, int] = {}
    loader = _Loader(text)
    try:
        _add_lines(loader.get_single_node(), "", lines)
    finally:
        loader.dispose()
    return lines


def _add_lines(node: Node | None, prefix: str, lines: dict[str, int]) -> None:
    for key, value in node.value if isinstance(node, MappingNode) else ():
        if isinstance(key, ScalarNode):
            lines[f"{prefix}{key.value}"] = key.start_mark.line + 1
            _add_lines(value, f"{prefix}{key.value}.", lines)


def _check(node: Node, sizes: dict[int, int], open_nodes: set[int]) -> int:
    """Return the number of values below a node, aliases expanded; raise `ConstructorError` for unusable ones."""
    if id(node) in open_nodes:
        raise ConstructorError(None, None, "an alias refers to a section that contains it", node.start_mark)
    if id(node) in sizes:
        return sizes[id(node)]
    open_nodes.add(id(node))
    if isinstance(node, ScalarNode):
        _check_scalar(node)
        size = 1
    elif isinstance(node, MappingNode):
        size = 1 + sum(_check(part, sizes, open_nodes) for pair in node.value for part in pair)
    else:
        size = 1 + sum(_check(part, sizes, open_nodes) for part in _items(node))
    if size > MAX_VALUES:
        raise ConstructorError(None, None, f"more than {MAX_VALUES:,} values, aliases expanded", node.start_mark)
    open_nodes.remove(id(node))
    sizes[id(node)] = size
    return size


def _items(node: Node) -> list[Node]:
    return node.value if isinstance(node, SequenceNode) else []


def _check_scalar(node: ScalarNode) -> None:
    text = node.value
    if node.tag in _NUMBER_TAGS and node.style is None:
        digits = text.lstrip("+-")
        if re.fullmatch(r"0[0-9_]+", digits):
            number = digits.lstrip("0_") or "0"
            raise ConstructorError(
                None,
                None,
                f"{text} begins with 0 and may be octal; write '{text}' in quotes for text, or {number} for a number",
                node.start_mark,
            )
        if node.tag == _NUMBER_TAGS[0] and len(digits) > MAX_DIGITS:
            shown = f"{text[:20]}..." if len(text) > 20 else text
            raise ConstructorError(None, None, f"the number {shown} is too large", node.start_mark)
    if not is_clean(text.replace("\n", "").replace("\t", "")):
        raise ConstructorError(None, None, f"{text[:40]!r} contains a control character", node.start_mark)


_HINTS = {
    "unknown escape character": "; write text with backslashes in single quotes",
    "'\\t' that cannot start": "; indent with blanks",
}
"""Advice on frequent faults, by words of the parser's message."""


def _problem(error: yaml.YAMLError) -> str:
    """Return the problem and its position."""
    if isinstance(error, yaml.MarkedYAMLError) and (mark := error.problem_mark or error.context_mark) is not None:
        problem = str(error.problem or error.context)
        hint = next((hint for words, hint in _HINTS.items() if words in problem), "")
        return f"line {mark.line + 1}, column {mark.column + 1}: {problem}{hint}"
    if isinstance(error, yaml.reader.ReaderError):
        return f"character {error.position + 1}: {error.reason}"
    return one_line(error)


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
    text = ""
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
        raise ConfigError("; ".join([f"{path} is not valid YAML: {error}", *missing_blank(text)])) from error
    if not isinstance(mapping, dict):
        got = "a list" if isinstance(mapping, list) else quote(mapping)
        raise ConfigError("; ".join([f"{path} must hold `key: value` lines, got {got}", *missing_blank(text)]))
    return ConfigText(text, mapping)


def missing_blank(text: str) -> list[str]:
    r"""Return where the first key of a YAML text without a blank after its colon, or a curly quote, is; else nothing.

    >>> missing_blank("corpus:\n  kind:folder\n  root: 'C:x'")
    ["line 2: write a blank after the colon ('kind: folder')"]
    """
    for number, line in enumerate(text.splitlines(), start=1):
        if found := re.search(r"(?:^|[{,])\s*(?:- +)?([a-z_]+):([^\s/\\:,}\]][^,}]*)", line.partition(" #")[0]):
            return [f"line {number}: write a blank after the colon ({quote(f'{found[1]}: {found[2].strip()}')})"]
        if re.search(r"[:\[,{]\s*[\u2018\u2019\u201c\u201d]", line.partition(" #")[0]):
            return [f"line {number}: write straight quotes (') in the place of curly ones"]
    return []


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
