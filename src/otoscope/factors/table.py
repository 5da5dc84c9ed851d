"""Table of all factors of all clips: measured, ground truth, and the user's own, a file joined to the clips."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float64
from typing_extensions import TypedDict

from otoscope.artifacts import fingerprint, read_json_as, read_table, write_json, write_table
from otoscope.corpus.table import Corpus
from otoscope.errors import ArtifactError, ConfigError, CorpusError, DamagedArtifact
from otoscope.factors.egemaps import SOURCE, egemaps_identity, measure_egemaps
from otoscope.factors.readable_names import category
from otoscope.formatting import count, first_few
from otoscope.paths import user_path
from otoscope.tables import read_text_table
from otoscope.text_table import TextTable

FAILED = {"clip_id": pl.String(), "reason": pl.String()}

KEYS = ("clip_id", "path")

MIN_COVERED = 0.5
"""Share of clips with a row below which the corpus and the table may not belong together."""


class FactorCard(NamedTuple):
    """Name, source (eGeMAPSv02, truth or table) and category of a factor."""

    name: str
    source: str
    category: str


class _CardEntry(TypedDict):
    """A `FactorCard` in JSON."""

    name: str
    source: str
    category: str


class _TableCard(TypedDict):
    """Content of `factors.json`."""

    factors: list[_CardEntry]
    failed: list[dict[str, str]]
    notes: list[str]


@dataclass(frozen=True)
class FactorTable:
    """Factors of clips: `table` has `clip_id` and one float column per card, NaN for missing values.

    `failed` lists the clips that openSMILE could not measure: `clip_id, reason`. `notes` are remarks on the user's
    table.
    """

    table: pl.DataFrame
    cards: tuple[FactorCard, ...]
    failed: pl.DataFrame
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """Names of the factors, in column order."""
        return [card.name for card in self.cards]

    @property
    def fingerprint(self) -> str:
        """Identity of all values and cards."""
        return fingerprint(self.cards, [[_spell(x) for x in row] for row in self.table.rows()])

    def values(self, clip_ids: Sequence[str]) -> Float64[np.ndarray, "clips factors"]:
        """Return the factors of clips in the given order; raise `ConfigError` for an unknown clip."""
        row_of = {clip_id: row for row, clip_id in enumerate(self.table["clip_id"])}
        if unknown := [clip_id for clip_id in clip_ids if clip_id not in row_of]:
            raise ConfigError(
                f"{len(unknown)} clips have no factors, including {unknown[0]!r}; run the factors stage again"
            )
        rows = [row_of[clip_id] for clip_id in clip_ids]
        values = np.full((len(rows), len(self.cards)), np.nan)
        for column, name in enumerate(self.names):
            values[:, column] = self.table[name].to_numpy()[rows]
        return values

    def save(self, path: Path) -> None:
        """Write `factors.parquet` (this path) and its card `factors.json` next to it."""
        path = user_path(path)
        write_table(path, self.table)
        card = {
            "factors": [one._asdict() for one in self.cards],
            "failed": self.failed.to_dicts(),
            "notes": self.notes,
            "clips": self.table.height,
            "fingerprint": self.fingerprint,
        }
        write_json(path.with_suffix(".json"), card)

    @classmethod
    def load(cls, path: Path) -> "FactorTable":
        """Load a table written by `save`."""
        path = user_path(path)
        card, table = read_json_as(path.with_suffix(".json"), _TableCard), read_table(path)
        cards = tuple(FactorCard(**one) for one in card["factors"])
        if table.columns != ["clip_id", *(one.name for one in cards)]:
            raise ArtifactError(f"{path} and its card list different factors; run the factors stage again")
        if not all(table.schema[one.name].is_numeric() for one in cards):
            raise DamagedArtifact(f"{path} is damaged: a factor is no number; delete it and run again")
        return cls(table, cards, pl.DataFrame(card["failed"], schema=FAILED), tuple(card["notes"]))


def build_factors(
    corpus: Corpus,
    *,
    egemaps: bool = True,
    truth: bool = True,
    table: Path | None = None,
    cache: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> FactorTable:
    """Collect the factors of a corpus.

    Args:
        corpus: clips; the table has their order.
        egemaps: measure the 88 eGeMAPSv02 functionals (extra `factors`).
        truth: include the `factor_*` columns of the corpus.
        table: the user's CSV or Parquet file; see `read_user_table`.
        cache: folder of measured clips, from which a killed run resumes.
        on_progress: called with the number of clips measured and the total.

    Raises `ConfigError` for a table that does not match the corpus and for a factor with two sources,
    and `MissingExtra` if `egemaps` is true and openSMILE is not installed.
    """
    gathered = pl.DataFrame({"clip_id": corpus.clips["clip_id"]})
    cards: list[FactorCard] = []
    failed = pl.DataFrame(schema=FAILED)
    notes: tuple[str, ...] = ()

    def add(columns: pl.DataFrame, source: str) -> None:
        nonlocal gathered
        for name in columns.columns:
            if other := next((card.source for card in cards if card.name == name), None):
                raise ConfigError(f"the factor {name!r} comes from {other} and from {source}; rename one of the two")
            cards.append(FactorCard(name, source, category(name)))
        gathered = gathered.hstack(columns.cast(pl.Float64()).fill_null(float("nan")))

    if truth and corpus.factors:
        known = corpus.clips.select(f"factor_{name}" for name in corpus.factors)
        add(known.rename(lambda name: name.removeprefix("factor_")), "truth")
    if table is not None:
        # before the slow measurement, so that a bad table fails at once
        own = read_user_table(table, corpus)
        notes = own.notes
        add(own.values, "table")
    if egemaps:
        measured = measure_egemaps(corpus.clips, corpus.root, cache=cache, on_progress=on_progress)
        add(measured.table.drop("clip_id"), SOURCE)
        failed = measured.failed
    return FactorTable(gathered, tuple(cards), failed, notes)


def factors_identity() -> str:
    """Return the version of openSMILE, which factors depend on."""
    return egemaps_identity()


class UserFactors(NamedTuple):
    """Factors of a user's table: one row per clip in corpus order, null if missing; notes on what was not used."""

    values: pl.DataFrame
    notes: tuple[str, ...]


