"""Tables in files: Parquet, and the CSV files that people and their tools write.

Polars expands `*`, `?` and `[` in paths, so every table of the package is read through this module.
"""

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from otoscope.errors import CorpusError
from otoscope.formatting import count, first_few, is_clean, one_line
from otoscope.paths import open_regular
from otoscope.text_table import NUMBER, TextTable

MISSING = frozenset([
    "", "NA", "N/A", "n/a", "N.A.", "n.a.", "#N/A", "<NA>", "NaN", "nan", "-nan", "NULL", "null", "None", "#NUM!",
    "#DIV/0!", "#VALUE!",
])  # fmt: skip
"""Cells that mean a missing value: those that people, pandas, R and spreadsheets write."""

SIGNS_OF_MISSING = ("-", "--", "\u2013", "\u2014", "?")
"""Signs that mean a missing value where they are the only sign of their column: `-` beside `+` is a value."""

MAX_COLUMNS = 10_000
"""Largest number of columns of a user's table."""

MAX_NAME = 200
"""Longest name of a column, in characters."""

MAX_TABLE_MB = 500
"""Largest CSV file; larger tables are read from Parquet."""

USUAL_SEPARATORS = {".csv": ",", ".tsv": "\t", ".tab": "\t", ".txt": "\t"}
"""Separator that a file's extension stands for; the header may show another."""

PARQUET_SUFFIXES = (".parquet", ".pq")

