"""Incremental Cholesky factor of a Gram matrix on the active features (those with nonzero weight).

The factor G[order, order] = L L' stays valid up to the first feature that becomes inactive. The rest is
refactored: remaining rows are moved up, new ones are appended, and only the block of the features after
that position is decomposed. Features likely to become inactive should therefore come last. Sparse codes
hold many features that are determined by others (latents that fire on the same single row): the factor
ends before the first such feature and returns it.

BLAS and LAPACK are called from compiled code, on parts of row-major matrices, without the interpreter.

Compiled code may not keep an address from one process to the next, so `ROUTINES` is passed down as
an argument and the routines are called through it. A row-major lower triangle L is to Fortran the
upper triangle U = L'; that is why every call below says "upper".
"""

from typing import Any, NamedTuple, TypeAlias

import numba
import numpy as np
from jaxtyping import Bool, Float, Int
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import get_cython_function_address, intrinsic

Routines: TypeAlias = Int[np.ndarray, " routines"]
Gram: TypeAlias = Float[np.ndarray, "p p"]
PerFeature: TypeAlias = Float[np.ndarray, " p"]

ROUTINES: Routines = np.array(
    [
        get_cython_function_address("scipy.linalg.cython_lapack", "dpotrf"),
        get_cython_function_address("scipy.linalg.cython_blas", "dtrsm"),
        get_cython_function_address("scipy.linalg.cython_blas", "dsyrk"),
        get_cython_function_address("scipy.linalg.cython_blas", "dtrsv"),
    ],
    dtype=np.int64,
)
_POTRF, _TRSM, _SYRK, _TRSV = range(4)
_LEFT, _UPPER, _TRANSPOSED, _PLAIN, _GENERAL = (ord(letter) for letter in "LUTNN")
_BYTES = 8


