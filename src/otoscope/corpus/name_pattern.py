"""Fields of file names, found by a regular expression with named groups.

The engine of Rust's `regex` (through Polars) takes linear time for every pattern and path; it has no look-around and no
back-references.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence

import polars as pl

from otoscope.errors import CorpusError, quote
from otoscope.formatting import one_line

MAX_PATTERN = 10_000
"""Longest pattern, in characters."""

_PREFIXES = ("label_", "factor_")


def check_pattern(pattern: str) -> list[str]:
    """Return the named groups of a pattern: `group`, `label_NAME` and `factor_NAME`; raise `ValueError` for others."""
    if len(pattern) > MAX_PATTERN:
        raise ValueError(f"a pattern has at most {MAX_PATTERN:,} characters")
    try:
        names = [field for field in _extract(pattern, [""]).columns if not field.isdigit()]
    except (pl.exceptions.PolarsError, UnicodeEncodeError) as error:
        problem = str(error).rpartition("error: ")[2].strip()
        raise ValueError(f"not a regular expression ({one_line(problem, 200)})") from error
    for name in names:
        if name != "group" and not any(name.startswith(p) and len(name) > len(p) for p in _PREFIXES):
            raise ValueError(
                f"the named group {quote(name)} has no meaning; use group, label_{name[:40]} or factor_{name[:40]}"
            )
    if not names:
        raise ValueError("needs a named group, such as (?P<group>[^_/]+)_")
    return names


def find_fields(pattern: str, paths: Sequence[str]) -> pl.DataFrame:
    """Return one row per path and one column of text per named group, null where the pattern does not match.

    >>> find_fields(r"(?P<group>[^_/]+)_(?P<label_take>[0-9]+)", ["sung/ann_01.wav", "b.wav"]).rows()
    [('ann', '01'), (None, None)]
    """
    found = _extract(pattern, [unicodedata.normalize("NFC", path) for path in paths])
    return found.select(
        pl.when(pl.col(name).str.strip_chars() == "").then(None).otherwise(pl.col(name)).alias(name)
        for name in found.columns
        if not name.isdigit()
    )


def as_factor(name: str, values: pl.Series, paths: Sequence[str]) -> pl.Series:
    """Return the texts of a factor as numbers; raise `CorpusError` for the first path without one."""
    numbers = values.cast(pl.Float64(), strict=False)
    wrong = (values.is_not_null() & (numbers.is_null() | ~numbers.is_finite())).arg_true()
    if len(wrong):
        row = int(wrong[0])
        raise CorpusError(f"pattern: {name} of {paths[row]} is {quote(values[row])}, not a number; use label_ for text")
    return numbers


def apply_names(column: str, codes: pl.Series, names: Mapping[str, str]) -> tuple[pl.Series, list[str]]:
    """Return codes as words, with a note on codes without a word; raise `CorpusError` if no code has one."""
    label = column.removeprefix("label_")
    present = set(codes.drop_nulls())
    without = sorted(present - names.keys())
    if present and not present & names.keys():
        raise CorpusError(
            f"names.{label} has a word for none of the codes in the paths: it names {_some(sorted(names))}; the paths"
            f" have {_some(without)}"
        )
    notes = [f"names.{label} has no word for {_some(without)}: kept as they are"] if without else []
    return codes.replace(dict(names)), notes


def _some(codes: Sequence[str]) -> str:
    return ", ".join(codes[:5]) + (", ..." if len(codes) > 5 else "")


def _extract(pattern: str, texts: Sequence[str]) -> pl.DataFrame:
    """Return the groups of the first match in each text; a group without a name is named by its number."""
    column = pl.Series("text", texts, dtype=pl.String())
    if not re.search(r"\((?!\?)|\(\?P?<", pattern):  # Polars refuses patterns without groups
        column.str.contains(pattern)
        return pl.DataFrame()
    return column.str.extract_groups(pattern).struct.unnest()
