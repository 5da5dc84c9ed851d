"""Sums and inner products over listed rows of a table: packed words on the fast path, plain floats otherwise."""

import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

from numba import types
from numba.extending import overload
from numpy.typing import NDArray

from otoscope.sae._kernels.llvm import LANES, address
from otoscope.sae._kernels.sums import inner_products, rounded_sum, weighted_sum

Array: TypeAlias = NDArray[Any]
"""Inside compiled code: an array of any shape and of the step's number type."""

COMPILED: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy"}
"""How the kernels are compiled. Dividing by zero gives infinity: a check for it would keep loops from vectorising."""

WIDE, FULL = 8, 24
"""Vectors of words a block. 8 leave every sum in registers (16 of 32); 24 hold a whole row of 768 columns, whose
inner products then need one horizontal sum."""

_sum_wide, _sum_one = weighted_sum(WIDE), weighted_sum(1)
_rounded_wide, _rounded_one = rounded_sum(WIDE), rounded_sum(1)
_dots_full, _dots_wide, _dots_one = inner_products(FULL), inner_products(WIDE), inner_products(1)


def by_table(position: int, packed: Callable[..., Any], plain: Callable[..., Any]) -> Callable[[Any], Any]:
    """Compile the decorated signature to `packed` where argument `position` is a packed table, else to `plain`."""

    def pick(*kinds: Any) -> Callable[..., Any]:
        table = kinds[position]
        return packed if isinstance(table, types.Array) and table.dtype == types.uint32 else plain

    def decorate(signature: Callable[..., Any]) -> Any:
        # numba wants the picker to have the signature of what it picks
        pick.__signature__ = inspect.signature(packed)  # pyright: ignore[reportFunctionMemberAccess]
        overload(signature)(pick)
        return signature

    return decorate


def _add_weighted_packed(
    out: Array, base: int, table: Array, index: Array, weight: Array, start: int, count: int
) -> None:
    words = table.shape[1]
    which, scale = address(index, start), address(weight, start)
    column = 0
    while column + WIDE * LANES <= words:
        low = base + column
        _sum_wide(address(out, low), address(out, low + words), address(table, column), words, which, scale, count)
        column += WIDE * LANES
    while column < words:
        low = base + column
        _sum_one(address(out, low), address(out, low + words), address(table, column), words, which, scale, count)
        column += LANES


def _add_weighted_plain(
    out: Array, base: int, table: Array, index: Array, weight: Array, start: int, count: int
) -> None:
    flat, which, scale = out.ravel(), index.ravel(), weight.ravel()
    for i in range(start, start + count):
        for column in range(table.shape[1]):
            flat[base + column] += scale[i] * table[which[i], column]


@by_table(2, _add_weighted_packed, _add_weighted_plain)
def add_weighted(out: Array, base: int, table: Array, index: Array, weight: Array, start: int, count: int) -> None:
    """Add `sum_i weight[start + i] * table[index[start + i]]` to `out[base : base + columns]`."""
    raise NotImplementedError("compiled code only")


def _add_listed_packed(
    out: Array,
    base: int,
    stride: int,
    table: Array,
    index: Array,
    weight: Array,
    offsets: Array,
    first: int,
    last: int,
) -> None:
    words, column = table.shape[1], 0
    while column < words:
        wide = column + WIDE * LANES <= words
        for i in range(first, last):
            start, count = offsets[i], offsets[i + 1] - offsets[i]
            if count == 0:
                continue
            place = base + (i - first) * stride + column
            low, high, source = address(out, place), address(out, place + words), address(table, column)
            if wide:
                _rounded_wide(low, high, source, words, address(index, start), address(weight, start), count)
            else:
                _rounded_one(low, high, source, words, address(index, start), address(weight, start), count)
        column += WIDE * LANES if wide else LANES


def _add_listed_plain(
    out: Array,
    base: int,
    stride: int,
    table: Array,
    index: Array,
    weight: Array,
    offsets: Array,
    first: int,
    last: int,
) -> None:
    flat = out.ravel()
    for i in range(first, last):
        for n in range(offsets[i], offsets[i + 1]):
            for column in range(table.shape[1]):
                flat[base + (i - first) * stride + column] += weight[n] * table[index[n], column]


@by_table(3, _add_listed_packed, _add_listed_plain)
def add_listed(
    out: Array,
    base: int,
    stride: int,
    table: Array,
    index: Array,
    weight: Array,
    offsets: Array,
    first: int,
    last: int,
) -> None:
    """For each list i from `first` to `last`, `offsets[i]` to `offsets[i + 1]`, add its weighted rows to one of `out`.

    That begins at `base + (i - first) * stride`. One block of columns after the other, for all lists.
    """
    raise NotImplementedError("compiled code only")


def _add_products_packed(out: Array, start: int, rows: Array, row: int, table: Array, index: Array, count: int) -> None:
    words = table.shape[1]
    which, target = address(index, start), address(out, start)
    column = 0
    while column + FULL * LANES <= words:
        _dots_full(target, address(rows, row * words + column), address(table, column), words, which, count)
        column += FULL * LANES
    while column + WIDE * LANES <= words:
        _dots_wide(target, address(rows, row * words + column), address(table, column), words, which, count)
        column += WIDE * LANES
    while column < words:
        _dots_one(target, address(rows, row * words + column), address(table, column), words, which, count)
        column += LANES


def _add_products_plain(out: Array, start: int, rows: Array, row: int, table: Array, index: Array, count: int) -> None:
    flat, which = out.ravel(), index.ravel()
    for i in range(start, start + count):
        for column in range(table.shape[1]):
            flat[i] += rows[row, column] * table[which[i], column]


@by_table(4, _add_products_packed, _add_products_plain)
def add_products(out: Array, start: int, rows: Array, row: int, table: Array, index: Array, count: int) -> None:
    """Add `<rows[row], table[index[start + i]]>` to `out[start + i]` for each of `count`."""
    raise NotImplementedError("compiled code only")
