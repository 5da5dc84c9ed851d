"""Formatting of numbers, counts and lists for readers."""

import math
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any

NBSP = "\u00a0"

Number = float | int | None


def known(value: Number) -> bool:
    """Return True if a value is present and finite."""
    return value is not None and math.isfinite(value)


def decimal(value: Number, digits: int = 3) -> str:
    """Return a number with a true minus sign, or a dash if it is missing.

    >>> decimal(-0.12345), decimal(float("nan")), decimal(12345.6, 0)
    ('−0.123', '–', '12,346')
    """
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value:,.{digits}f}"
    if text.startswith("-") and not any(c in text for c in "123456789"):
        text = text[1:]
    return text.replace("-", "−")


def percent(value: Number, digits: int = 1) -> str:
    r"""Return a fraction as a percentage.

    >>> percent(0.9375), percent(None)
    ('93.8\xa0%', '–')
    """
    return f"{decimal(100 * value, digits)}{NBSP}%" if value is not None and math.isfinite(value) else "–"


def sparsity(value: Number) -> str:
    r"""Return a sparsity as the charts label it.

    >>> sparsity(0.95), sparsity(0.975)
    ('95\xa0%', '97.5\xa0%')
    """
    return f"{100 * value:.4g}{NBSP}%" if value is not None and math.isfinite(value) else "–"


def count(number: int, one: str, many: str | None = None) -> str:
    """Return a number with its noun.

    >>> count(1, "group"), count(3200, "clip")
    ('1 group', '3,200 clips')
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def duration(seconds: float) -> str:
    """Return a rounded duration.

    >>> [duration(s) for s in (0.4, 14.0, 100.0, 3000.0, 9000.0, 400_000.0)]
    ['1 s', '14 s', '100 s', '50 min', '2.5 h', '4.6 days']
    """
    if seconds < 120:
        return f"{max(1, round(seconds))} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86_400:.1f} days"


def comma_list(items: Iterable[object]) -> str:
    """Join items as in a sentence.

    >>> comma_list(["a", "b", "c"])
    'a, b and c'
    """
    words = [str(i) for i in items]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def first_few(items: Iterable[object], most: int) -> str:
    """Join the first items with commas; dots stand for the others.

    >>> first_few("abc", 3), first_few("abcd", 3)
    ('a, b, c', 'a, b, c, ...')
    """
    words = [str(i) for i in islice(items, most + 1)]
    return ", ".join([*words[:most], *["..."] * (len(words) > most)])


def ends(row: Mapping[str, Any], tell: Callable[[float], str]) -> str:
    r"""Return the ends of a row's interval.

    >>> ends({"low": 0.6, "high": 0.75}, percent), ends({"low": None, "high": None}, percent)
    ('60.0\xa0% to 75.0\xa0%', 'no interval')
    """
    if not (known(row["low"]) and known(row["high"])):
        return "no interval"
    return f"{tell(row['low'])} to {tell(row['high'])}"


def in_brackets(row: Mapping[str, Any]) -> str:
    """Return a row's interval in brackets, after a blank; empty without one.

    >>> in_brackets({"low": 0.6, "high": 0.75}), in_brackets({"low": None, "high": None})
    (' (0.60 to 0.75)', '')
    """
    shown = ends(row, lambda end: decimal(end, 2))
    return f" ({shown})" if shown != "no interval" else ""


def interval_text(row: Mapping[str, Any], tell: Callable[[float], str]) -> str:
    r"""Return a row's interval with its name; empty without one.

    >>> interval_text({"low": 0.6, "high": 0.75}, percent), interval_text({"low": None, "high": None}, percent)
    ('95\xa0% interval 60.0\xa0% to 75.0\xa0%', '')
    """
    return f"95{NBSP}% interval {ends(row, tell)}" if known(row["low"]) and known(row["high"]) else ""


LARGEST_SCORE = 1.0
"""Largest R², accuracy, F1, AUROC and |r|."""


def nothing_exceeds(null_high: Number) -> bool:
    """Return True if the upper end of a null is the largest score: a score cannot be beyond chance.

    >>> nothing_exceeds(1.0), nothing_exceeds(0.3), nothing_exceeds(None)
    (True, False, False)
    """
    return null_high is not None and null_high >= LARGEST_SCORE


def untested(row: Mapping[str, Any]) -> bool:
    """Return whether there were too few clips or groups for a null: its upper end is 1, and it has no mean.

    >>> untested({"null_high": 1.0, "null_mean": None}), untested({"null_high": 1.0, "null_mean": 0.0})
    (True, False)
    """
    return nothing_exceeds(row.get("null_high")) and not known(row.get("null_mean"))


def backed(row: Mapping[str, Any], *, as_percent: bool = True) -> str:
    """Return the bracketed details of a number: interval, null, clips and groups."""
    shown = percent if as_percent else decimal
    parts = [interval] if (interval := interval_text(row, shown)) else []
    if untested(row):
        parts.append("too few clips or groups to test")
    elif known(row["null_mean"]):
        upper = f", up to {shown(row['null_high'])}" if known(row["null_high"]) else ""
        parts.append(f"null {shown(row['null_mean'])}{upper}")
    if row["n"]:
        of_groups = f" of {count(row['groups'], 'group')}" if row["groups"] else ""
        parts.append(f"{count(row['n'], 'clip')}{of_groups}")
    return "; ".join(parts)


def one_line(text: object, most: int | None = None) -> str:
    r"""Return a text, such as the message of another library's error, on one line of `most` characters at most.

    >>> one_line(ValueError("bad header,\n  chunk 2"))
    'bad header, chunk 2'
    """
    return " ".join(str(text).split())[:most]


def is_clean(text: str) -> bool:
    r"""Return whether a text has no control character, lone surrogate or non-character, which no page can show.

    >>> is_clean("Größe"), is_clean("a\x1bb"), is_clean("a\uffff")
    (True, False, False)
    """
    return text.isprintable() or not any(map(_is_unprintable, text))


def printable(text: str, *, lines: bool = True) -> str:
    r"""Return a text with control characters as escapes, so that a terminal only shows it.

    Without `lines`, line breaks and tabs are escaped too.

    >>> print(printable("a\x1b[2Jb\nc"), printable("b\nc", lines=False))
    a\x1b[2Jb
    c b\nc
    """
    if text.isprintable():
        return text
    plain = "\n\t" if lines else ""
    return "".join(ascii(c)[1:-1] if c not in plain and _is_unprintable(c) else c for c in text)


def _is_unprintable(character: str) -> bool:
    code = ord(character)
    return unicodedata.category(character) in ("Cc", "Cs") or code & 0xFFFE == 0xFFFE or 0xFDD0 <= code <= 0xFDEF
