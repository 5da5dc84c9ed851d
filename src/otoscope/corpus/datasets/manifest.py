"""A table of recordings: CSV, TSV or Parquet with a `path` column, labels and factors."""

import os
import re
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import polars as pl
from pydantic import Field

from otoscope.corpus.listing import LISTING_COLUMNS, Listing, ProgressCallback, UserPath, set_aside_table
from otoscope.corpus.selection import MAX_CHANNELS, SelectableCorpus
from otoscope.corpus.table import SPLITS
from otoscope.errors import CorpusError, SplitError, quote, suggest
from otoscope.formatting import count, first_few, is_clean, printable
from otoscope.tables import PARQUET_SUFFIXES, read_text_table
from otoscope.text_table import FEW_VALUES, TextTable

_SPLIT_WORDS = {
    "train": ("training",),
    "valid": ("val", "validation", "dev", "devel", "development"),
    "test": ("testing", "eval", "evaluation"),
}
SPLIT_ALIASES = {word: split for split, words in _SPLIT_WORDS.items() for word in words}
"""Accepted synonyms of split names, in any case."""


class ManifestCorpus(SelectableCorpus, frozen=True, extra="forbid"):
    """Clips named by the rows of a CSV, TSV or Parquet file.

    Columns: `path`; optionally `start_s`, `duration_s` or `end_s`, `channel`, a group, `split`, and columns that begin
    with `label_` or `factor_`. `labels` and `factors` name further columns; if neither is set, every numeric column
    becomes a factor and every other column a label.
    """

    kind: Literal["manifest"] = "manifest"
    table: UserPath = Field(description="CSV, TSV, text or Parquet file with one row per clip")
    root: UserPath | None = Field(
        default=None, description="folder that paths are relative to; the manifest's own folder by default"
    )
    group: str | None = Field(
        default=None,
        description="column whose values stay in one split; default: `group` if it exists, else each file",
    )
    labels: tuple[str, ...] | None = Field(default=None, description="columns that are labels, even if numeric")
    factors: tuple[str, ...] | None = Field(default=None, description="columns that are numeric factors")
    licence: str = Field(default="unknown", description="licence of the recordings, carried into the report")
    citation: str = Field(default="", description="how to cite the recordings, carried into the report")

    def listing(self, cache: Path, *, on_progress: ProgressCallback | None = None) -> Listing:  # noqa: ARG002
        """List the clips of the manifest; missing files are reported when the clips are decoded."""
        table = self._read()
        cells = table.cells
        root = self.root or self.table.parent
        if not root.is_dir():
            raise CorpusError(f"the corpus folder {root} does not exist; set `root` to the folder of the recordings")
        group = self._column(cells, self.group) if self.group else ("group" if "group" in cells.columns else "path")
        _require_values(table, group)
        columns = self._columns_by_meaning(table, group)
        paths = match_paths(cells["path"], root)
        _check_times(table)
        start_s = table.numbers("start_s") if "start_s" in cells.columns else pl.repeat(0.0, cells.height, eager=True)
        start_s = start_s.fill_null(0.0)
        duration_s = _duration(table, start_s)
        impossible = _impossible_segments(table, start_s, duration_s)
        clips = pl.DataFrame(
            {
                "path": cells["path"].replace(paths.on_disk),
                "start_s": start_s,
                "duration_s": duration_s,
                "group": cells["path"].replace(paths.on_disk) if group == "path" else cells[group],
                "split": _split(table),
                **({"channel": _channel(table)} if columns.has_channel else {}),
                **{f"label_{name}": cells[column] for name, column in columns.labels.items()},
                **{f"factor_{name}": table.numbers(column) for name, column in columns.factors.items()},
            },
            schema_overrides=LISTING_COLUMNS,
        )
        usable = ~cells["path"].is_in(list(paths.unusable))
        chosen = clips["path"].map_elements(self.is_chosen, return_dtype=pl.Boolean())
        unused = self.require_chosen(clips["path"].to_list())
        is_possible = ~pl.int_range(clips.height, eager=True).is_in(list(impossible))
        _require_unique(table, clips.with_row_index("row").filter(usable & chosen & is_possible))
        set_aside = [(printable(path, lines=False), reason) for path, reason in paths.unusable.items()]
        set_aside += [(clips["path"][row], reason) for row, reason in impossible.items() if usable[row] and chosen[row]]
        return Listing(
            self.table.stem,
            root,
            self.licence,
            self.citation,
            clips.filter(usable & chosen & is_possible),
            set_aside_table(set_aside),
            group_source="each file" if group == "path" else f"column {group}",
            notes=(*table.notes, *columns.notes, *_notes_of_missing(cells), *unused),
        )

    def _read(self) -> TextTable:
        """Return the manifest with every column as text, so that a label `01` is unchanged."""
        if self.table.suffix.lower() not in (".csv", ".tsv", ".txt", ".tab", *PARQUET_SUFFIXES):
            raise CorpusError(f"a manifest must be .csv, .tsv, .txt or .parquet; got {self.table.name}")
        if not self.table.is_file():
            raise CorpusError(f"no manifest {self.table}")
        table = read_text_table(self.table)
        self._column(table.cells, "path")
        if table.cells.is_empty():
            raise CorpusError(f"{self.table.name} has a header and no rows")
        _require_values(table, "path")
        return table

    def _column(self, table: pl.DataFrame, name: str) -> str:
        if name not in table.columns:
            if name == "path" and (files := [c for c in table.columns if _holds_files(table[c])]):
                raise CorpusError(
                    f"{self.table.name} has no column 'path', but {quote(files[0])} has names of files; rename it to"
                    " path"
                )
            raise CorpusError(f"{self.table.name} has no column {quote(name)}; {suggest(name, table.columns)}")
        return name

    def _columns_by_meaning(self, table: TextTable, group: str) -> "_Columns":
        """Return the labels and factors by name, with their columns; raise `CorpusError` if two have one name."""
        cells = table.cells
        own = (*(self.labels or ()), *(self.factors or ()), group)
        if twice := [c for c in self.labels or () if c in (self.factors or ())]:
            raise CorpusError(f"{quote(twice[0])} is listed in `labels` and in `factors`; list it in one of them")
        for column in cells.columns:
            if column not in own and column not in RESERVED and (name := _meant(table, column)) and name not in own:
                raise CorpusError(
                    f"{self.table.name}: the column {quote(column)} is not used as {name}; rename it to {name}, or"
                    " list it in `labels` or `factors`"
                )
        has_channel = CHANNEL in cells.columns and CHANNEL not in own
        reserved = {*LISTING_COLUMNS, "end_s", group} | ({CHANNEL} if has_channel else set())
        other = [c for c in cells.columns if c not in reserved and not c.startswith(("label_", "factor_"))]
        notes: list[str] = []
        if "group" in cells.columns and "group" not in own:
            notes.append(
                f"{self.table.name}: the column group is not used, because groups come from the column {group}"
            )
        if self.labels is None and self.factors is None:
            self._refuse_times(table, other, "would be factors, and whole files would be used")
            empty = [c for c in other if cells[c].null_count() == cells.height]
            numeric = {c: table.is_numeric(c) for c in other if c not in empty}
            labels, factors = ([c for c, is_factor in numeric.items() if is_factor == which] for which in (False, True))
            notes += [
                f"warning: {self.table.name}: {c} is a label, not a factor: {text}; correct them, or leave them empty"
                for c in labels
                if (text := table.text_among_numbers(c))
            ]
            notes += [
                f"{self.table.name}: {c} is a label, not a factor: {text}; the name factor_{c} makes it a factor"
                for c in labels
                if (text := table.codes(c))
            ]
            notes += _doubtful_factors(table, factors)
            unused, why = empty, "without a value"
        else:
            labels, factors = ([self._column(cells, c) for c in named or ()] for named in (self.labels, self.factors))
            unused, why = [c for c in other if c not in (*labels, *factors)], "not used"
            if not {"start_s", "end_s", "duration_s"} & set(cells.columns):
                self._refuse_times(table, unused, "would be ignored, and whole files would be used")
        notes += [
            f"warning: {self.table.name}: {c}: {text}; leave missing values empty"
            for c in (*labels, *factors)
            if (text := table.marks_of_missing(c))
        ]
        if unused:
            columns = count(len(unused), "column")
            notes.append(f"{self.table.name}: {columns} {why} ({first_few(unused, MAX_COLUMNS)})")
        if commas := table.decimal_commas():
            notes.append(f"{self.table.name}: decimal commas in {', '.join(commas[:5])} are read as points")
        named = (self._by_name(cells, labels, "label_"), self._by_name(cells, factors, "factor_"))
        return _Columns(*named, notes, has_channel)

    def _by_name(self, cells: pl.DataFrame, columns: list[str], prefix: str) -> dict[str, str]:
        """Return columns by name without prefix."""
        prefixed = [c for c in cells.columns if c.startswith(prefix) and c not in columns]
        named: dict[str, str] = {}
        for column in (*columns, *prefixed):
            name = column.removeprefix(prefix)
            if not name:
                raise CorpusError(f"{self.table.name}: the column {quote(column)} has no name after its prefix")
            if name in named:
                raise CorpusError(
                    f"{self.table.name}: the columns {quote(named[name])} and {quote(column)} are the same"
                    f" {prefix[:-1]}; rename one, or list the columns to use in `labels` and `factors`"
                )
            named[name] = column
        return named

    def _refuse_times(self, table: TextTable, columns: list[str], problem: str) -> None:
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
                f"{self.table.name}: {' and '.join(times)} {problem}. For the segment of a row, name the"
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


