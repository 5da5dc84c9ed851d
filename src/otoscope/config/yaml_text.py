"""YAML as a configuration needs it: one meaning per text, bounded in size, every fault with its line.

Scalars follow YAML 1.2 where 1.1 surprises: `no` and `on` are text, as are dates and `1:30`.
"""

import re
from typing import Any

import yaml
from yaml.constructor import ConstructorError
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from otoscope.errors import ConfigError
from otoscope.formatting import is_clean, one_line

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
