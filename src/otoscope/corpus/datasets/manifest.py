"""A table of recordings: CSV, TSV or Parquet with a `path` column, labels and factors."""

import os
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple

import polars as pl
from pydantic import Field

from otoscope.corpus.datasets.manifest_columns import CHANNEL, SPLIT_ALIASES, columns_by_meaning, require_column
from otoscope.corpus.listing import LISTING_COLUMNS, Listing, ProgressCallback, UserPath, set_aside_table
from otoscope.corpus.selection import MAX_CHANNELS, SelectableCorpus
from otoscope.corpus.table import SPLITS
from otoscope.errors import CorpusError, SplitError, quote, suggest
from otoscope.formatting import count, is_clean, printable
from otoscope.tables import PARQUET_SUFFIXES, read_text_table
from otoscope.text_table import TextTable


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
        group = require_column(table, self.group) if self.group else ("group" if "group" in cells.columns else "path")
        _require_values(table, group)
        columns = columns_by_meaning(table, group, labels=self.labels, factors=self.factors)
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
        require_column(table, "path")
        if table.cells.is_empty():
            raise CorpusError(f"{self.table.name} has a header and no rows")
        _require_values(table, "path")
        return table


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
