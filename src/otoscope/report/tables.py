"""Tables behind the charts: shown rounded, downloadable to the last digit."""

import gzip
from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import polars as pl

from otoscope.factors.readable_names import readable_name
from otoscope.formatting import count, decimal, known, sparsity
from otoscope.metrics.audit import smallest_difference
from otoscope.metrics.registry import METRICS
from otoscope.resampling.intervals import MIN_GROUPS
from otoscope.tables import format_csv

COLUMNS = (
    "n: number of clips, frames, factors, levels or dictionaries behind a value; null: the same fit with permuted "
    "targets, its mean and its upper end; p: share of permutations with a value as large, of factors "
    "anywhere in the family. A null with an upper end of 1 and no mean: too few clips or groups to permute."
)
"""Explanation of columns whose names do not explain themselves."""


def metric_notes(rows: pl.DataFrame) -> str:
    """Return the descriptions of a table's metrics; empty for a table without that column.

    >>> metric_notes(pl.DataFrame({"metric": ["cosine"], "n": [3]})).split(": ", 1)[0]
    'cosine'
    """
    if "metric" not in rows.columns:
        return ""
    names = [name for name in rows["metric"].unique(maintain_order=True) if name in METRICS]
    each = [f"{name}: {METRICS[name].description}{_beyond_seeds(name)}" for name in names]
    return f"{'; '.join(each)}. {COLUMNS}" if "n" in rows.columns else f"{'; '.join(each)}."


def _beyond_seeds(metric: str) -> str:
    """Return the smallest difference that the variation over seeds does not explain, in brackets."""
    least = smallest_difference(metric)
    return f" (smallest difference beyond seeds, on synthetic data: {least:.2g})" if least > 0 else ""


def seed_sentence(metric: str, name: str) -> str:
    """Return the smallest difference of an audited score as a sentence; empty without an audit.

    >>> seed_sentence("card_auroc", "AUROC").rpartition(" ")[0]
    'AUROC differs between seeds of synthetic dictionaries by up to'
    """
    least = smallest_difference(metric)
    return f"{name} differs between seeds of synthetic dictionaries by up to {least:.2g}." if least > 0 else ""


TITLES: dict[str, str] = {
    "k": "k",
    "low": "interval from",
    "high": "interval to",
    "null_mean": "null, mean",
    "null_high": "null, upper end",
    "p_value": "p",
    "sae_id": "dictionary",
}
RESULT_COLUMNS = (
    *(
        "target",
        "layer",
        "representation",
        "pooling",
        "preset",
        "sparsity",
        "latents",
        "k",
        "dimensions",
        "seed",
        "reader",
    ),
    *("metric", "value"),
    *("low", "high", "null_mean", "null_high", "p_value", "n", "groups"),
)
SETTINGS = ("layer", "pooling", "preset", "sparsity", "latents", "k", "seed", "reader", "groups")
"""Columns that describe a number; a constant column is stated once above the table."""
NAMES_OF_FACTORS = ("factor", "target")
"""Columns whose texts may be names of factors; they are shown in words, the download keeps the original."""
LONG_TEXT = 11
"""Minimum length of texts, in characters, for a wider column."""
MAX_ROWS = 300
"""Maximum number of rows shown; the download holds all rows."""


class Column(NamedTuple):
    """Heading of a column; `kind` is "number" (right-aligned), "long" (wider) or empty."""

    title: str
    kind: str


class Cell(NamedTuple):
    """Text of a cell, the exact value of a number, and the original of a name that is shown in words."""

    text: str
    exact: str | None = None
    original: str = ""


class Table(NamedTuple):
    """A table as a template renders it."""

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]


class SettingsTable(NamedTuple):
    """Settings and their values as text."""

    caption: str
    rows: Sequence[tuple[str, str]]


LARGEST_PLAIN = 100_000
"""Bytes up to which a table is in the page as it is."""


class Download(NamedTuple):
    """A link with a whole table as CSV in it."""

    href: str
    name: str
    text: str


class FoldedTable(NamedTuple):
    """A table that opens on a click, with notes and its download."""

    title: str
    size: str
    notes: Sequence[str]
    download: Download
    table: Table


class TextAndTable(NamedTuple):
    """Paragraphs and a table below them."""

    paragraphs: Sequence[str]
    table: Table


def csv_download(rows: pl.DataFrame, name: str, text: str = "Download as CSV") -> Download:
    """Return a download link with the whole table as CSV, floats in full precision.

    A large one is packed to a tenth of its size. The page unpacks it on a click; without scripts, it is saved as it is.
    """
    data, kind, ending = format_csv(rows).encode(), "text/csv;charset=utf-8", ""
    if len(data) > LARGEST_PLAIN:
        data, kind, ending = gzip.compress(data, mtime=0), "application/gzip", ".gz"
    return Download(f"data:{kind};base64,{b64encode(data).decode()}", f"{name}.csv{ending}", text)


