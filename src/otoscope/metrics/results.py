"""Results of a run as one long table, selected by column."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Protocol, TypedDict, Unpack, runtime_checkable

import polars as pl

from otoscope.artifacts import read_table
from otoscope.errors import ArtifactError, EvaluationError, suggest
from otoscope.metrics.record import SCHEMA
from otoscope.metrics.registry import METRICS
from otoscope.metrics.representation import REPRESENTATIONS
from otoscope.paths import user_path

RESULTS = "results.parquet"
"""File name of the results in a run folder."""

TOLERANCE = 1e-9
"""Two sparsities closer than this are equal."""

Row = dict[str, Any]
"""One row of the table by column."""


class Conditions(TypedDict, total=False):
    """Conditions of `ResultsTable.where`: one value, several values, or None for "empty"."""

    metric: str | Collection[str]
    target: str | Collection[str]
    representation: str | Collection[str]
    split: str | Collection[str]
    layer: int | Collection[int | None] | None
    pooling: str | Collection[str]
    preset: str | Collection[str | None] | None
    latents: int | Collection[int | None] | None
    k: int | Collection[int | None] | None
    dimensions: int | Collection[int | None] | None
    sparsity: float | Collection[float | None] | None
    seed: int | Collection[int | None] | None
    sae_id: str | Collection[str]
    protocol: str | Collection[str]
    encoder: str | Collection[str]


@runtime_checkable
class HasResults(Protocol):
    """A run folder or the summary of a run."""

    @property
    def results(self) -> Path | None:
        """Path of `results.parquet`; None where the run has not been evaluated."""
        ...


@dataclass(frozen=True)
class ResultsTable:
    """Results of a run: one row per number, with the columns of `otoscope.metrics.record.SCHEMA`.

    >>> from otoscope.metrics.record import Record, to_table
    >>> about = Record(metric="task_r2", value=0.5, split="test", representation="dense", layer=3, target="f0")
    >>> table = ResultsTable(to_table([about]))
    >>> table.where(metric="task_r2", layer=[2, 3]).values()
    [0.5]
    """

    rows: pl.DataFrame

    def where(self, **conditions: Unpack[Conditions]) -> "ResultsTable":
        """Return the rows that meet all conditions, in the order of the table.

        A condition is the value of a column, a collection of allowed values, or None for rows without a value.
        Raises `EvaluationError` for a column that does not exist, and for a metric or a representation that is neither
        defined nor in the table.
        """
        for column, defined in (("metric", METRICS), ("representation", REPRESENTATIONS)):
            for name in _entries(conditions.get(column)):
                if name not in defined and name not in (held := self.unique(column)):
                    raise EvaluationError(f"results have no {column} {name!r}; {suggest(name, held or defined)}")
        return ResultsTable(self.rows.filter(matches(**conditions)))

    @property
    def measured(self) -> "ResultsTable":
        """The rows that have a value."""
        return ResultsTable(self.rows.filter(pl.col("value").is_not_null() & pl.col("value").is_not_nan()))

    def values(self, column: str = "value") -> list[Any]:
        """Return one column as a list."""
        return self.rows[column].to_list()

    def unique(self, column: str) -> list[Any]:
        """Return the distinct entries of a column in the order of the table, without empty ones."""
        return self.rows[column].drop_nulls().unique(maintain_order=True).to_list()

    def first(self) -> Row | None:
        """Return the first row, or None for an empty table."""
        return self.rows.row(0, named=True) if self.rows.height else None

    def __iter__(self) -> Iterator[Row]:
        """Iterate over the rows."""
        return self.rows.iter_rows(named=True)

    def __len__(self) -> int:
        """Return the number of rows; an empty table is false."""
        return self.rows.height

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__}: {len(self):,} row{'' if len(self) == 1 else 's'}"]
        lines += [f"  {name}: {text}" for name, text in self._contents().items()]
        if 0 < len(self) <= MOST_ROWS:
            # other columns with one value stand in the lines above
            numbers = ("target", "value", "low", "high", "null_high")
            varying = [name for name in SHOWN if name in self.rows.columns and self.rows[name].n_unique() > 1]
            shown = [name for name in SHOWN if name in {*varying, *numbers} & {*self.rows.columns}]
            with pl.Config(tbl_cols=-1, tbl_rows=MOST_ROWS, tbl_hide_dataframe_shape=True, tbl_width_chars=110):
                lines.append(str(self.rows.select(shown)))
        return "\n".join([*lines, "  select with .where(metric=..., layer=...); .rows is a polars table"])

    def _repr_html_(self) -> str:
        contents = "".join(f"<li>{escape(name)}: {escape(text)}</li>" for name, text in self._contents().items())
        shown = [name for name in SHOWN if name in self.rows.columns]
        table = self.rows.select(shown)._repr_html_()  # pyright: ignore[reportPrivateUsage]
        return f"<p>{len(self):,} results</p><ul>{contents}</ul>{table}"

    def _contents(self) -> Mapping[str, str]:
        """Describe the columns that most selections name."""
        columns = ("protocol", "encoder", "layer", "representation", "split", "metric")
        contents: dict[str, str] = {}
        for column in columns:
            entries = [str(entry) for entry in self.unique(column) if entry != ""]
            if entries:
                more = f", ... ({len(entries)} in all)" if len(entries) > MOST_LISTED else ""
                contents[column] = ", ".join(entries[:MOST_LISTED]) + more
        return contents


SHOWN = (
    "metric",
    "target",
    "representation",
    "layer",
    "sparsity",
    "seed",
    "split",
    "value",
    "low",
    "high",
    "null_high",
)
"""Columns of the table that a notebook shows."""

MOST_ROWS = 12
"""Rows up to which a representation of the table shows them."""
MOST_LISTED = 8
"""Entries of a column that a representation of the table lists."""


def matches(**conditions: Unpack[Conditions]) -> pl.Expr:
    """Return the conditions of `ResultsTable.where` as a polars expression."""
    tests = [_condition(column, allowed) for column, allowed in conditions.items()]
    return pl.all_horizontal(*tests) if tests else pl.lit(True)


def _condition(column: str, allowed: object) -> pl.Expr:
    if column not in SCHEMA:
        raise EvaluationError(f"results have no column {column!r}; {suggest(column, SCHEMA)}")
    if isinstance(allowed, Collection) and not isinstance(allowed, str):
        tests = [_equals(column, entry) for entry in _entries(allowed)]
        return pl.any_horizontal(*tests) if tests else pl.lit(False)
    return _equals(column, allowed)


def _entries(allowed: object) -> list[object]:
    """Return the allowed values of a condition; none for None."""
    if isinstance(allowed, Collection) and not isinstance(allowed, str):
        return list(allowed)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    return [] if allowed is None else [allowed]


def _equals(column: str, entry: object) -> pl.Expr:
    if entry is None:
        return pl.col(column).is_null()
    if column == "sparsity":
        return ((pl.col(column) - pl.lit(entry)).abs() < TOLERANCE).fill_null(False)
    return pl.col(column).eq_missing(pl.lit(entry))


def load_results(run: str | Path | HasResults) -> ResultsTable:
    """Load the results of a run: of its folder, its `results.parquet`, or what `otoscope.run` returned.

    Raises `ArtifactError` when the run has no results yet.
    """
    path = user_path(run) if isinstance(run, str | Path) else run.results
    if path is not None and path.is_dir():
        path = path / RESULTS
    if path is None or not path.is_file():
        raise ArtifactError(f"no results at {path or run}; run `otoscope evaluate CONFIG.yaml` first")
    return ResultsTable(read_table(path))
