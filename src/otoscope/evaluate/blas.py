"""BLAS and LAPACK on pieces of row-major matrices, called from compiled code without the interpreter.

Compiled code may not keep an address from one process to the next, so `ROUTINES` is passed down as
an argument and the routines are called through it. A row-major lower triangle L is to Fortran the
upper triangle U = L'; that is why every call below says "upper".
"""

from typing import Any

import numba
import numpy as np
from jaxtyping import Float, Int
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import get_cython_function_address, intrinsic

ROUTINES: Int[np.ndarray, " routines"] = np.array(
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
def cholesky(routines: Int[np.ndarray, " routines"], a: Float[np.ndarray, "n n"], first: int, size: int) -> int:
    """Replace the block of `size` rows and columns from `first` by its lower factor; its upper half is not touched.

    Returns 0, or the position from 1 of the first pivot that is not positive.
    """
    stride = a.shape[1]
    info = np.zeros(1, dtype=np.int32)
    _call(
        routines[_POTRF],
        (
            np.uint8(_UPPER),
            np.int32(size),
            a.ctypes.data + _BYTES * first * (stride + 1),
            np.int32(stride),
            info.ctypes.data,
        ),
    )
    return info[0]


@numba.njit(cache=True, nogil=True)
def solve_rows(
    routines: Int[np.ndarray, " routines"], a: Float[np.ndarray, "n n"], size: int, first: int, stop: int
) -> None:
    """Replace rows `first` to `stop`, up to column `size`, by R such that R L' is what stood there."""
    stride = a.shape[1]
    _call(
        routines[_TRSM],
        (
            np.uint8(_LEFT),
            np.uint8(_UPPER),
            np.uint8(_TRANSPOSED),
            np.uint8(_GENERAL),
            np.int32(size),
            np.int32(stop - first),
            np.float64(1.0),
            a.ctypes.data,
            np.int32(stride),
            a.ctypes.data + _BYTES * first * stride,
            np.int32(stride),
        ),
    )


@numba.njit(cache=True, nogil=True)
def subtract_squares(routines: Int[np.ndarray, " routines"], a: Float[np.ndarray, "n n"], size: int, stop: int) -> None:
    """Subtract R R' from the block that begins at `size`, where R is rows `size` to `stop` up to column `size`."""
    stride = a.shape[1]
    _call(
        routines[_SYRK],
        (
            np.uint8(_UPPER),
            np.uint8(_TRANSPOSED),
            np.int32(stop - size),
            np.int32(size),
            np.float64(-1.0),
            a.ctypes.data + _BYTES * size * stride,
            np.int32(stride),
            np.float64(1.0),
            a.ctypes.data + _BYTES * size * (stride + 1),
            np.int32(stride),
        ),
    )


@numba.njit(cache=True, nogil=True)
def solve(
    routines: Int[np.ndarray, " routines"], a: Float[np.ndarray, "n n"], size: int, x: Float[np.ndarray, " size"]
) -> None:
    """Replace `x` by the solution of L L' z = x with the leading factor of `size` rows."""
    stride = np.int32(a.shape[1])
    for transposed in (_TRANSPOSED, _PLAIN):
        _call(
            routines[_TRSV],
            (
                np.uint8(_UPPER),
                np.uint8(transposed),
                np.uint8(_GENERAL),
                np.int32(size),
                a.ctypes.data,
                stride,
                x.ctypes.data,
                np.int32(1),
            ),
        )