def folded(title: str, rows: pl.DataFrame, name: str, *, digits: int = 3) -> FoldedTable | None:
    """Return a table that opens on a click, with its download; None without rows.

    A column of settings with one value is stated above the table, so that the numbers need no scrolling;
    the download has every column.
    """
    if rows.is_empty():
        return None
    notes: list[str] = []
    if rows.height > MAX_ROWS:
        notes.append(f"The first {MAX_ROWS} of {rows.height:,} rows are shown; the download holds all.")
    notes.append(metric_notes(rows))
    constant = _constant(rows)
    every = "; ".join(f"{TITLES.get(c, c)} {_spelled(c, value)}" for c, value in constant.items())
    notes.append(f"Same in all rows: {every}." if every else "")
    kept = without_few_groups(rows.head(MAX_ROWS))
    if not kept.equals(rows.head(MAX_ROWS), null_equal=True):
        notes.append(f"Intervals over fewer than {MIN_GROUPS} groups are not shown; the download holds them.")
    shown = table(kept.drop(list(constant)), caption=title, digits=digits)
    download = csv_download(rows, name)
    return FoldedTable(title, count(rows.height, "row"), [note for note in notes if note], download, shown)


def without_few_groups(rows: pl.DataFrame) -> pl.DataFrame:
    """Return rows without the intervals that rest on too few groups, as in the text."""
    ends = [name for name in ("low", "high") if name in rows.columns]
    if not ends or "groups" not in rows.columns:
        return rows
    few = (pl.col("groups") < MIN_GROUPS).fill_null(value=False)
    return rows.with_columns(pl.when(~few).then(pl.col(ends)))


def _constant(rows: pl.DataFrame) -> dict[str, Any]:
    """Return the columns of settings that have the same value in all rows, where they have one."""
    if rows.height < 2 or "metric" not in rows.columns:
        return {}
    found = {c: rows[c].drop_nulls().unique().to_list() for c in SETTINGS if c in rows.columns}
    return {c: values[0] for c, values in found.items() if len(values) == 1}


def _spelled(column: str, value: Any) -> str:
    return sparsity(value) if column == "sparsity" else str(value)


def table(rows: pl.DataFrame, *, caption: str, digits: int = 3) -> Table:
    """Return a table with rounded numbers that keep their exact values."""
    columns = [Column(TITLES.get(c, c.replace("_", " ")), _class(rows[c])) for c in rows.columns]
    cells = [[_cell(row[c], c, digits) for c in rows.columns] for row in rows.rows(named=True)]
    return Table(caption, columns, cells)


def _class(column: pl.Series) -> str:
    if column.dtype.is_numeric():
        return "number"
    return "long" if max((len(str(v)) for v in column), default=0) > LONG_TEXT else ""


def _cell(value: Any, column: str, digits: int) -> Cell:
    if isinstance(value, float):
        text = sparsity(value) if column == "sparsity" else decimal(value, digits)
        return Cell(text, repr(value)) if known(value) else Cell("–")
    if isinstance(value, int) and not isinstance(value, bool):
        return Cell(str(value), str(value))
    if column in NAMES_OF_FACTORS and isinstance(value, str) and (name := readable_name(value)) != value:
        return Cell(name, original=value)
    return Cell("–" if value is None else str(value))


def result_rows(rows: pl.DataFrame) -> pl.DataFrame:
    """Keep the columns that a reader needs; drop empty ones, and preset and seed if there is only one."""
    kept = [c for c in RESULT_COLUMNS if not _empty(rows[c])]
    single = [c for c in ("preset", "seed") if rows[c].drop_nulls().n_unique() < 2]
    return rows.select([c for c in kept if c not in single])


def _empty(column: pl.Series) -> bool:
    if column.dtype.is_float():
        return column.fill_nan(None).is_null().all()
    return column.is_null().all() or (column.dtype == pl.String and (column.fill_null("") == "").all())


def settings(values: Mapping[str, Any], *, caption: str) -> SettingsTable:
    """Return a two-column table of settings, nested ones under dotted names."""
    return SettingsTable(caption, [(key, spelled(value)) for key, value in flattened(values).items()])


def flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings as one level with dotted names.

    >>> flattened({"sae": {"k": 3, "decay": {"from": 0.8}}})
    {'sae.k': 3, 'sae.decay.from': 0.8}
    """
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat.update(flattened(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def spelled(value: Any) -> str:
    """Return a setting as text: yes and no, a dash for None, six digits of a number.

    >>> spelled(True), spelled(None), spelled([1, 2]), spelled(0.005656854249)
    ('yes', '–', '1, 2', '0.00565685')
    """
    if value is None or value in ({}, []):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ", ".join(spelled(v) for v in value)
    return str(value)