def read_user_table(file: Path, corpus: Corpus) -> UserFactors:
    """Return the numeric columns of a table, one row per clip in corpus order, null for clips without a row.

    The table is joined by its column `clip_id`, or else `path` (relative to the corpus's root, with
    either slash). Booleans count as 0 and 1; text columns are named in the notes and not used. The
    prefix `factor_` is dropped from names. Raises `ConfigError` for a file that is missing or
    unreadable, for no key column, repeated keys or factors, no clip in common, no numeric column, infinities.
    """
    file = user_path(file)
    if not file.is_file():
        raise ConfigError(f"the factor table {file} does not exist")
    try:
        return _joined(read_text_table(file), file, corpus)
    except CorpusError as error:
        raise ConfigError(f"the factor table {error}") from error


def _joined(text_table: TextTable, file: Path, corpus: Corpus) -> UserFactors:
    table = text_table.cells
    key = next((name for name in KEYS if name in table.columns), None)
    if key is None:
        raise ConfigError(
            f"{file} has no key column; name one {' or '.join(KEYS)}. Its columns: {', '.join(table.columns)}"
        )
    columns = [name for name in table.columns if name not in KEYS]
    numeric = [name for name in columns if text_table.is_numeric(name, booleans=True)]
    mixed = {name: text for name in columns if (text := text_table.text_among_numbers(name, booleans=True))}
    marks = {name: text for name in numeric if (text := text_table.marks_of_missing(name))}
    if not numeric:
        almost = "".join(f"; {name}: {text}" for name, text in list(mixed.items())[:1])
        raise ConfigError(f"{file} has no numeric column except {key}; its columns: {', '.join(table.columns)}{almost}")
    renamed = {name: name.removeprefix("factor_") for name in numeric}
    if twice := [name for name, times in Counter(renamed.values()).items() if times > 1]:
        raise ConfigError(f"{file}: factor_{twice[0]} and {twice[0]} are the same factor; rename one of the columns")
    values = [text_table.numbers(name, booleans=True).alias(renamed[name]) for name in numeric]
    table = table.select(_plain(key)).with_columns(values).filter(pl.col(key).is_not_null())
    repeated = table.filter(pl.col(key).is_duplicated())[key].unique().sort()
    if len(repeated):
        raise ConfigError(f"{file} has several rows for {_examples(repeated)}; keep one row per {key}")
    wanted = corpus.clips.select(_plain(key))
    if not wanted[key].is_in(table[key].implode()).any():
        raise ConfigError(
            f"{file} and the corpus have no {key} in common. The table has {_examples(table[key])}; "
            f"the corpus has {_examples(wanted[key])}"
        )
    joined = wanted.join(table, on=key, how="left", maintain_order="left").drop(key)
    covered = int(wanted[key].is_in(table[key].implode()).sum())
    return UserFactors(
        joined, (*text_table.notes, *_notes(text_table, corpus, covered, columns, numeric, mixed | marks))
    )


def _notes(
    table: TextTable, corpus: Corpus, covered: int, columns: list[str], numeric: list[str], mixed: Mapping[str, str]
) -> list[str]:
    """Return notes on clips without a row, and on columns that are not factors."""
    clips = corpus.clips.height
    notes = [f"{table.name}: rows for {covered:,} of {count(clips, 'clip')}"] if covered < clips else []
    if covered < MIN_COVERED * clips:
        notes[0] = f"warning: {notes[0]}; its factors are unknown for the others"
    notes += [
        f"warning: {table.name}: {name}{'' if name in numeric else ' is not a factor'}: {text}; correct them, or leave"
        " them empty"
        for name, text in mixed.items()
    ]
    notes.append(f"{table.name}: {count(len(numeric), 'factor')} ({first_few(numeric, 8)})")
    if identifiers := [name for name in numeric if table.may_identify(name)]:
        notes.append(
            f"warning: {table.name}: factors that look like identifiers or dates: {first_few(identifiers, 8)}; remove"
            " the columns if they are"
        )
    if ignored := [name for name in columns if name not in numeric and name not in mixed]:
        notes.append(f"{table.name}: columns of text or codes are not factors ({first_few(ignored, 8)})")
    return notes


def _plain(key: str) -> pl.Expr:
    slashes = pl.col(key).cast(pl.String()).str.replace_all("\\", "/", literal=True).str.strip_prefix("./")
    return slashes.str.normalize("NFC").alias(key)


def _examples(keys: pl.Series) -> str:
    return " and ".join(repr(key) for key in keys.head(2)) or "no rows"


def _spell(value: object) -> object:
    """Return NaN as text, which JSON cannot represent."""
    return "NaN" if isinstance(value, float) and value != value else value
