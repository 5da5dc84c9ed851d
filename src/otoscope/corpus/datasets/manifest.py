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
from otoscope.formatting import is_clean, printable
from otoscope.tables import PARQUET_SUFFIXES, TextTable, read_text_table

SPLIT_ALIASES = {"training": "train", "val": "valid", "validation": "valid", "dev": "valid", "testing": "test"}
"""Accepted synonyms of split names."""


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
        if missing := cells[group].null_count():
            row = int(cells[group].is_null().arg_true()[0])
            raise CorpusError(f"{self.table.name}: {missing} rows have no {group}, the first {table.place(row)}")
        columns = self._columns_by_meaning(table, group)
        paths = match_paths(cells["path"], root)
        _check_times(table)
        start_s = table.numbers("start_s") if "start_s" in cells.columns else pl.repeat(0.0, cells.height, eager=True)
        clips = pl.DataFrame(
            {
                "path": cells["path"].replace(paths.on_disk),
                "start_s": start_s.fill_null(0.0),
                "duration_s": _duration(table, start_s.fill_null(0.0)),
                "group": cells["path"].replace(paths.on_disk) if group == "path" else cells[group],
                "split": _split(table),
                **({"channel": _channel(table)} if CHANNEL in columns.reserved else {}),
                **{f"label_{name}": cells[column] for name, column in columns.labels.items()},
                **{f"factor_{name}": table.numbers(column) for name, column in columns.factors.items()},
            },
            schema_overrides=LISTING_COLUMNS,
        )
        usable = ~cells["path"].is_in(list(paths.unusable))
        chosen = clips["path"].map_elements(self.is_chosen, return_dtype=pl.Boolean())
        self.require_chosen(int(chosen.sum()), of=clips.height)
        return Listing(
            self.table.stem,
            root,
            self.licence,
            self.citation,
            clips.filter(usable & chosen),
            set_aside_table((printable(path), reason) for path, reason in paths.unusable.items()),
            group_source="each file" if group == "path" else f"column {group}",
            notes=(*table.notes, *columns.notes),
        )

    def _read(self) -> TextTable:
        """Return the manifest with every column as text, so that a label `01` is unchanged."""
        if self.table.suffix.lower() not in (".csv", ".tsv", ".txt", ".tab", *PARQUET_SUFFIXES):
            raise CorpusError(f"a manifest must be .csv, .tsv, .txt or .parquet; got {self.table.name}")
        if not self.table.is_file():
            raise CorpusError(f"no manifest {self.table}")
        table = read_text_table(self.table)
        self._column(table.cells, "path")
        if missing := table.cells["path"].null_count() or table.cells.is_empty():
            row = table.cells["path"].is_null().arg_true()
            where = f", the first {table.place(int(row[0]))}" if len(row) else ""
            raise CorpusError(f"{self.table.name}: {missing if len(row) else 'all'} rows have no path{where}")
        return table

    def _column(self, table: pl.DataFrame, name: str) -> str:
        if name not in table.columns:
            raise CorpusError(f"{self.table.name} has no column {quote(name)}; {suggest(name, table.columns)}")
        return name

    def _columns_by_meaning(self, table: TextTable, group: str) -> "_Columns":
        """Return the labels and factors by name, with their columns; raise `CorpusError` if two have one name."""
        cells = table.cells
        own = (*(self.labels or ()), *(self.factors or ()))
        reserved = {*LISTING_COLUMNS, "end_s", group}
        if CHANNEL in cells.columns and CHANNEL not in own and table.is_numeric(CHANNEL):
            reserved.add(CHANNEL)
        other = [c for c in cells.columns if c not in reserved and not c.startswith(("label_", "factor_"))]
        notes: list[str] = []
        if self.labels is None and self.factors is None:
            self._refuse_times(table, other, "would be factors, and whole files would be used")
            empty = [c for c in other if cells[c].null_count() == cells.height]
            numeric = {c: table.is_numeric(c) for c in other if c not in empty}
            labels, factors = ([c for c, is_factor in numeric.items() if is_factor == which] for which in (False, True))
            notes += [note for c in labels if (note := self._mostly_numbers(table, c))]
            unused, why = empty, "hold no value"
        else:
            labels, factors = ([self._column(cells, c) for c in named or ()] for named in (self.labels, self.factors))
            unused, why = [c for c in other if c not in (*labels, *factors)], "are not used"
            if not {"start_s", "end_s", "duration_s"} & set(cells.columns):
                self._refuse_times(table, unused, "would be ignored, and whole files would be used")
        if unused:
            listed = ", ".join(unused[:8]) + (", ..." if len(unused) > 8 else "")
            notes.append(f"{self.table.name}: {len(unused)} columns {why} ({listed})")
        if commas := table.decimal_commas():
            notes.append(f"{self.table.name}: decimal commas in {', '.join(commas[:5])} are read as points")
        named = (self._by_name(cells, labels, "label_"), self._by_name(cells, factors, "factor_"))
        return _Columns(*named, notes, reserved)

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
        times = [c for c in columns if _plain(c) in SEGMENT_TIMES and table.is_numeric(c)]
        if times:
            raise CorpusError(
                f"{self.table.name}: {' and '.join(times)} {problem}. For the segment of a row, name the"
                " columns start_s and end_s (or duration_s), in seconds; for factors, list them in `factors`"
            )

    def _mostly_numbers(self, table: TextTable, column: str) -> str | None:
        """Return a note on a label of which few values are no numbers."""
        values = table.cells[column]
        is_number = values.str.contains(r"^[+-]?[\d.,]+$")
        wrong = (~is_number).fill_null(False).arg_true()
        if not 0 < len(wrong) <= 0.1 * (len(values) - values.null_count()):
            return None
        row = int(wrong[0])
        return (
            f"warning: {column} is a label and no factor: {len(wrong)} of its values are no numbers, such as"
            f" {quote(values[row])} {table.place(row)}"
        )