class _Columns(NamedTuple):
    """Columns of labels and factors by name, notes on the others, and whether `channel` has its own meaning."""

    labels: Mapping[str, str]
    factors: Mapping[str, str]
    notes: list[str]
    has_channel: bool


CHANNEL = "channel"
"""Column with the channel of a clip, counted from 1, if it is not listed as a label or factor."""

RESERVED = (*LISTING_COLUMNS, "end_s", CHANNEL)
"""Columns with a meaning of their own; names that differ from these only in case are refused."""


MAX_TIME_S = 1e7
"""Largest time in a table: 115 days."""


def _check_times(table: TextTable) -> None:
    """Raise `CorpusError` for a time that no recording has, such as one in samples or nanoseconds."""
    for name in ("start_s", "end_s", "duration_s"):
        if name in table.cells.columns:
            values = table.numbers(name)
            if len(rows := (values.abs() > MAX_TIME_S).fill_null(False).arg_true()):
                value, place = values[rows[0]], table.place(int(rows[0]))
                raise CorpusError(
                    f"{table.name}: {name} is {value:g} {place}; times are in seconds, at most {MAX_TIME_S:g}"
                )


MAX_COLUMNS = 8
"""Columns named in a note."""


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


def _require_values(table: TextTable, column: str) -> None:
    """Raise `CorpusError` for rows without a value."""
    rows = table.cells[column].is_null().arg_true()
    if len(rows):
        first = table.place(int(rows[0]))
        raise CorpusError(f"{table.name}: no {column} in {count(len(rows), 'row')}, the first {first}")


