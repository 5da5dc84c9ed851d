"""The user's own factors (a CSV or Parquet file joined to the clips), and the categories of factors.

Seven categories cover eGeMAPS and the factors of the synthesiser. They are those of arXiv:2509.24793
with two corrections. Its code counts logRelF0-H1-H2 and -H1-A3 as pitch because their names contain
"F0"; they are harmonic differences and belong to voice quality, as in eGeMAPS itself (Eyben et al.,
IEEE Trans. Affective Computing 7(2), 2016, who group them with jitter, shimmer and
harmonics-to-noise). And loudnessPeaksPerSec is a rate and belongs to rhythm. The result is 10, 18, 10,
16, 17, 6 and 11 factors in the order of `CATEGORIES`.
"""

import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import polars as pl

from otoscope.corpus.table import Corpus
from otoscope.errors import ConfigError, CorpusError
from otoscope.formatting import count
from otoscope.paths import user_path
from otoscope.tables import TextTable, read_text_table

KEYS = ("clip_id", "path")

MIN_COVERED = 0.5
"""Share of clips with a row below which the corpus and the table may not belong together."""


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


def _joined(text: TextTable, file: Path, corpus: Corpus) -> UserFactors:
    table = text.cells
    key = next((name for name in KEYS if name in table.columns), None)
    if key is None:
        raise ConfigError(
            f"{file} has no key column; name one {' or '.join(KEYS)}. Its columns: {', '.join(table.columns)}"
        )
    columns = [name for name in table.columns if name not in KEYS]
    numeric = [name for name in columns if text.is_numeric(name, booleans=True)]
    if not numeric:
        raise ConfigError(f"{file} has no numeric column except {key}; its columns: {', '.join(table.columns)}")
    renamed = {name: name.removeprefix("factor_") for name in numeric}
    if twice := [name for name, times in Counter(renamed.values()).items() if times > 1]:
        raise ConfigError(f"{file}: factor_{twice[0]} and {twice[0]} are the same factor; rename one of the columns")
    values = [text.numbers(name, booleans=True).alias(renamed[name]) for name in numeric]
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
    return UserFactors(joined, (*text.notes, *_notes(file, corpus, covered, columns, numeric)))


def _notes(file: Path, corpus: Corpus, covered: int, columns: list[str], numeric: list[str]) -> list[str]:
    """Return notes on clips without a row, and on columns that are no factors."""
    clips = corpus.clips.height
    notes = [f"{file.name}: rows for {covered:,} of {count(clips, 'clip')}"] if covered < clips else []
    if covered < MIN_COVERED * clips:
        notes[0] = f"warning: {notes[0]}; its factors are unknown for the others"
    if ignored := [name for name in columns if name not in numeric]:
        listed = ", ".join(ignored[:8]) + (", ..." if len(ignored) > 8 else "")
        notes.append(f"{file.name}: columns without numbers are no factors ({listed})")
    return notes


def _plain(key: str) -> pl.Expr:
    slashes = pl.col(key).cast(pl.String()).str.replace_all("\\", "/", literal=True).str.strip_prefix("./")
    return slashes.str.normalize("NFC").alias(key)


def _examples(keys: pl.Series) -> str:
    return " and ".join(repr(key) for key in keys.head(2)) or "no rows"


CATEGORIES = ("pitch", "formants", "voice quality", "mfcc", "spectral", "rhythm", "loudness", "other")
"""Categories in report order; "other" is everything else, such as users' own factors."""

_FUNCTIONAL = r"_sma3(nz)?_(amean|stddevNorm|percentile\d+\.0|pctlrange0-2|(mean|stddev)(Rising|Falling)Slope)"

_RULES: tuple[tuple[str, str], ...] = (
    # eGeMAPSv02
    ("pitch", r"F0semitoneFrom27\.5Hz" + _FUNCTIONAL),
    ("formants", r"F[123](frequency|bandwidth|amplitudeLogRelF0)" + _FUNCTIONAL),
    ("voice quality", r"(jitterLocal|shimmerLocaldB|HNRdBACF|logRelF0-H1-(H2|A3))" + _FUNCTIONAL),
    ("mfcc", r"mfcc[1-4]V?" + _FUNCTIONAL),
    ("spectral", r"(spectralFlux|alphaRatio|hammarbergIndex|slope)(U?V)?(0-500|500-1500)?" + _FUNCTIONAL),
    ("rhythm", r"(loudnessPeaks|VoicedSegments)PerSec"),
    ("rhythm", r"(Mean|Stddev)(VoicedSegmentLengthSec|UnvoicedSegmentLength)"),
    ("loudness", r"loudness" + _FUNCTIONAL),
    ("loudness", r"equivalentSoundLevel_dBp"),
    # the synthesiser
    ("pitch", r"f0_(mean_hz|std_semitones)|(vibrato|trill)_(rate_hz|extent_\w+|interval_semitones)"),
    ("formants", r"f[1-5]_hz|tract_length_cm"),
    ("voice quality", r"jitter|shimmer_db|aspiration_db|hnr_db|subharmonics|rd"),
    ("spectral", r"tilt_db_per_octave|ring_db"),
    ("rhythm", r"(pulse|lip)_(rate_hz|depth)|notes_per_s|voiced_share"),
    ("loudness", r"loudness_db"),
)


def category(factor: str) -> str:
    """Return the category of a factor's name; "other" for an unknown name.

    >>> category("logRelF0-H1-H2_sma3nz_amean"), category("f2_hz"), category("valence")
    ('voice quality', 'formants', 'other')
    """
    return next((name for name, pattern in _RULES if re.fullmatch(pattern, factor)), "other")
