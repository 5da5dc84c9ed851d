"""The user's own factors: a CSV or Parquet file joined to the clips."""

from pathlib import Path

import polars as pl

from otoscope.corpus.table import Corpus
from otoscope.errors import ConfigError

KEYS = ("clip_id", "path")


def read_own(file: Path, corpus: Corpus) -> pl.DataFrame:
    """Return the numeric columns of a table, one row a clip in the corpus's order, null where a clip has none.

    The table is joined by its column `clip_id`, or else `path` (relative to the corpus's root, with
    either slash). Booleans count as 0 and 1; columns of text are not factors and are left out. The
    prefix `factor_` is dropped from names. Raises `ConfigError` for a file that is missing or
    unreadable, for no key column, repeated keys, no clip in common, no numeric column, infinities.
    """
    table = _read(file)
    key = next((name for name in KEYS if name in table.columns), None)
    if key is None:
        raise ConfigError(
            f"{file} has no column to join by; name one {' or '.join(KEYS)}. Its columns: {', '.join(table.columns)}"
        )
    table = table.with_columns(_plain(key)).filter(pl.col(key).is_not_null())
    repeated = table.filter(pl.col(key).is_duplicated())[key].unique().sort()
    if len(repeated):
        raise ConfigError(f"{file} has several rows for {_examples(repeated)}; keep one row a {key}")
    wanted = corpus.clips.select(_plain(key))
    if not wanted[key].is_in(table[key].implode()).any():
        raise ConfigError(
            f"{file} and the corpus have no {key} in common. The table has {_examples(table[key])}; "
            f"the corpus has {_examples(wanted[key])}"
        )
    numeric = [name for name in table.columns if table[name].dtype.is_numeric() or table[name].dtype == pl.Boolean()]
    numeric = [name for name in numeric if name not in KEYS]
    if not numeric:
        raise ConfigError(f"{file} has no numeric column beside {key}; its columns: {', '.join(table.columns)}")
    values = table.select(key, pl.col(numeric).cast(pl.Float64()))
    infinite = [name for name in numeric if values[name].is_infinite().any()]
    if infinite:
        raise ConfigError(f"{file}: infinite values in {', '.join(infinite)}; leave missing values empty")
    renamed = values.rename({name: name.removeprefix("factor_") for name in numeric})
    return wanted.join(renamed, on=key, how="left", maintain_order="left").drop(key)


def _read(file: Path) -> pl.DataFrame:
    if not file.is_file():
        raise ConfigError(f"the factor table {file} does not exist")
    try:
        if file.suffix.lower() in {".parquet", ".pq"}:
            return pl.read_parquet(file)
        return pl.read_csv(file, infer_schema_length=None, null_values=["", "NA", "NaN", "nan"])
    except (pl.exceptions.PolarsError, OSError) as error:
        raise ConfigError(f"the factor table {file} is neither CSV nor Parquet that can be read: {error}") from error


def _plain(key: str) -> pl.Expr:
    return pl.col(key).cast(pl.String()).str.replace_all("\\", "/", literal=True).str.strip_prefix("./").alias(key)


def _examples(keys: pl.Series) -> str:
    return " and ".join(repr(key) for key in keys.head(2)) or "no rows"
