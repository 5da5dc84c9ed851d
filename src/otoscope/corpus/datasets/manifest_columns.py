"""Columns of a table of recordings: labels, factors, and names or values that mean something else."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import polars as pl

from otoscope.corpus.listing import LISTING_COLUMNS
from otoscope.corpus.table import SPLITS
from otoscope.errors import CorpusError, quote, suggest
from otoscope.formatting import count, first_few
from otoscope.text_table import FEW_VALUES, TextTable

_SPLIT_WORDS = {
    "train": ("training",),
    "valid": ("val", "validation", "dev", "devel", "development"),
    "test": ("testing", "eval", "evaluation"),
}
SPLIT_ALIASES = {word: split for split, words in _SPLIT_WORDS.items() for word in words}
"""Accepted synonyms of split names, in any case."""

CHANNEL = "channel"
"""Column with the channel of a clip, counted from 1, if it is not listed as a label or factor."""

RESERVED = (*LISTING_COLUMNS, "end_s", CHANNEL)
"""Columns with a meaning of their own; names that differ from these only in case are refused."""

MAX_COLUMNS = 8
"""Columns named in a note."""


class Columns(NamedTuple):
    """Columns of labels and factors by name, notes on the others, and whether `channel` has its own meaning."""

    labels: Mapping[str, str]
    factors: Mapping[str, str]
    notes: list[str]
    has_channel: bool


def columns_by_meaning(
    table: TextTable, group: str, *, labels: Sequence[str] | None, factors: Sequence[str] | None
) -> Columns:
    """Return the labels and factors of a table by name, with their columns.

    `labels` and `factors` are the columns that the configuration names. Raises `CorpusError` if two columns have one
    name, and for a column whose name or values mean something that it is not used as.
    """
    cells = table.cells
    own = (*(labels or ()), *(factors or ()), group)
    if twice := [c for c in labels or () if c in (factors or ())]:
        raise CorpusError(f"{quote(twice[0])} is listed in `labels` and in `factors`; list it in one of them")
    for column in cells.columns:
        if column not in own and column not in RESERVED and (name := _meant(table, column)) and name not in own:
            raise CorpusError(
                f"{table.name}: the column {quote(column)} is not used as {name}; rename it to {name}, or"
                " list it in `labels` or `factors`"
            )
    has_channel = CHANNEL in cells.columns and CHANNEL not in own
    reserved = {*LISTING_COLUMNS, "end_s", group} | ({CHANNEL} if has_channel else set())
    other = [c for c in cells.columns if c not in reserved and not c.startswith(("label_", "factor_"))]
    notes: list[str] = []
    if "group" in cells.columns and "group" not in own:
        notes.append(f"{table.name}: the column group is not used, because groups come from the column {group}")
    if labels is None and factors is None:
        _refuse_times(table, other, "would be factors, and whole files would be used")
        empty = [c for c in other if cells[c].null_count() == cells.height]
        numeric = {c: table.is_numeric(c) for c in other if c not in empty}
        labels, factors = ([c for c, is_factor in numeric.items() if is_factor == which] for which in (False, True))
        notes += [
            f"warning: {table.name}: {c} is a label, not a factor: {text}; correct them, or leave them empty"
            for c in labels
            if (text := table.text_among_numbers(c))
        ]
        notes += [
            f"{table.name}: {c} is a label, not a factor: {text}; the name factor_{c} makes it a factor"
            for c in labels
            if (text := table.codes(c))
        ]
        notes += _doubtful_factors(table, factors)
        unused, why = empty, "without a value"
    else:
        labels, factors = ([require_column(table, c) for c in named or ()] for named in (labels, factors))
        unused, why = [c for c in other if c not in (*labels, *factors)], "not used"
        if not {"start_s", "end_s", "duration_s"} & set(cells.columns):
            _refuse_times(table, unused, "would be ignored, and whole files would be used")
    notes += [
        f"warning: {table.name}: {c}: {text}; leave missing values empty"
        for c in (*labels, *factors)
        if (text := table.marks_of_missing(c))
    ]
    if unused:
        columns = count(len(unused), "column")
        notes.append(f"{table.name}: {columns} {why} ({first_few(unused, MAX_COLUMNS)})")
    if commas := table.decimal_commas():
        notes.append(f"{table.name}: decimal commas in {', '.join(commas[:5])} are read as points")
    named = (_by_name(table, labels, "label_"), _by_name(table, factors, "factor_"))
    return Columns(*named, notes, has_channel)


def require_column(table: TextTable, name: str) -> str:
    """Return the name of a column; raise `CorpusError` if the table lacks it."""
    columns = table.cells.columns
    if name not in columns:
        if name == "path" and (files := [c for c in columns if _holds_files(table.cells[c])]):
            raise CorpusError(
                f"{table.name} has no column 'path', but {quote(files[0])} has names of files; rename it to path"
            )
        raise CorpusError(f"{table.name} has no column {quote(name)}; {suggest(name, columns)}")
    return name


def _by_name(table: TextTable, columns: Sequence[str], prefix: str) -> dict[str, str]:
    """Return columns by name without prefix."""
    prefixed = [c for c in table.cells.columns if c.startswith(prefix) and c not in columns]
    named: dict[str, str] = {}
    for column in (*columns, *prefixed):
        name = column.removeprefix(prefix)
        if not name:
            raise CorpusError(f"{table.name}: the column {quote(column)} has no name after its prefix")
        if name in named:
            raise CorpusError(
                f"{table.name}: the columns {quote(named[name])} and {quote(column)} are the same"
                f" {prefix[:-1]}; rename one, or list the columns to use in `labels` and `factors`"
            )
        named[name] = column
    return named


def _refuse_times(table: TextTable, columns: Sequence[str], problem: str) -> None:
    """Raise `CorpusError` for columns that look like the ends of segments but have no known name."""
    paired = _paired_times(columns)
    times = [
        c
        for c in columns
        if (_plain(c) in SEGMENT_TIMES or c in paired or re.fullmatch(r"[tT]_?[01]", c))
        and (table.is_numeric(c) or table.cells[c].str.contains(r"^\d+:\d").fill_null(False).any())
    ]
    if times:
        raise CorpusError(
            f"{table.name}: {' and '.join(times)} {problem}. For the segment of a row, name the"
            " columns start_s and end_s (or duration_s), in seconds; for factors, list them in `factors`"
        )


_TIME_WORDS = ("start", "end", "begin", "stop", "onset", "offset", "tmin", "tmax", "from", "to")
_UNITS = ("", "time", "sec", "second", "ms", "sample", "samp", "frame")
SEGMENT_TIMES = frozenset(f"{word}{unit}".removesuffix("s") for word in _TIME_WORDS for unit in _UNITS)
"""Names of columns, as `_plain` returns them, that mean the ends of a segment in unknown units."""


_OPPOSITES = {"start": ("end", "stop"), "begin": ("end",), "onset": ("offset",), "in": ("out",), "xmin": ("xmax",)}


def _paired_times(columns: Iterable[str]) -> set[str]:
    """Return columns in pairs whose names differ in a word for the start and the end of a segment only.

    >>> sorted(_paired_times(["callStart", "callEnd", "site", "age_start"]))
    ['callEnd', 'callStart']
    """
    by_words = {tuple(re.findall(r"[a-z]+|[0-9]+", re.sub("(?<=[a-z])(?=[A-Z])", " ", c).lower())): c for c in columns}
    return {
        column
        for words, first in by_words.items()
        for at, word in enumerate(words)
        for opposite in _OPPOSITES.get(word, ())
        if (last := by_words.get((*words[:at], opposite, *words[at + 1 :])))
        for column in (first, last)
    }


def _plain(name: str) -> str:
    """Return the letters of a name in lower case, without a unit of one letter and a plural.

    >>> _plain("Begin Time (s)"), _plain("start")
    ('begintime', 'start')
    """
    return "".join(re.findall(r"[a-z]{2,}", name.lower())).removesuffix("s")


_CHANNEL_NAMES = ("chan", "ch", "channels", "channelnr", "kanal")
_FILE = r"(?i)\.(wav|flac|mp3|ogg|opus|aiff?|m4a|au|caf|mp4)$"


def _holds_files(values: pl.Series) -> bool:
    return bool(values.drop_nulls().head(1000).str.contains(_FILE).any())


def _meant(table: TextTable, column: str) -> str:
    """Return the reserved name that a column has in capitals, or means by its values; else an empty string."""
    if column.lower() in RESERVED:
        return column.lower()
    if column.startswith(("label_", "factor_")):
        return ""
    if CHANNEL not in table.cells.columns and column.lower() in _CHANNEL_NAMES and table.is_numeric(column):
        return CHANNEL
    if "split" in table.cells.columns or table.cells.height < len(SPLITS):
        return ""
    values = table.cells[column].drop_nulls().unique().head(len(SPLITS) + 1).str.to_lowercase().replace(SPLIT_ALIASES)
    is_split = "train" in values and values.n_unique() > 1 and values.is_in(SPLITS).all()
    return "split" if is_split else ""


def _doubtful_factors(table: TextTable, factors: Iterable[str]) -> list[str]:
    """Return notes on factors of whole numbers that may be classes or identifiers; they name the columns."""
    few: dict[str, int] = {}
    identifiers: list[str] = []
    for column in factors:
        values = table.numbers(column).drop_nulls()
        number = values.n_unique()
        if table.may_identify(column):
            identifiers.append(column)
        elif 1 < number <= FEW_VALUES and 2 * number <= len(values) and (values == values.round()).all():
            few[column] = number
    notes: list[str] = []
    if few:
        shown = first_few((f"{name} ({number})" for name, number in few.items()), MAX_COLUMNS)
        notes.append(
            f"{table.name}: factors with few whole values: {shown}. If they are classes, put label_ in front of the"
            " column's name, or list it in `labels`"
        )
    if identifiers:
        shown = first_few(identifiers, MAX_COLUMNS)
        notes.append(
            f"warning: {table.name}: factors that look like identifiers or dates: {shown} (whole numbers that"
            " count from 0, 1, 100 or 101, rise with every row, or have eight digits); list the columns to use in"
            " `labels` and `factors`"
        )
    return notes
