"""Version of the code that computes a result: a hash of its syntax trees, without prose.

A stage names the modules and packages that its numbers depend on. When one of them changes in a way that
can change a number, the fingerprint of the stage changes and the stage runs again. Docstrings, comments,
formatting and the texts of errors and progress messages do not count.
"""

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import otoscope

SOURCE = Path(otoscope.__file__).parent

MEASUREMENT_CODE = (
    "otoscope.metrics",
    "otoscope.linear",
    "otoscope.resampling",
    "otoscope.runs.codes",
    "otoscope.sae.model",
    "otoscope.sae.sparsifiers",
)
"""Code that every number of every protocol depends on; a protocol adds its own modules."""

MESSAGE_CALLS = {"message"}
"""Methods whose arguments are texts for people."""

TEXT_KEYWORDS = {"description", "help", "label", "short_label", "colour"}
"""Keyword arguments that change no number if their value is a literal text."""


@cache
def code_version(*names: str, source: Path = SOURCE) -> str:
    """Return the version of modules and packages, such as `otoscope.metrics`.

    Every file of a package counts: Python files by their syntax, others by their bytes. Raises `ValueError`
    for a name that is neither a module nor a package.

    >>> code_version("otoscope.metrics") == code_version("otoscope.metrics")
    True
    >>> code_version("otoscope.metrics") == code_version("otoscope.linear")
    False
    """
    files = sorted({path for name in names for path in _files(name, source)})
    total = hashlib.sha256()
    for path in files:
        total.update(f"{path.relative_to(source)} {_file_version(path)}\n".encode())
    return total.hexdigest()


def syntax_version(text: str) -> str:
    """Return the hash of a Python source without docstrings, comments, layout and message texts.

    >>> syntax_version("x = 1  # one") == syntax_version("x=1"), syntax_version("x = 1") == syntax_version("x = 2")
    (True, False)
    """
    return hashlib.sha256("\n".join(_tokens(ast.parse(text))).encode()).hexdigest()


def _files(name: str, source: Path) -> Iterator[Path]:
    first, *rest = name.split(".")
    path = source.joinpath(*rest)
    if first != "otoscope" or not (path.is_dir() or path.with_suffix(".py").is_file()):
        raise ValueError(f"no module or package {name!r} in {source}")
    if not path.is_dir():
        yield path.with_suffix(".py")
        return
    yield from (file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts)


@cache
def _file_version(path: Path) -> str:
    if path.suffix == ".py":
        return syntax_version(path.read_text(encoding="utf-8"))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _tokens(node: ast.AST) -> Iterator[str]:
    """Yield node types and values in order; empty fields are left out, as they differ between Python versions."""
    if _is_text(node) or (isinstance(node, ast.keyword) and node.arg in TEXT_KEYWORDS and _is_literal(node.value)):
        return
    yield type(node).__name__
    if isinstance(node, ast.Raise):
        yield from _raised(node)
        return
    for name, value in ast.iter_fields(node):
        if isinstance(node, ast.Call) and name in ("args", "keywords") and _is_message(node):
            continue
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, ast.AST):
                yield from _tokens(item)
            elif item is not None:
                yield f"{name}={item!r}"


def _raised(node: ast.Raise) -> Iterator[str]:
    """Yield which error is raised, not its text."""
    error = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
    if error is not None:
        yield from _tokens(error)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _is_literal(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        return bool(node.args) and all(map(_is_literal, node.args))
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _is_message(node: ast.Call) -> bool:
    return isinstance(node.func, ast.Attribute) and node.func.attr in MESSAGE_CALLS
