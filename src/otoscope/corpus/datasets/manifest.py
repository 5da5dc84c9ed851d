"""A table of recordings: CSV, TSV or Parquet with a `path` column, labels and factors."""

import os
from pathlib import Path
from typing import Literal

import polars as pl
from pydantic import Field

from otoscope.corpus.listing import LISTING_COLUMNS, CorpusSpec, Listing, ProgressCallback, UserPath
from otoscope.corpus.table import SPLITS
from otoscope.errors import CorpusError, SplitError, suggest

SPLIT_ALIASES = {"training": "train", "val": "valid", "validation": "valid", "dev": "valid", "testing": "test"}
"""Accepted synonyms of split names."""


class ManifestCorpus(CorpusSpec, frozen=True, extra="forbid"):
    """Clips named by the rows of a CSV, TSV or Parquet file.

    Columns: `path`; optionally `start_s`, `duration_s` or `end_s`, a group, `split`, and columns that begin with
    `label_` or `factor_`. `labels` and `factors` name further columns; if neither is set, every numeric column becomes
    a factor and every other column a label.
    """

    kind: Literal["manifest"] = "manifest"
    table: UserPath = Field(description="CSV, TSV or Parquet file with one row per clip")
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
        root = self.root or self.table.parent
        if not root.is_dir():
            raise CorpusError(f"the corpus folder {root} does not exist; set `root` to the folder of the recordings")
        group = self._column(table, self.group) if self.group else ("group" if "group" in table.columns else "path")
        clips = table.select(
            path=pl.col("path").map_elements(lambda path: _relative(path, root), return_dtype=pl.String()),
            start_s=_numbers(table, "start_s").fill_null(0.0) if "start_s" in table.columns else pl.lit(0.0),
            duration_s=_duration(table),
            group=pl.col(group),
            split=_split(table),
        )
        if clips["group"].null_count():
            raise CorpusError(f"{self.table.name}: {clips['group'].null_count()} rows have no {group}")
        extra = [*self._labels(table, group), *self._factors(table, group)]
        clips = clips.with_columns(table.select(extra)) if extra else clips
        return Listing(self.table.stem, root, self.licence, self.citation, clips)

    def _read(self) -> pl.DataFrame:
        """Return the manifest with every column as text, so that a label `01` is unchanged."""
        suffix = self.table.suffix.lower()
        if suffix not in (".csv", ".tsv", ".parquet"):
            raise CorpusError(f"a manifest must be .csv, .tsv or .parquet; got {self.table.name}")
        try:
            if suffix == ".parquet":
                table = pl.read_parquet(self.table)
            else:
                table = pl.read_csv(self.table, infer_schema=False, separator="\t" if suffix == ".tsv" else ",")
            table = table.cast(pl.String())
        except FileNotFoundError as error:
            raise CorpusError(f"no manifest {self.table}") from error
        except (pl.exceptions.PolarsError, OSError) as error:
            raise CorpusError(f"the manifest {self.table} cannot be read ({error})") from error
        self._column(table, "path")
        if table.is_empty() or table["path"].null_count():
            raise CorpusError(f"{self.table.name}: {table['path'].null_count() or 'all'} rows have no path")
        return table

    def _column(self, table: pl.DataFrame, name: str) -> str:
        if name not in table.columns:
            raise CorpusError(f"{self.table.name} has no column {name!r}; {suggest(name, table.columns)}")
        return name

    def _other_columns(self, table: pl.DataFrame, group: str) -> list[str]:
        """Return non-empty columns without a predefined meaning."""
        reserved = {*LISTING_COLUMNS, "end_s", group}
        return [
            c
            for c in table.columns
            if c not in reserved and not c.startswith(("label_", "factor_")) and table[c].null_count() < table.height
        ]

    def _labels(self, table: pl.DataFrame, group: str) -> list[pl.Expr]:
        named = [self._column(table, name) for name in self.labels or ()]
        if self.labels is None and self.factors is None:
            named = [c for c in self._other_columns(table, group) if not _is_numeric(table[c])]
        prefixed = [c.removeprefix("label_") for c in table.columns if c.startswith("label_")]
        both = {name: name for name in named} | {name: f"label_{name}" for name in prefixed}
        return [pl.col(column).alias(f"label_{name}") for name, column in both.items()]

    def _factors(self, table: pl.DataFrame, group: str) -> list[pl.Expr]:
        named = [self._column(table, name) for name in self.factors or ()]
        if self.labels is None and self.factors is None:
            named = [c for c in self._other_columns(table, group) if _is_numeric(table[c])]
        prefixed = [c.removeprefix("factor_") for c in table.columns if c.startswith("factor_")]
        both = {name: name for name in named} | {name: f"factor_{name}" for name in prefixed}
        return [_numbers(table, column).alias(f"factor_{name}") for name, column in both.items()]


def _is_numeric(column: pl.Series) -> bool:
    return column.cast(pl.Float64(), strict=False).null_count() == column.null_count()


def _numbers(table: pl.DataFrame, name: str) -> pl.Expr:
    if not _is_numeric(table[name]):
        bad = table.filter(pl.col(name).cast(pl.Float64(), strict=False).is_null() & pl.col(name).is_not_null())
        raise CorpusError(f"the column {name!r} must hold numbers; got {bad[name][0]!r} for {bad['path'][0]}")
    return pl.col(name).cast(pl.Float64())


def _duration(table: pl.DataFrame) -> pl.Expr:
    if "duration_s" in table.columns and "end_s" in table.columns:
        raise CorpusError("a manifest has duration_s or end_s, not both")
    if "end_s" in table.columns:
        start_s = _numbers(table, "start_s").fill_null(0.0) if "start_s" in table.columns else pl.lit(0.0)
        return _numbers(table, "end_s") - start_s
    return _numbers(table, "duration_s") if "duration_s" in table.columns else pl.lit(None, dtype=pl.Float64())


def _split(table: pl.DataFrame) -> pl.Expr:
    if "split" not in table.columns:
        return pl.lit(None, dtype=pl.String())
    for value in table["split"].drop_nulls().unique().sort():
        if SPLIT_ALIASES.get(value.strip().lower(), value.strip().lower()) not in SPLITS:
            raise SplitError(f"a split is one of {', '.join(SPLITS)}; got {value!r} ({suggest(value, SPLITS)})")
    return pl.col("split").str.strip_chars().str.to_lowercase().replace(SPLIT_ALIASES)


def _relative(path: str, root: Path) -> str:
    """Return a path relative to root with forward slashes; raise `CorpusError` if it is outside root."""
    relative = os.path.relpath(path, root) if Path(path).is_absolute() else os.path.normpath(path)
    relative = relative.replace(os.sep, "/")
    if relative.startswith("../") or relative == "..":
        raise CorpusError(f"{path} is outside the root {root}; set `root` to a folder that contains every recording")
    return relative
