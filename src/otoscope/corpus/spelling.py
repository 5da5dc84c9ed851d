"""Spelling of groups, classes and column names: one value, one spelling.

A group with two spellings (`spk0` and `spk0 `, `2` and `2.0`) would be in two splits, and its clips would leak.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation

import polars as pl

from otoscope.corpus.listing import Listing
from otoscope.errors import CorpusError, quote
from otoscope.formatting import count, is_clean, printable
from otoscope.tables import MAX_NAME

MAX_CLASS, MAX_GROUP = 1000, 4096
"""Longest class and longest group, which may be a path, in characters."""

MAX_SHOWN = 3
"""Examples in a note."""

_INVISIBLE = re.compile("[\ufeff\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\u00ad]")


def clean_listing(listing: Listing) -> Listing:
    """Return a listing whose groups and classes have one spelling each, without surrounding blanks and invisible signs.

    Accents are composed (NFC), runs of blanks become one space, numbers of equal value get one spelling, and empty
    values are missing. Classes with zeros in front are codes, and keep them. Notes name what was unified, and spellings
    that differ only in case, in signs that look alike or in these zeros, which stay different.
    Raises `CorpusError` for control characters, texts and names that are too long, infinite factors, and clips without
    a group.
    """
    clips, notes = listing.clips, list(listing.notes)
    _check_names(clips.columns)
    for column in [name for name in clips.columns if name == "group" or name.startswith("label_")]:
        clean = {value: _tidy(value) for value in clips[column].drop_nulls().unique()}
        _check_values(clips, column, clean)
        spelling = _one_spelling(sorted({value for value in clean.values() if value}), keeps_codes=column != "group")
        unified = {value: spelling.get(tidy) for value, tidy in clean.items()}
        is_path = clips[column].equals(clips["path"])  # two files never are one group
        changed = [] if is_path else sorted(value for value, tidy in clean.items() if tidy and spelling[tidy] != value)
        if changed:
            shown = ", ".join(f"{printable(value)!r} as {unified[value]!r}" for value in changed[:MAX_SHOWN])
            notes.append(f"{column}: {count(len(changed), 'spelling')} unified ({shown})")
        notes += [] if is_path else twin_notes(column, sorted(set(spelling.values())))
        if any(new != old for old, new in unified.items()):
            clips = clips.with_columns(pl.col(column).replace_strict(unified, return_dtype=pl.String(), default=None))
    if (without := clips["group"].is_null().arg_true()).len():
        path = clips["path"][int(without[0])]
        raise CorpusError(f"{count(len(without), 'clip')} without a group, such as {path}; give every clip a group")
    return listing._replace(clips=_without_nan(clips), notes=tuple(notes))


def _tidy(value: str) -> str:
    return " ".join(_INVISIBLE.sub("", unicodedata.normalize("NFC", value)).split())


def _one_spelling(values: list[str], *, keeps_codes: bool) -> dict[str, str]:
    """Return the spelling of each value: the shortest of those that are the same number.

    With `keeps_codes`, a whole number that begins with 0 keeps its text.
    """
    same: defaultdict[object, list[str]] = defaultdict(list)
    for value in values:
        same[value if keeps_codes and re.fullmatch(r"0\d+", value) else _number(value)].append(value)
    return {value: min(spellings, key=len) for spellings in same.values() for value in spellings}


def _number(value: str) -> object:
    """Return the value of a decimal number, else the text."""
    if not value.isascii() or not value.replace(".", "", 1).lstrip("+-").isdigit():
        return value
    try:
        return Decimal(value)
    except InvalidOperation:
        return value


def twin_notes(column: str, values: Sequence[str]) -> list[str]:
    """Return warnings of sorted values that differ only in case, in signs that look alike, or in zeros in front."""
    what = "they are different groups, and may be in different splits" if column == "group" else "they count as two"
    notes: list[str] = []
    forms = (("case", str.casefold), ("blanks, dashes, quotes or width", _plain), ("zeros in front", _without_zeros))
    for difference, form in forms:
        same: defaultdict[str, list[str]] = defaultdict(list)
        for value in values:
            same[form(value)].append(value)
        groups = [alike for alike in same.values() if len(alike) > 1]
        if form is _plain:  # those that differ in case only are named above
            groups = [alike for alike in groups if len(set(map(str.casefold, alike))) > 1]
        if twins := [" and ".join(alike) for alike in groups]:
            shown = "; ".join(twins[:MAX_SHOWN]) + ("; ..." if len(twins) > MAX_SHOWN else "")
            notes.append(
                f"warning: {column}: values that differ only in {difference} ({shown}): {what}; spell them alike if"
                " they are one"
            )
    return notes


def _plain(value: str) -> str:
    """Return a text with one blank for blanks, underscores and dashes, one kind of quote and width, and no capitals.

    >>> _plain("Very_high\u2011Pitch") == _plain("very-high pitch"), _plain("-1")
    (True, '-1')
    """
    if not any(map(str.isalpha, value)):
        return value
    folded = unicodedata.normalize("NFKC", value).casefold()
    return re.sub("['\u2018\u2019`\u00b4]", "'", re.sub("[\\s_\u2010-\u2015\u2212-]+", " ", folded))


def _without_zeros(value: str) -> str:
    return re.sub(r"^0+(?=\d+$)", "", value)


def _check_names(columns: list[str]) -> None:
    for name in columns:
        if not is_clean(name):
            raise CorpusError(f"the name {name!r} contains a control character; rename it")
        if len(name) > MAX_NAME + len("factor_"):
            raise CorpusError(
                f"a label's or factor's name has {len(name):,} characters; at most {MAX_NAME} are allowed"
            )


def _check_values(clips: pl.DataFrame, column: str, clean: dict[str, str]) -> None:
    longest = MAX_GROUP if column == "group" else MAX_CLASS
    for value, tidy in clean.items():
        if len(tidy) > longest or not is_clean(tidy):
            path = clips["path"][int((clips[column] == value).arg_true()[0])]
            problem = (
                f"has {len(tidy):,} characters; at most {longest:,} are allowed"
                if len(tidy) > longest
                else f"contains a control character ({tidy[:40]!a}); remove it"
            )
            raise CorpusError(f"{column} of {quote(printable(path))} {problem}")


def _without_nan(clips: pl.DataFrame) -> pl.DataFrame:
    """Return clips with null for NaN factors; raise `CorpusError` for infinite ones."""
    factors = [name for name in clips.columns if name.startswith("factor_")]
    infinite = clips.select(pl.col(factors).is_infinite().any()) if factors else clips.clear()
    for name in factors:
        if infinite[name].any():
            path = clips.filter(pl.col(name).is_infinite())["path"][0]
            raise CorpusError(f"{name} of {quote(path)} is infinite; leave missing values empty")
    return clips.with_columns(pl.col(factors).fill_nan(None)) if factors else clips