def _call_by_address(_context: Any, address: Any, arguments: Any) -> Any:
    """Call the routine at `address`: 64-bit integers are pointers, everything else is passed by reference."""
    kinds = list(arguments)

    def generate(context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        pointer = ir.IntType(8).as_pointer()
        passed = []
        for place, kind in enumerate(kinds):
            value = builder.extract_value(values[1], place)
            if kind in (types.intp, types.uintp):
                passed.append(builder.inttoptr(value, pointer))
            else:
                passed.append(builder.bitcast(cgutils.alloca_once_value(builder, value), pointer))
        form = ir.FunctionType(ir.VoidType(), [pointer] * len(kinds))
        builder.call(builder.inttoptr(values[0], form.as_pointer()), passed)
        return context.get_dummy_value()

    return types.void(address, arguments), generate


_call: Any = intrinsic(_call_by_address)


@numba.njit(cache=True, nogil=True)
def cholesky(routines: Routines, a: Float[np.ndarray, "n n"], first: int, size: int) -> int:
    """Replace the block of `size` rows and columns from `first` by its lower factor; its upper half is not touched.

    Returns 0, or the position from 1 of the first pivot that is not positive.
    """
    stride = a.shape[1]
    info = np.zeros(1, dtype=np.int32)
    block = a.ctypes.data + _BYTES * first * (stride + 1)
    _call(routines[_POTRF], (np.uint8(_UPPER), np.int32(size), block, np.int32(stride), info.ctypes.data))
    return info[0]


@numba.njit(cache=True, nogil=True)
def solve_rows(routines: Routines, a: Float[np.ndarray, "n n"], size: int, first: int, stop: int) -> None:
    """Replace rows `first` to `stop`, up to column `size`, by R such that R L' is what stood there."""
    stride = a.shape[1]
    rows = a.ctypes.data + _BYTES * first * stride
    flags = np.uint8(_LEFT), np.uint8(_UPPER), np.uint8(_TRANSPOSED), np.uint8(_GENERAL)
    shape = np.int32(size), np.int32(stop - first)
    _call(routines[_TRSM], (*flags, *shape, np.float64(1.0), a.ctypes.data, np.int32(stride), rows, np.int32(stride)))


@numba.njit(cache=True, nogil=True)
def subtract_squares(routines: Routines, a: Float[np.ndarray, "n n"], size: int, stop: int) -> None:
    """Subtract R R' from the block that begins at `size`, where R is rows `size` to `stop` up to column `size`."""
    stride = a.shape[1]
    rows = a.ctypes.data + _BYTES * size * stride
    flags, shape = (np.uint8(_UPPER), np.uint8(_TRANSPOSED)), (np.int32(stop - size), np.int32(size))
    source = np.float64(-1.0), rows, np.int32(stride)
    target = np.float64(1.0), rows + _BYTES * size, np.int32(stride)
    _call(routines[_SYRK], (*flags, *shape, *source, *target))


@numba.njit(cache=True, nogil=True)
def solve(routines: Routines, a: Float[np.ndarray, "n n"], size: int, x: Float[np.ndarray, " size"]) -> None:
    """Replace `x` by the solution of L L' z = x with the leading factor of `size` rows."""
    matrix, vector = (a.ctypes.data, np.int32(a.shape[1])), (x.ctypes.data, np.int32(1))
    for transposed in (_TRANSPOSED, _PLAIN):
        flags = np.uint8(_UPPER), np.uint8(transposed), np.uint8(_GENERAL)
        _call(routines[_TRSV], (*flags, np.int32(size), *matrix, *vector))


MIN_NEW_VARIANCE = 1e-10
"""Minimum share of a feature's variance that the features before it do not explain."""
NO_FEATURE = -1
"""No feature."""


class ActiveSet(NamedTuple):
    """Factor of up to `most` active features, `size[0]` of them in use."""

    factor: Float[np.ndarray, "most most"]
    order: Int[np.ndarray, " most"]
    size: Int[np.ndarray, " one"]


@numba.njit(cache=True, nogil=True)
def empty_active_set(most: int) -> ActiveSet:
    """Return an empty active set for up to `most` features (the rank of the Gram matrix)."""
    return ActiveSet(np.empty((most, most)), np.zeros(most, dtype=np.int64), np.zeros(1, dtype=np.int64))


@numba.njit(cache=True, nogil=True)
def update_factor(routines: Routines, gram: Gram, weights: PerFeature, support: ActiveSet) -> int:
    """Update the factor to the features with nonzero weight.

    An empty factor starts with the largest weights, since small weights are the first to vanish. Returns a feature that
    is determined by those before it, at which the factor ends, or one that exceeds the capacity, or NO_FEATURE.
    """
    if support.size[0] == 0:
        return _new_factor(routines, gram, weights, support)
    order, size = support.order, support.size[0]
    inside = np.zeros(len(weights), dtype=np.bool_)
    solid = 0
    while solid < size and weights[order[solid]] != 0.0:
        inside[order[solid]] = True
        solid += 1
    stop = _move_up(weights, support, inside, solid)
    stayed, beyond = stop, NO_FEATURE
    for j in range(len(weights)):
        if weights[j] != 0.0 and not inside[j]:
            if stop == len(order):
                beyond = j
                break
            order[stop] = j
            stop += 1
    if stop > stayed and solid > 0:
        _append(routines, gram, support, solid, stayed, stop)
    determined = _factor_tail(routines, gram, support, solid, stop)
    return beyond if determined == NO_FEATURE else determined


@numba.njit(cache=True, nogil=True)
def _new_factor(routines: Routines, gram: Gram, weights: PerFeature, support: ActiveSet) -> int:
    """Factor the features with nonzero weight, the largest weights first."""
    # loops instead of array expressions, which take several times as long to compile
    chosen = np.flatnonzero(weights)
    keys = np.empty(len(chosen))
    for i in range(len(chosen)):
        keys[i] = -abs(weights[chosen[i]])
    heaviest = np.argsort(keys, kind="mergesort")
    stop = min(len(chosen), len(support.order))
    for i in range(stop):
        support.order[i] = chosen[heaviest[i]]
    determined = _factor_tail(routines, gram, support, 0, stop)
    return int(chosen[heaviest[stop]]) if determined == NO_FEATURE and stop < len(heaviest) else determined


@numba.njit(cache=True, nogil=True)
def _move_up(weights: PerFeature, support: ActiveSet, inside: Bool[np.ndarray, " p"], solid: int) -> int:
    """Close the gaps that inactive features leave after the first `solid` ones; return the number of active ones."""
    factor, order, stop = support.factor, support.order, solid
    for i in range(solid, support.size[0]):
        if weights[order[i]] != 0.0:
            if stop != i:
                for k in range(solid):
                    factor[stop, k] = factor[i, k]
            order[stop] = order[i]
            inside[order[i]] = True
            stop += 1
    return stop


@numba.njit(cache=True, nogil=True)
def _append(routines: Routines, gram: Gram, support: ActiveSet, solid: int, stayed: int, stop: int) -> None:
    """Fill the first `solid` columns of the new rows."""
    factor, order = support.factor, support.order
    for i in range(stayed, stop):
        row = gram[order[i]]
        for k in range(solid):
            factor[i, k] = row[order[k]]
    solve_rows(routines, factor, solid, stayed, stop)


@numba.njit(cache=True, nogil=True)
def _factor_tail(routines: Routines, gram: Gram, support: ActiveSet, solid: int, stop: int) -> int:
    """Decompose the block after the first `solid` features."""
    factor, order = support.factor, support.order
    support.size[0] = stop
    if stop == solid:
        return NO_FEATURE
    for i in range(solid, stop):
        row = gram[order[i]]
        for k in range(solid, i + 1):
            factor[i, k] = row[order[k]]
    if solid > 0:
        subtract_squares(routines, factor, solid, stop)
    failed = cholesky(routines, factor, solid, stop - solid)
    whole = stop if failed == 0 else solid + failed - 1
    for i in range(solid, whole):
        if factor[i, i] ** 2 < MIN_NEW_VARIANCE * gram[order[i], order[i]]:
            whole = i
            break
    support.size[0] = whole
    return order[whole] if whole < stop else NO_FEATURE


@numba.njit(cache=True, nogil=True)
def all_nonzero(weights: PerFeature, support: ActiveSet) -> bool:
    """Return whether all features of the factor have nonzero weight."""
    for i in range(support.size[0]):
        if weights[support.order[i]] == 0.0:
            return False
    return support.size[0] > 0
