"""The inner loop of reading: rows wherever they are mapped, straight into a batch, widened on the way.

Rows lie far apart, so what reading costs is waiting for memory. Each row's address is worked out first, and while one
row is copied the lines of a later one are already asked for.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.numpy_support import carray

AHEAD = 6
"""Rows asked for before their turn: the shortest rows gain from so many, and none loses by it."""

LINE = 64
"""Bytes of a cache line."""

SECOND_CACHE = 2
"""How near to the processor LLVM is told to bring a line; into the first cache took a third longer on Zen 4."""

WIDENED = np.float32(2.0**112)
"""What a float16's exponent and mantissa, moved to where a float32 has them, are too small by; subnormals too."""


def _compiled(generator: Callable[..., Any]) -> Callable[[Any], Any]:
    """Make a function of one number that compiles to the code that `generator` gives."""
    return intrinsic(generator)


@_compiled
def _pointer(_typing: Any, address: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(address), generate


@_compiled
def _fetch_line(_typing: Any, address: Any) -> Any:
    """Ask for a cache line; an address that is not mapped is ignored by the processor."""

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        fetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        read, data = number(0), number(1)
        builder.call(fetch, [builder.inttoptr(arguments[0], byte), read, number(SECOND_CACHE), data])
        return context.get_dummy_value()

    return types.void(address), generate


@_compiled
def _as_float(_typing: Any, _bits: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.uint32), generate


@njit(cache=True, nogil=True)
def _fetch(addresses: Any, i: Any, row_bytes: Any) -> None:
    if i < addresses.shape[0]:
        for byte in range(0, row_bytes, LINE):
            _fetch_line(addresses[i] + byte)


@njit(cache=True, nogil=True)
def _gather_float32(addresses: Any, out: Any) -> None:
    for i in range(addresses.shape[0]):
        _fetch(addresses, i + AHEAD, 4 * out.shape[1])
        row, place = carray(_pointer(addresses[i]), (out.shape[1],), np.float32), out[i]
        for j in range(out.shape[1]):
            place[j] = row[j]


@njit(cache=True, nogil=True)
def _gather_float16(addresses: Any, out: Any) -> None:
    for i in range(addresses.shape[0]):
        _fetch(addresses, i + AHEAD, 2 * out.shape[1])
        row, place = carray(_pointer(addresses[i]), (out.shape[1],), np.uint16), out[i]
        for j in range(out.shape[1]):
            bits = np.uint32(row[j])
            magnitude = (bits & np.uint32(0x7FFF)) << np.uint32(13)
            sign = (bits & np.uint32(0x8000)) << np.uint32(16)
            place[j] = _as_float(magnitude | sign) * WIDENED


@njit(cache=True, nogil=True)
def _gather_bfloat16(addresses: Any, out: Any) -> None:
    # a bfloat16 is the upper half of the float32 of the same value
    for i in range(addresses.shape[0]):
        _fetch(addresses, i + AHEAD, 2 * out.shape[1])
        row, place = carray(_pointer(addresses[i]), (out.shape[1],), np.uint16), out[i]
        for j in range(out.shape[1]):
            place[j] = _as_float(np.uint32(row[j]) << np.uint32(16))


_GATHER = {"float32": _gather_float32, "float16": _gather_float16, "bfloat16": _gather_bfloat16}


def gather_rows(
    addresses: Int64[np.ndarray, " rows"],
    dtype: str,
    out: Float32[np.ndarray, "rows width"],
) -> None:
    """Copy the stored row at `addresses[i]` to `out[i]`, exactly, on one thread.

    A second thread brought nothing on a machine with others on it: a batch is gathered in less than a millisecond, of
    which waking a thread and waiting for it took too much. Addresses must be those of rows of `width` finite numbers of
    that precision: nothing is checked here.
    """
    _GATHER[dtype](addresses, out)


@njit(cache=True, nogil=True)
def find_addresses(
    indices: Any, starts: Any, guide: Any, stride: Any, bases: Any, row_bytes: Any, addresses: Any
) -> Any:
    """Work out where rows lie in memory; return the first clip of them that is not mapped yet, or -1.

    Clip c holds the rows `starts[c]` to `starts[c + 1]`; its first row lies at `bases[c]`, 0 where it is not mapped.
    Row i lies in the clips `guide[i // stride]` to `guide[i // stride + 1]`.
    """
    low = 0
    for i in range(indices.shape[0]):
        if not starts[low] <= indices[i] < starts[low + 1]:
            near = indices[i] // stride
            low, high = guide[near], guide[near + 1] + 1
            while high - low > 1:
                middle = (low + high) // 2
                if starts[middle] <= indices[i]:
                    low = middle
                else:
                    high = middle
        if bases[low] == 0:
            return low
        addresses[i] = bases[low] + (indices[i] - starts[low]) * row_bytes
    return -1