def _impossible_segments(table: TextTable, start_s: pl.Series, duration_s: pl.Series) -> dict[int, str]:
    """Return the reason of each row whose segment starts before its recording, or does not end after its start."""
    reasons: dict[int, str] = {}
    for row in ((start_s < 0) | (duration_s <= 0).fill_null(False)).arg_true().to_list():
        start, length = start_s[row], duration_s[row]
        if start < 0:
            problem = f"start_s is {start:g} {table.place(row)}; a recording starts at 0 s"
        elif "end_s" in table.cells.columns:
            problem = (
                f"start_s is {start:g} and end_s {start + length:g} {table.place(row)}; a segment ends after its start"
            )
        else:
            problem = f"duration_s is {length:g} {table.place(row)}; a segment lasts more than 0 s"
        reasons[row] = f"impossible segment: {problem}"
    return reasons


def _require_unique(table: TextTable, clips: pl.DataFrame) -> None:
    """Raise `CorpusError` if two rows are the same segment of a file; `clips` have their `row` in the table."""
    segment = [name for name in ("path", "start_s", "duration_s", CHANNEL) if name in clips.columns]
    repeated = clips.filter(clips.select(segment).is_duplicated())
    if repeated.is_empty():
        return
    same = repeated.join(repeated.head(1).select(segment), on=segment, nulls_equal=True, maintain_order="left")
    places = ", ".join(table.place(row) for row in same["row"].head(5).to_list())
    differing = [name for name in clips.columns if name != "row" and same[name].n_unique() > 1]
    contents = f"with different values of {', '.join(differing)}" if differing else "with equal columns"
    others = repeated.select(segment).unique().height - 1
    more = f"; so {'is' if others == 1 else 'are'} {count(others, 'other segment')}" if others else ""
    raise CorpusError(
        f"{table.name}: {quote(same['path'][0])} is listed {same.height} times as the same segment ({places}),"
        f" {contents}{more}; keep one row per clip"
    )


def _notes_of_missing(cells: pl.DataFrame) -> list[str]:
    """Return a note on each column of times and splits that lacks some values."""
    to_end = "those clips last to the end of their file"
    meanings = {"start_s": "those clips start at 0 s", "end_s": to_end, "duration_s": to_end}
    meanings["split"] = "those clips join their group, or groups are assigned by their hash"
    has_start, ends = "start_s" in cells.columns, [c for c in ("duration_s", "end_s") if c in cells.columns]
    alone = [f"no column end_s or duration_s: {to_end}"] * (has_start and not ends)
    alone += [f"no column start_s: each clip begins at 0 s and ends at {c}" for c in ends if not has_start]
    return alone + [
        f"no {name} in {count(missing, 'row')}: {meaning}"
        for name, meaning in meanings.items()
        if name in cells.columns and (missing := cells[name].null_count())
    ]


