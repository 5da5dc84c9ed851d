"""Table of all factors of all clips: measured, ground truth, and the user's own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float64
from typing_extensions import TypedDict

from otoscope.artifacts import fingerprint, read_json_as, read_table, write_json, write_table
from otoscope.corpus.table import Corpus
from otoscope.errors import ArtifactError, ConfigError, DamagedArtifact
from otoscope.factors.egemaps import SOURCE, egemaps_identity, measure_egemaps
from otoscope.factors.user_table import category, read_user_table
from otoscope.paths import user_path

FAILED = {"clip_id": pl.String(), "reason": pl.String()}


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


def _spell(value: object) -> object:
    """Return NaN as text, which JSON cannot represent."""
    return "NaN" if isinstance(value, float) and value != value else value
