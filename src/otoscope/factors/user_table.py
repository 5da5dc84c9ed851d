"""The user's own factors (a CSV or Parquet file joined to the clips), and the categories of factors.

Seven categories cover eGeMAPS and the factors of the synthesiser. They are those of arXiv:2509.24793
with two corrections. Its code counts logRelF0-H1-H2 and -H1-A3 as pitch because their names contain
"F0"; they are harmonic differences and belong to voice quality, as in eGeMAPS itself (Eyben et al.,
IEEE Trans. Affective Computing 7(2), 2016, who group them with jitter, shimmer and
harmonics-to-noise). And loudnessPeaksPerSec is a rate and belongs to rhythm. The result is 10, 18, 10,
16, 17, 6 and 11 factors in the order of `CATEGORIES`.
"""

import re
from pathlib import Path

import polars as pl

from otoscope.corpus.table import Corpus
from otoscope.errors import ConfigError

KEYS = ("clip_id", "path")


def read_user_table(file: Path, corpus: Corpus) -> pl.DataFrame:
    """Return the numeric columns of a table, one row per clip in corpus order, null for clips without a row.

    The table is joined by its column `clip_id`, or else `path` (relative to the corpus's root, with
    either slash). Booleans count as 0 and 1; text columns are ignored. The
    prefix `factor_` is dropped from names. Raises `ConfigError` for a file that is missing or
    unreadable, for no key column, repeated keys, no clip in common, no numeric column, infinities.
    """
    table = _read(file)
    key = next((name for name in KEYS if name in table.columns), None)
    if key is None:
        raise ConfigError(
            f"{file} has no key column; name one {' or '.join(KEYS)}. Its columns: {', '.join(table.columns)}"
        )
    table = table.with_columns(_plain(key)).filter(pl.col(key).is_not_null())
    repeated = table.filter(pl.col(key).is_duplicated())[key].unique().sort()
    if len(repeated):
        raise ConfigError(f"{file} has several rows for {_examples(repeated)}; keep one row per {key}")
    wanted = corpus.clips.select(_plain(key))
    if not wanted[key].is_in(table[key].implode()).any():
        raise ConfigError(
            f"{file} and the corpus have no {key} in common. The table has {_examples(table[key])}; "
            f"the corpus has {_examples(wanted[key])}"
        )
    numeric = [name for name in table.columns if table[name].dtype.is_numeric() or table[name].dtype == pl.Boolean()]
    numeric = [name for name in numeric if name not in KEYS]
    if not numeric:
        raise ConfigError(f"{file} has no numeric column except {key}; its columns: {', '.join(table.columns)}")
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
        raise ConfigError(f"the factor table {file} cannot be read as CSV or Parquet: {error}") from error


def _plain(key: str) -> pl.Expr:
    return pl.col(key).cast(pl.String()).str.replace_all("\\", "/", literal=True).str.strip_prefix("./").alias(key)


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