_TIME_WORDS = ("start", "end", "begin", "stop", "onset", "offset", "tmin", "tmax")
_UNITS = ("", "time", "sec", "second", "ms", "sample", "samp", "frame")
SEGMENT_TIMES = frozenset(f"{word}{unit}".removesuffix("s") for word in _TIME_WORDS for unit in _UNITS)
"""Names of columns, as `_plain` returns them, that mean the ends of a segment in unknown units."""


def _plain(name: str) -> str:
    """Return the letters of a name in lower case, without a unit of one letter and a plural.

    >>> _plain("Begin Time (s)"), _plain("start")
    ('begintime', 'start')
    """
    return "".join(re.findall(r"[a-z]{2,}", name.lower())).removesuffix("s")


class _Columns(NamedTuple):
    """Columns of labels and factors by name, notes on the others, and columns with a meaning of their own."""

    labels: Mapping[str, str]
    factors: Mapping[str, str]
    notes: list[str]
    reserved: set[str]


CHANNEL = "channel"
"""Column with the channel of a clip, counted from 1, if it is numeric and not listed as a label or factor."""


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


def _duration(table: TextTable, start_s: pl.Series) -> pl.Series:
    if "duration_s" in table.cells.columns and "end_s" in table.cells.columns:
        raise CorpusError("a manifest has duration_s or end_s, not both")
    if "end_s" in table.cells.columns:
        return table.numbers("end_s") - start_s
    if "duration_s" in table.cells.columns:
        return table.numbers("duration_s")
    return pl.repeat(None, table.cells.height, dtype=pl.Float64(), eager=True)


def _channel(table: TextTable) -> pl.Series:
    values = table.numbers(CHANNEL)
    wrong = (~(values.round() == values) | (values < 1) | (values > MAX_CHANNELS)).fill_null(False).arg_true()
    if len(wrong):
        value, place = values[wrong[0]], table.place(int(wrong[0]))
        raise CorpusError(
            f"{table.name}: {CHANNEL} is {value:g} {place}; channels are counted from 1 to {MAX_CHANNELS}."
            " For another meaning, list it in `labels` or `factors`"
        )
    return values.cast(pl.Int64())


def _split(table: TextTable) -> pl.Series:
    if "split" not in table.cells.columns:
        return pl.repeat(None, table.cells.height, dtype=pl.String(), eager=True)
    for value in table.cells["split"].drop_nulls().unique().sort():
        if SPLIT_ALIASES.get(value.lower(), value.lower()) not in SPLITS:
            raise SplitError(f"a split is one of {', '.join(SPLITS)}; got {quote(value)} ({suggest(value, SPLITS)})")
    return table.cells["split"].str.to_lowercase().replace(SPLIT_ALIASES)


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