def _duration(table: TextTable, start_s: pl.Series) -> pl.Series:
    if "duration_s" in table.cells.columns and "end_s" in table.cells.columns:
        raise CorpusError("a manifest has duration_s or end_s, not both")
    if "end_s" in table.cells.columns:
        return table.numbers("end_s") - start_s
    if "duration_s" in table.cells.columns:
        return table.numbers("duration_s")
    return pl.repeat(None, table.cells.height, dtype=pl.Float64(), eager=True)


def _channel(table: TextTable) -> pl.Series:
    rule = (
        f"channels are counted from 1 to {MAX_CHANNELS} (of two, 1 is left and 2 is right). For another meaning, list"
        " the column in `labels` or `factors`"
    )
    try:
        values = table.numbers(CHANNEL)
    except CorpusError as error:
        raise CorpusError(f"{error}; {rule}") from error
    wrong = (~(values.round() == values) | (values < 1) | (values > MAX_CHANNELS)).fill_null(False).arg_true()
    if len(wrong):
        value, place = values[wrong[0]], table.place(int(wrong[0]))
        raise CorpusError(f"{table.name}: {CHANNEL} is {value:g} {place}; {rule}")
    return values.cast(pl.Int64())


def _split(table: TextTable) -> pl.Series:
    if "split" not in table.cells.columns:
        return pl.repeat(None, table.cells.height, dtype=pl.String(), eager=True)
    written = table.cells["split"].str.to_lowercase()
    if len(both := [word for word in ("test", "eval", "evaluation") if word in written]) > 1:
        raise SplitError(
            f"{table.name}: split is {' and '.join(both)}; write valid for one of them, test for the other"
        )
    splits = written.replace(SPLIT_ALIASES)
    wrong = (~splits.is_in(SPLITS)).fill_null(False).arg_true()
    if len(wrong):
        value, place = table.cells["split"][wrong[0]], table.place(int(wrong[0]))
        raise SplitError(f"{table.name}: split is {quote(value)} {place}; {suggest(value, SPLITS)}")
    return splits


DRIVE = re.compile(r"[A-Za-z]:[\\/]|\\\\")
"""Start of an absolute path of Windows: a drive letter, or a server."""


class MatchedPaths(NamedTuple):
    """Path on disk of each written path, relative to the root; reasons of those that name no file of this computer."""

    on_disk: dict[str, str]
    unusable: dict[str, str]


def match_paths(written: Iterable[str], root: Path) -> MatchedPaths:
    r"""Return the relative path, with forward slashes, of each path in a table.

    An absolute path within `root` becomes relative. `sub\a.wav` matches `sub/a.wav`, and composed accents match
    decomposed ones, if the path as written does not exist. A missing file keeps its path. Raises `CorpusError` for a
    path outside `root`.
    """
    on_disk: dict[str, str] = {}
    unusable: dict[str, str] = {}
    composed: dict[str, str] | None = None
    for path in dict.fromkeys(written):
        if not is_clean(path):
            unusable[path] = "its path contains a control character"
            continue
        if os.sep == "/" and DRIVE.match(path) and not os.path.lexists(root / path):
            unusable[path] = "an absolute path of a Windows computer; write paths relative to `root`"
            continue
        if re.match(r"[A-Za-z][\w+.-]+://", path):
            unusable[path] = "an address; download the file, and write its path"
            continue
        relative = _relative(path, root)
        if not os.path.lexists(root / relative) and "\\" in path:
            relative = _relative(path.replace("\\", "/"), root)
        if not relative.isascii() and not os.path.lexists(root / relative):
            composed = _composed_names(root) if composed is None else composed
            relative = composed.get(unicodedata.normalize("NFC", relative), relative)
        on_disk[path] = relative
    return MatchedPaths(on_disk, unusable)


def _relative(path: str, root: Path) -> str:
    """Return a path relative to root with forward slashes; raise `CorpusError` if it is outside root."""
    relative = os.path.normpath(path)
    if Path(path).is_absolute():
        relative = os.path.relpath(path, root)
        if relative.startswith(os.pardir):  # the root, or the path, is spelled with a link
            relative = os.path.relpath(os.path.realpath(path), os.path.realpath(root))
    relative = relative.replace(os.sep, "/")
    if relative.startswith("../") or relative == "..":
        raise CorpusError(
            f"{quote(path)} is outside the root {root}; set `root` to a folder that contains every recording"
        )
    return relative


def _composed_names(root: Path) -> dict[str, str]:
    """Return the relative path of every file whose name is not ASCII, by its form with composed accents."""
    names: dict[str, str] = {}
    for folder, _, files in os.walk(root, followlinks=True):
        for name in files:
            relative = (Path(folder) / name).relative_to(root).as_posix()
            if not relative.isascii():
                names[unicodedata.normalize("NFC", relative)] = relative
    return names
