"""Tables of rows that compiled loops gather: their storage, sums of rows, and products with rows.

Plain Numba, compiled for the vector unit of the machine and cached beside the sources. Tables hold copies of weights
and rows for reading: plain floats, or bfloat16 in words of two columns each, which halves the memory traffic. The low
half of word i is column i, the high half column `i + words`, so that both halves of a vector of words are vectors of
neighbouring columns. Sums are in the precision of the weights. Lines that are added to rows of a table have its number
of columns: the width, for words rounded up to an even number and padded with zero.
"""

from typing import Any, TypeAlias

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

Array: TypeAlias = NDArray[Any]

COMPILED: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy", "_nrt": False}
"""Without Numba's counts of references, which cost time in short loops: compiled functions allocate no arrays."""
SUMMED: dict[str, Any] = {**COMPILED, "fastmath": {"reassoc", "contract"}}
"""Sums may be reordered, so that they use vectors; the order depends on the machine, not on the threads."""

WORDS, BITS = np.dtype(np.uint32), np.dtype(np.uint16)
"""Types of bfloat16 in words of two, and alone."""
HALF, UPPER = np.uint32(16), np.uint32(0xFFFF0000)


def new_table(rows: int, width: int, precision: torch.dtype) -> Tensor:
    """Allocate a table for products and kernels; rows of bfloat16 have an even number of columns."""
    return torch.zeros(rows, width + width % 2 if precision == torch.bfloat16 else width, dtype=precision)


def as_table(values: Tensor) -> Array:
    """Return a table as an array that shares its memory; bfloat16 as words of two columns."""
    values = values.detach()
    return values.view(torch.int32).numpy().view(WORDS) if values.dtype == torch.bfloat16 else values.numpy()


def as_bits(values: Tensor) -> Array:
    """Return a tensor as an array that shares its memory; bfloat16 as its bits."""
    return (values.view(torch.uint16) if values.dtype == torch.bfloat16 else values).numpy()


@njit(**COMPILED)
def low_half(word: int) -> Any:
    """Return the low half of a word as a float."""
    return np.uint32(np.uint32(word) << HALF).view(np.float32)


@njit(**COMPILED)
def high_half(word: int) -> Any:
    """Return the high half of a word as a float."""
    return np.uint32(np.uint32(word) & UPPER).view(np.float32)


@njit(**COMPILED)
def rounded(value: float) -> Any:
    """Return the bits of a float whose upper half is the nearest bfloat16, of two the even one."""
    bits = np.uint32(np.float32(value).view(np.uint32))
    return np.uint32(bits + np.uint32(0x7FFF) + ((bits >> HALF) & np.uint32(1)))


@njit(**COMPILED)
def pack(low: float, high: float) -> Any:
    """Return the word of two floats."""
    return np.uint32(np.uint32(rounded(low) >> HALF) | np.uint32(rounded(high) & UPPER))


@njit(**COMPILED)
def store_row(line: Array, entries: Array) -> None:
    """Copy a line, padded or not, into a row of a table; the row may be the line itself."""
    words = entries.shape[0]
    if entries.dtype == WORDS:  # known at compile time
        low, high = line[:words], line[words:]
        pairs = min(high.shape[0], words)
        for i in range(pairs):
            entries[i] = pack(low[i], high[i])
        for i in range(pairs, words):
            entries[i] = pack(low[i], 0.0)
    else:
        for i in range(words):
            entries[i] = line[i]


@njit(**COMPILED)
def store_rows(lines: Array, table: Array) -> None:
    """Copy lines into the rows of a table."""
    for row in range(lines.shape[0]):
        store_row(lines[row], table[row])


# Sums over active entries. Eight rows of a table per pass: the sum is loaded and stored once for all of them.


@njit(**SUMMED)
def add_rows(total: Array, table: Array, index: Array, weight: Array, start: int, stop: int) -> None:
    """Add `sum of weight[e] * table[index[e]]` over the entries from `start` to `stop`."""
    words, e = table.shape[1], start
    low, high = total[:words], total[words:]
    while e + 8 <= stop:
        i1, i2, i3, i4 = index[e], index[e + 1], index[e + 2], index[e + 3]
        i5, i6, i7, i8 = index[e + 4], index[e + 5], index[e + 6], index[e + 7]
        w1, w2, w3, w4 = weight[e], weight[e + 1], weight[e + 2], weight[e + 3]
        w5, w6, w7, w8 = weight[e + 4], weight[e + 5], weight[e + 6], weight[e + 7]
        a, b, c, d, f, g, h, m = table[i1], table[i2], table[i3], table[i4], table[i5], table[i6], table[i7], table[i8]
        if table.dtype == WORDS:
            for i in range(words):
                x = low[i] + w1 * low_half(a[i]) + w2 * low_half(b[i]) + w3 * low_half(c[i]) + w4 * low_half(d[i])
                y = high[i] + w1 * high_half(a[i]) + w2 * high_half(b[i]) + w3 * high_half(c[i]) + w4 * high_half(d[i])
                low[i] = x + w5 * low_half(f[i]) + w6 * low_half(g[i]) + w7 * low_half(h[i]) + w8 * low_half(m[i])
                high[i] = y + w5 * high_half(f[i]) + w6 * high_half(g[i]) + w7 * high_half(h[i]) + w8 * high_half(m[i])
        else:
            for i in range(words):
                x = low[i] + w1 * a[i] + w2 * b[i] + w3 * c[i] + w4 * d[i]
                low[i] = x + w5 * f[i] + w6 * g[i] + w7 * h[i] + w8 * m[i]
        e += 8
    while e < stop:
        add_row(total, table[index[e]], weight[e])
        e += 1


@njit(**SUMMED)
def add_row(total: Array, entries: Array, weight: float) -> None:
    """Add `weight` times a row of a table."""
    words = entries.shape[0]
    low, high = total[:words], total[words:]
    if entries.dtype == WORDS:
        for i in range(words):
            low[i] += weight * low_half(entries[i])
            high[i] += weight * high_half(entries[i])
    else:
        for i in range(words):
            low[i] += weight * entries[i]


@njit(**SUMMED)
def multiply_rows(out: Array, line: Array, table: Array, index: Array, start: int, stop: int) -> None:
    """Write `<line, table[index[e]]>` of the entries from `start` to `stop` to `out[e]`, four at once."""
    words, last, zero = table.shape[1], stop - 1, line.dtype.type(0)
    low, high = line[:words], line[words:]
    for e in range(start, stop, 4):
        f, g, h = min(e + 1, last), min(e + 2, last), min(e + 3, last)  # the last entry may be repeated
        a, b, c, d = table[index[e]], table[index[f]], table[index[g]], table[index[h]]
        p, q, r, s = zero, zero, zero, zero
        if table.dtype == WORDS:
            for i in range(words):
                x, y = low[i], high[i]
                p += x * low_half(a[i]) + y * high_half(a[i])
                q += x * low_half(b[i]) + y * high_half(b[i])
                r += x * low_half(c[i]) + y * high_half(c[i])
                s += x * low_half(d[i]) + y * high_half(d[i])
        else:
            for i in range(words):
                x = low[i]
                p += x * a[i]
                q += x * b[i]
                r += x * c[i]
                s += x * d[i]
        out[e], out[f], out[g], out[h] = p, q, r, s


@njit(**SUMMED)
def dot(a: Array, b: Array) -> Any:
    """Return the inner product of two rows."""
    total = a.dtype.type(0)
    for i in range(a.shape[0]):
        total += a[i] * b[i]
    return total
