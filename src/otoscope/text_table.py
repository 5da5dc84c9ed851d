"""A user's table as text, and what its columns hold: numbers, codes, identifiers, and marks of missing values."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import polars as pl

from otoscope.errors import CorpusError, quote
from otoscope.formatting import first_few

FEW_VALUES = 10
"""Most different whole numbers that may be classes."""

LARGE_NUMBER = 10_000_000
"""Smallest whole number of eight digits, such as a date; factors rarely are so large."""

MAX_SHOWN = 3
"""Values named in a message on a column."""

NUMBER = r"^[+-]?((\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|inf|Inf|INF|Infinity)$"
"""Form of a number with a decimal point, as a regular expression."""


@dataclass(frozen=True)
class TextTable:
    """A user's table: every cell as text without surrounding blanks, null if missing.

    `lines` has the line of each row in the file; `notes` states what was unusual and how it was read.
    """

    name: str
    cells: pl.DataFrame
    lines: Sequence[int]
    separator: str = ","
    notes: tuple[str, ...] = ()

    def is_numeric(self, column: str, *, booleans: bool = False) -> bool:
        """Return whether every value of a column is a number, not a code; false for a column without values.

        Raises `CorpusError` for numbers whose point or comma is ambiguous.
        """
        self._refuse_ambiguous(column)
        return self._holds_numbers(column, booleans=booleans) and not self.codes(column)

    def _holds_numbers(self, column: str, *, booleans: bool = False) -> bool:
        values = self.cells[column].drop_nulls()
        return len(values) > 0 and self._parsed(column, booleans=booleans).drop_nulls().len() == len(values)

    def codes(self, column: str) -> str:
        """Return how many values of a column of numbers begin with 0, as codes do, with their places; else empty."""
        is_code = self.cells[column].str.contains(_CODE)
        if not is_code.any() or not self._holds_numbers(column):
            return ""
        return self._counted(column, is_code, ("begins with 0", "begin with 0"), "as codes do")

    def numbers(self, column: str, *, booleans: bool = False) -> pl.Series:
        """Return a column as floats, null for missing values; raise `CorpusError` for text and infinity."""
        self._refuse_ambiguous(column)
        parsed, cells = self._parsed(column, booleans=booleans), self.cells[column]
        for wrong, problem in ((parsed.is_null() & cells.is_not_null(), "numbers"), (parsed.is_infinite(), "finite")):
            if (row := wrong.fill_null(False).arg_true()).len():
                where = self.place(int(row[0]))
                kind = "must hold numbers" if problem == "numbers" else "must be finite; leave missing values empty"
                raise CorpusError(f"{self.name}: the column {column!r} {kind}; got {quote(cells[row[0]])} {where}")
        return parsed

    def text_among_numbers(self, column: str, *, booleans: bool = False) -> str:
        """Return why a column that mostly holds numbers is not numeric: its other values and their places.

        Numbers with a unit count as numbers here. Empty for a numeric column, and for one with as many other values.
        """
        cells = self.cells[column]
        is_wrong = self._parsed(column, booleans=booleans).is_null() & cells.is_not_null()
        numbers = int((~is_wrong & cells.is_not_null()).sum()) + int((is_wrong & cells.str.contains(_MEASURED)).sum())
        if not is_wrong.any() or 2 * numbers <= len(cells) - cells.null_count():
            return ""
        return self._counted(column, is_wrong, ("is not a number", "are not numbers"))

    def marks_of_missing(self, column: str) -> str:
        """Return values that may mean a missing one, but are read as a number (-999) or as a class (?), with places."""
        cells = self.cells[column]
        if not self._holds_numbers(column):
            marks = cells.filter(cells.str.contains(_MARK))
            if marks.is_empty() or self.text_among_numbers(column):
                return ""
            return self._counted(column, cells == marks[0], _is(quote(marks[0])), "read as a class", shows=False)
        values = self._parsed(column, booleans=False)
        for mark in _SENTINELS:
            others = values.filter(values != mark).unique().to_numpy()
            if not 0 < len(others) < values.drop_nulls().n_unique():
                continue
            is_low = len(others) > FEW_VALUES and others.min() > max(10, others.max() / 10)
            if is_low if mark == 0 else 2 * np.abs(others).max() < abs(mark) or mark < 0 <= others.min():
                return self._counted(column, values == mark, _is(f"{mark}"), "read as a number", shows=False)
        return ""

    def may_identify(self, column: str) -> bool:
        """Return whether a column of whole numbers may hold identifiers or dates.

        They have eight digits, or are more than `FEW_VALUES` that rise with every row or count from 0, 1, 100 or 101.
        """
        values = self.numbers(column, booleans=True).drop_nulls()
        different = values.unique().sort()
        if different.is_empty() or not (different == different.round()).all():
            return False
        first, last, number = float(different[0]), float(different[-1]), len(different)
        counts = last - first == number - 1 and first % 100 in (0, 1)
        rises = number == len(values) and values.is_sorted()
        return max(abs(first), abs(last)) >= LARGE_NUMBER or (number > FEW_VALUES and (counts or rises))

    def _counted(
        self, column: str, rows: pl.Series, facts: tuple[str, str], then: str = "", *, shows: bool = True
    ) -> str:
        """Return how many values of a column have a fact, with the places of some, and the values with `shows`."""
        cells, found = self.cells[column], rows.fill_null(False).arg_true().to_list()
        shown = first_few((f"{quote(cells[row])} " * shows + self.place(row) for row in found), MAX_SHOWN)
        fact = facts[len(found) > 1]
        of = f"{len(found):,} of its {len(cells) - cells.null_count():,} values {fact} ({shown})"
        return f"{of}, {then}" if then else of

    def place(self, row: int) -> str:
        """Return the place of a row in the file."""
        return f"in line {self.lines[row]}" if self.lines else f"in row {row + 1}"

    def decimal_commas(self) -> list[str]:
        """Return the columns whose numbers have a decimal comma."""
        return [name for name in self._numbers.commas if self._holds_numbers(name)]

    @cached_property
    def _numbers(self) -> "_Numbers":
        """Every cell that is a number, null elsewhere; all columns at once, because a table may have thousands."""
        text = self.cells.select(pl.all().str.replace(_MINUS, "-", literal=True))
        has_comma, has_point = (text.select(pl.all().str.contains(form).any()) for form in (_COMMA, _POINT))
        commas = [name for name in text.columns if has_comma[name].any() and not has_point[name].any()]
        plain = text.with_columns(pl.col(commas).str.replace(",", ".", literal=True)) if commas else text
        number = pl.all().str.contains(NUMBER)
        return _Numbers(plain.select(pl.when(number).then(pl.all().cast(pl.Float64(), strict=False))), commas)

    def _parsed(self, column: str, *, booleans: bool) -> pl.Series:
        """Return the values that are numbers, null elsewhere."""
        parsed = self._numbers.values[column]
        if booleans and parsed.null_count() > self.cells[column].null_count():
            parsed = parsed.fill_null(self.cells[column].replace_strict(_BOOLEANS, default=None))
        return parsed

    def _refuse_ambiguous(self, column: str) -> None:
        """Raise `CorpusError` for a column of numbers whose points or commas may mark decimals or thousands."""
        cells = self.cells[column].drop_nulls().str.replace(_MINUS, "-", literal=True)
        if cells.is_empty() or not cells.str.contains(_EITHER).all():
            return
        commas, points = cells.filter(cells.str.contains(",")), cells.filter(cells.str.contains(_POINT))
        if len(commas) and len(points):
            raise CorpusError(
                f"{self.name}: the column {column!r} has both commas and points ({quote(commas[0])} and"
                f" {quote(points[0])}); write decimals with a point, and thousands without any"
            )
        if len(commas) and self.separator != ";" and commas.str.contains(_THOUSANDS).all():
            raise CorpusError(
                f"{self.name}: {quote(commas[0])} in the column {column!r} is ambiguous (a decimal comma, or"
                " thousands); write numbers with a decimal point"
            )
        if len(points) and self._may_group_by_points and points.str.contains(_POINT_THOUSANDS).all():
            raise CorpusError(
                f"{self.name}: {quote(points[0])} in the column {column!r} is ambiguous (a decimal point, or"
                f" thousands); write thousands as {quote(points[0].replace('.', ''))}; for decimals, write other"
                " columns with decimal points too, and separate columns with tabs"
            )

    @cached_property
    def _may_group_by_points(self) -> bool:
        """Return whether points may mark thousands: a table with `;` or decimal commas, and no plain decimal point."""
        values = self.cells.select(pl.all().str.contains(_COMMA).any())
        has_commas = any(values.row(0)) if values.width else False
        of_decimals = pl.all().str.contains(_DECIMAL_POINT) & ~pl.all().str.contains(_POINT_THOUSANDS)
        is_decimal = self.cells.select(of_decimals.any())
        return (has_commas or self.separator == ";") and not any(is_decimal.row(0))


class _Numbers(NamedTuple):
    """Columns as numbers, and the columns with decimal commas."""

    values: pl.DataFrame
    commas: list[str]


def _is(value: str) -> tuple[str, str]:
    """Return the fact that one value, or several, are this one."""
    return f"is {value}", f"are {value}"


_BOOLEANS = {"true": 1.0, "True": 1.0, "TRUE": 1.0, "false": 0.0, "False": 0.0, "FALSE": 0.0}
_COMMA = r"^[+-]?\d+,\d+([eE][+-]?\d+)?$"
_POINT = r"^[+-]?\d*\.\d"
_MINUS = "\u2212"
_EITHER = r"^[+-]?\d*([.,]?\d+)+$"
_DECIMAL_POINT = r"^[+-]?\d*\.\d+$"
_CODE = r"^0\d+$"
_MEASURED = r"^[+-]?\d+([.,]\d+|['\u2019\s\x{a0}\x{202f}]\d{3})*\s*(%|±.*|[°º]?\s*[A-Za-zµ]{0,4})$"
_MARK = r"(?i)^([^\pL\pN]+|n\.?a\.?|nan|null|missing|#.*!?)$"
_SENTINELS = (-99_999, -9999, -999, -99, 999, 9999, 99_999, 0)
"""Numbers that often mean a missing value, named where all others are half as large or have the other sign.

0 is named among many different values that are all far above it, such as the pitch of voices.
"""
_THOUSANDS = r"^[+-]?[1-9]\d{0,2},\d{3}$"
_POINT_THOUSANDS = r"^[+-]?[1-9]\d{0,2}\.\d{3}$"
