"""Every factor of every clip in one table: measured, known, and the user's own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float64

from otoscope.artifacts import fingerprint, read_json, read_table, write_json, write_table
from otoscope.corpus.table import Corpus
from otoscope.errors import ArtifactError, ConfigError
from otoscope.factors.egemaps import egemaps_identity, measure_egemaps
from otoscope.factors.user_table import category, read_own

FAILED = {"clip_id": pl.String(), "reason": pl.String()}


class FactorCard(NamedTuple):
    """A factor's name, where its values come from (eGeMAPSv02, truth or table), and its category."""

    name: str
    source: str
    category: str


@dataclass(frozen=True)
class FactorTable:
    """Factors of clips: `table` has `clip_id` and one float column a card, NaN where a clip has no value.

    `failed` lists the clips that openSMILE could not measure: `clip_id, reason`.
    """

    table: pl.DataFrame
    cards: tuple[FactorCard, ...]
    failed: pl.DataFrame

    @property
    def names(self) -> list[str]:
        """Names of the factors, in the order of the columns."""
        return [card.name for card in self.cards]

    @property
    def fingerprint(self) -> str:
        """Identity of all values and cards."""
        return fingerprint(self.cards, [[_spell(x) for x in row] for row in self.table.rows()])

    def values(self, clip_ids: Sequence[str]) -> Float64[np.ndarray, "clips factors"]:
        """Return the factors of some clips, in the order asked for; raise `ConfigError` for an unknown clip."""
        place = {clip_id: row for row, clip_id in enumerate(self.table["clip_id"])}
        if unknown := [clip_id for clip_id in clip_ids if clip_id not in place]:
            raise ConfigError(
                f"{len(unknown)} clips have no row of factors, {unknown[0]!r} among them; run the factors stage again"
            )
        rows = [place[clip_id] for clip_id in clip_ids]
        found = np.full((len(rows), len(self.cards)), np.nan)
        for column, name in enumerate(self.names):
            found[:, column] = self.table[name].to_numpy()[rows]
        return found

    def save(self, path: Path) -> None:
        """Write `factors.parquet` (this path) and its card `factors.json` beside it."""
        write_table(path, self.table)
        card = {
            "factors": [one._asdict() for one in self.cards],
            "failed": self.failed.to_dicts(),
            "clips": self.table.height,
            "fingerprint": self.fingerprint,
        }
        write_json(path.with_suffix(".json"), card)

    @classmethod
    def load(cls, path: Path) -> "FactorTable":
        """Read what `save` wrote."""
        card, table = read_json(path.with_suffix(".json")), read_table(path)
        cards = tuple(FactorCard(**one) for one in card["factors"])
        if table.columns != ["clip_id", *(one.name for one in cards)]:
            raise ArtifactError(f"{path} and its card name different factors; run the factors stage again")
        return cls(table, cards, pl.DataFrame(card["failed"], schema=FAILED))


def build_factors(
    corpus: Corpus,
    *,
    egemaps: bool = True,
    truth: bool = True,
    table: Path | None = None,
    cache: Path | None = None,
    workers: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> FactorTable:
    """Gather the factors of a corpus.

    Args:
        corpus: its clips, in whose order the table is.
        egemaps: measure the 88 eGeMAPSv02 functionals (extra `factors`).
        truth: take the corpus's own `factor_*` columns.
        table: the user's CSV or Parquet; see `read_own`.
        cache: folder for measured clips, so that a killed run continues.
        workers: threads that measure.
        on_progress: called with clips measured and clips in all.

    Raises `ConfigError` for a table that does not fit and for a name that two sources share, and
    `MissingExtra` when openSMILE is wanted and absent.
    """
    gathered = pl.DataFrame({"clip_id": corpus.clips["clip_id"]})
    cards: list[FactorCard] = []
    failed = pl.DataFrame(schema=FAILED)

    def add(found: pl.DataFrame, source: str) -> None:
        nonlocal gathered
        for name in found.columns:
            if other := next((card.source for card in cards if card.name == name), None):
                raise ConfigError(f"the factor {name!r} comes from {other} and from {source}; rename one of the two")
            cards.append(FactorCard(name, source, category(name)))
        gathered = gathered.hstack(found.cast(pl.Float64()).fill_null(float("nan")))

    if truth and corpus.factors:
        known = corpus.clips.select(f"factor_{name}" for name in corpus.factors)
        add(known.rename(lambda name: name.removeprefix("factor_")), "truth")
    if table is not None:
        # read before anything is measured, so that a table that does not fit fails at once
        add(read_own(table, corpus), "table")
    if egemaps:
        measured = measure_egemaps(corpus.clips, corpus.root, cache=cache, workers=workers, on_progress=on_progress)
        add(measured.table.drop("clip_id"), "eGeMAPSv02")
        failed = measured.failed
    return FactorTable(gathered, tuple(cards), failed)


def factors_identity() -> str:
    """Return what factors depend on beside corpus and settings: the release of openSMILE."""
    return egemaps_identity()


def _spell(value: object) -> object:
    """Write NaN as text: JSON has no spelling for it."""
    return "NaN" if isinstance(value, float) and value != value else value