_SIGNATURES = (
    (b"PK\x03\x04", "an Excel workbook or another zip archive; save the sheet as CSV"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook; save the sheet as CSV"),
    (b"\x1f\x8b", "compressed with gzip; unpack it"),
    (b"%PDF", "a PDF"),
)

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def read_parquet(path: Path) -> pl.DataFrame:
    """Read one Parquet file; the path is literal. Raises `OSError` or `polars.exceptions.PolarsError`.

    PyArrow decodes: a damaged file is an exception there, in Polars often a panic that prints a trace of its own.
    """
    from pyarrow import ArrowException, parquet  # here: a run that is up to date reads no table

    try:
        with open_regular(path) as file, parquet.ParquetFile(file, page_checksum_verification=True) as content:
            table = content.read()
            _read_names(table.schema)
            table.validate(full=True)
        converted = pl.from_arrow(table)
    except (ArrowException, ValueError, OverflowError, pl.exceptions.PanicException) as error:
        raise pl.exceptions.ComputeError(f"{path} is damaged ({one_line(error, 300)})") from None
    return converted if isinstance(converted, pl.DataFrame) else converted.to_frame()


def _read_names(fields: Iterable[Any]) -> None:
    """Raise `UnicodeDecodeError` if the name of a column or of its parts is not UTF-8, at which Polars panics."""
    for field in fields:
        _ = field.name
        _read_names(field.type.field(part) for part in range(field.type.num_fields))


def scan_parquet(path: str | Path) -> pl.LazyFrame:
    """Return a lazy table of one Parquet file; the path is literal."""
    return pl.scan_parquet(path, glob=False, hive_partitioning=False)


_FORMULA = r"^[=+\-@\t\r\uFF1D\uFF0B\uFF0D\uFF20]"


def format_csv(table: pl.DataFrame) -> str:
    """Return a table as CSV; a text that a spreadsheet would run as a formula begins with an apostrophe.

    >>> format_csv(pl.DataFrame({"label": ["=1+1", "-0.5", "a"]})).split()
    ['label', "'=1+1", '-0.5', 'a']
    """
    texts = pl.col(pl.String)
    formula = texts.str.contains(_FORMULA) & ~texts.str.contains(NUMBER)
    safe = table.with_columns(pl.when(formula).then("'" + texts).otherwise(texts).name.keep())
    return safe.rename(lambda name: f"'{name}" if re.match(_FORMULA, name) else name).write_csv()


def read_text_table(path: Path) -> TextTable:
    """Read a user's table from Parquet, or from CSV in any usual encoding, separator and spelling of missing values.

    UTF-8, UTF-16 with or without a mark, and Windows-1252 are recognised, and the separators `, ; | tab`. Blank rows
    and columns are dropped, and a column of row numbers, as pandas writes it. Raises `CorpusError` with the line for a
    row with too many or too few fields, and for headers that are repeated, too long or too many.
    """
    try:
        with open_regular(path) as file:
            start = file.read(8)
        if start.startswith(b"PAR1") or path.suffix.lower() in PARQUET_SUFFIXES:
            return _from_parquet(path)
        for signature, kind in _SIGNATURES:
            if start.startswith(signature):
                raise CorpusError(f"{path} is {kind}")
        if path.stat().st_size > MAX_TABLE_MB * 1_000_000:
            raise CorpusError(f"{path} is larger than {MAX_TABLE_MB} MB; save it as Parquet")
        data = path.read_bytes()
    except (OSError, pl.exceptions.PolarsError) as error:
        raise CorpusError(f"{path} cannot be read ({one_line(error, 300)})") from error
    text, notes = decode_text(data, path)
    return _from_csv(text, path, notes)


def _from_parquet(path: Path) -> TextTable:
    table = read_parquet(path)
    _check_header(table.columns, path)
    others = (pl.Binary, pl.Object, pl.Duration)
    nested = [name for name, dtype in table.schema.items() if dtype.is_nested() or isinstance(dtype, others)]
    if nested:
        raise CorpusError(f"{path}: the column {nested[0]!r} is no plain column ({table.schema[nested[0]]}); remove it")
    texts = table.cast(pl.String())
    cells = texts.with_columns(pl.all().str.strip_chars())
    padded = {name: int((texts[name] != cells[name]).sum()) for name in texts.columns}
    filled = {name: int((cells[name] != "").sum()) for name in texts.columns}
    cells = cells.with_columns(pl.when(pl.all().is_in(list(MISSING))).then(None).otherwise(pl.all()).name.keep())
    notes, cells = _blanks_note(path.name, padded, filled), _without_signs(cells)
    return _without_row_numbers(TextTable(path.name, cells, [], notes=notes), dict.fromkeys(cells.columns))


def _without_signs(cells: pl.DataFrame) -> pl.DataFrame:
    """Return a table with null for signs of a missing value."""
    signs = {name: cells[name].filter(cells[name].str.contains(r"^[^\pL\pN]+$")).unique() for name in cells.columns}
    lone = [name for name, found in signs.items() if len(found) == 1 and found[0] in SIGNS_OF_MISSING]
    return cells.with_columns(pl.when(pl.col(c).is_in(SIGNS_OF_MISSING)).then(None).otherwise(c).alias(c) for c in lone)


def _padded(header: list[str], fields: list[str], cells: list[str]) -> list[str]:
    """Return the columns of a row whose values have blanks around them."""
    if fields == cells:
        return []
    each = zip(header, fields, cells, strict=False)
    return [name for name, field, cell in each if field and field != cell]


def _blanks_note(table: str, padded: Mapping[str, int], filled: Mapping[str, int]) -> tuple[str, ...]:
    """Return a note on columns in which some values, but not all, had blanks around them, which were removed."""
    columns = {name: values for name, values in padded.items() if 0 < values < filled[name]}
    if not columns:
        return ()
    removed = count(sum(columns.values()), "value")
    return (f"{table}: blanks around {removed} removed (in {first_few(columns, 5)})",)


def decode_text(data: bytes, path: Path) -> tuple[str, tuple[str, ...]]:
    """Return the text of a file, and a note on an encoding other than UTF-8.

    Raises `CorpusError` for bytes that are no text, and for NUL characters.
    """
    encoding = next((name for mark, name in _BOMS if data.startswith(mark)), None)
    if encoding is None and b"\0" in data[:1000]:
        encoding = "utf-16-le" if data[1:1000:2].count(0) > data[:1000:2].count(0) else "utf-16-be"
    try:
        text = data.decode(encoding or "utf-8")
        notes = () if encoding in (None, "utf-8") else (f"{path.name} is read as {encoding.upper()}",)
    except UnicodeDecodeError as error:
        if encoding is not None:
            raise CorpusError(
                f"{path} is not valid {encoding.upper()} (byte {error.start}); save it as UTF-8"
            ) from error
        line = data.count(b"\n", 0, error.start) + 1
        try:
            text = data.decode("cp1252")
        except UnicodeDecodeError:
            raise CorpusError(
                f"{path}: line {line} is neither UTF-8 nor Windows-1252 (byte 0x{data[error.start]:02x}); save it"
                " as UTF-8"
            ) from error
        notes = (f"{path.name} is not UTF-8 (line {line}): read as Windows-1252 (Latin-1); check accented letters",)
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise CorpusError(f"{path}: line {line} contains a NUL character; save it as UTF-8 text")
    return text.lstrip("\ufeff"), notes


def _from_csv(text: str, path: Path, notes: tuple[str, ...]) -> TextTable:
    skipped = 0
    stated = re.match(r"sep=(.)\r?\n", text)  # Excel's first line
    if stated:
        text, skipped = text[stated.end() :], 1
    usual = USUAL_SEPARATORS.get(path.suffix.lower(), ",")
    separator = stated[1] if stated else _separator(text, usual)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    columns: list[list[str | None]] = []
    padded = Counter[str]()
    header: list[str] = []
    lines: list[int] = []
    try:
        for row in reader:
            fields = [field.strip() for field in row]
            if not any(fields):
                continue
            line = reader.line_num + skipped
            if not header:
                header = fields
                _check_header([name for name in header if name], path)
                columns = [[] for _ in header]
                continue
            if len(fields) != len(header):
                fields = _fitted(fields, header, separator=separator, where=f"{path}: line {line}")
            for column, field in zip(columns, fields, strict=True):
                column.append(None if field in MISSING else field)
            padded.update(_padded(header, fields, row))
            lines.append(line)
    except csv.Error as error:
        raise CorpusError(f"{path}: line {reader.line_num + skipped} is not valid CSV ({error})") from error
    if not header:
        raise CorpusError(f"{path} cannot be read: it holds no text")
    names = {name or f"\0{at}": name for at, name in enumerate(header)}
    cells = pl.DataFrame(dict(zip(names, columns, strict=True)), schema=dict.fromkeys(names, pl.String()))
    filled = {name: sum(cell is not None for cell in column) for name, column in zip(header, columns, strict=True)}
    blanks = _blanks_note(path.name, padded, filled)
    cells = _without_signs(cells)
    table = _without_row_numbers(TextTable(path.name, cells, lines, separator, (*notes, *blanks)), names)
    if separator != usual and path.suffix.lower() != ".txt":
        spelled = {"\t": "tab"}
        note = f"{path.name} is read with the separator {spelled.get(separator, separator)}"
        table = replace(table, notes=(*table.notes, f"{note}, not {spelled.get(usual, usual)}"))
    return table


def _separator(text: str, usual: str) -> str:
    """Return the character that splits the header into most fields; the usual one if several do."""
    header = next((line for line in io.StringIO(text) if line.strip()), "")
    unquoted = re.sub(r'"[^"]*"', "", header)
    return max((usual, ",", ";", "\t", "|"), key=unquoted.count)


def _fitted(fields: list[str], header: list[str], *, separator: str, where: str) -> list[str]:
    """Return a row without surplus empty fields; raise `CorpusError` if values are left over or missing."""
    if not any(fields[len(header) :]) and len(fields) > len(header):
        return fields[: len(header)]
    mark = "tab" if separator == "\t" else separator
    hint = f"quote a value that contains '{mark}'" if len(fields) > len(header) else "leave missing values empty"
    raise CorpusError(f"{where} has {len(fields)} fields, the header has {len(header)} (separator '{mark}'); {hint}")


def _check_header(names: Sequence[str], path: Path) -> None:
    if len(names) > MAX_COLUMNS:
        raise CorpusError(f"{path} has {len(names):,} columns; at most {MAX_COLUMNS:,} are read")
    for name in names:
        if len(name) > MAX_NAME:
            raise CorpusError(f"{path}: a column's name has {len(name):,} characters; at most {MAX_NAME} are allowed")
        if not is_clean(name):
            raise CorpusError(f"{path}: the column's name {name!r} contains a control character; rename it")
    repeated = [name for name, times in Counter(map(str.strip, names)).items() if times > 1]
    if repeated:
        raise CorpusError(f"{path}: the column {repeated[0]!r} occurs {names.count(repeated[0])} times; rename one")


_ROW_NUMBERS = r"Unnamed: \d+|__index_level_\d+__|index|level_0|"


def _without_row_numbers(table: TextTable, names: Mapping[str, str | None]) -> TextTable:
    """Return a table without columns of row numbers and columns without a name; notes name them."""
    dropped: list[str] = []
    notes: list[str] = []
    for at, column in enumerate(table.cells.columns):
        name = names[column] if names[column] is not None else column
        if not re.fullmatch(_ROW_NUMBERS, name or ""):
            continue
        values = table.cells[column]
        shown = f"column {at + 1}" + (f" ({name})" if name else ", which has no name,")
        if values.null_count() == len(values) and not name:
            dropped.append(column)  # a separator at the end of every line
        elif not values.null_count() and values.str.contains(r"^\d+$").all() and values.is_unique().all():
            dropped.append(column)
            notes.append(f"{table.name}: {shown} holds row numbers and is not used")
        elif not name:
            dropped.append(column)
            notes.append(f"{table.name}: {shown} is not used")
    return replace(table, cells=table.cells.drop(dropped), notes=(*table.notes, *notes))
