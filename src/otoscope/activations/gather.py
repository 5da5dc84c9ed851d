"""The inner loop of reading: rows of a mapped tensor, straight to their places, widened on the way."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Int64
from numba import njit

from otoscope.activations.tensorfile import Mapped


class _Widening(NamedTuple):
    """How the bits of a stored number become a float32: two masked parts, each moved to the left."""

    bits: type[np.generic]
    magnitude: np.uint32
    by: np.uint32
    sign: np.uint32
    sign_by: np.uint32


_WIDENINGS = {
    "float32": _Widening(np.uint32, np.uint32(0xFFFFFFFF), np.uint32(0), np.uint32(0), np.uint32(0)),
    # the upper half of the float32 of the same value
    "bfloat16": _Widening(np.uint16, np.uint32(0xFFFF), np.uint32(16), np.uint32(0), np.uint32(0)),
    # exponent and mantissa where float32 has them: the value times 2 ** -112, subnormals too
    "float16": _Widening(np.uint16, np.uint32(0x7FFF), np.uint32(13), np.uint32(0x8000), np.uint32(16)),
}


@njit(cache=True, nogil=True)
def _widen(bits: Any, magnitude: Any, by: Any, sign: Any, sign_by: Any) -> Any:
    return ((np.uint32(bits) & magnitude) << by) | ((np.uint32(bits) & sign) << sign_by)


@njit(cache=True, nogil=True)
def _gather(source: Any, offset: Any, place: Any, out: Any, magnitude: Any, by: Any, sign: Any, sign_by: Any) -> None:
    # four rows at a time: rows lie far apart, and the waits for their memory overlap
    fours = offset.shape[0] // 4 * 4
    for i in range(0, fours, 4):
        row_0, row_1, row_2, row_3 = offset[i], offset[i + 1], offset[i + 2], offset[i + 3]
        at_0, at_1, at_2, at_3 = place[i], place[i + 1], place[i + 2], place[i + 3]
        for j in range(source.shape[1]):
            out[at_0, j] = _widen(source[row_0, j], magnitude, by, sign, sign_by)
            out[at_1, j] = _widen(source[row_1, j], magnitude, by, sign, sign_by)
            out[at_2, j] = _widen(source[row_2, j], magnitude, by, sign, sign_by)
            out[at_3, j] = _widen(source[row_3, j], magnitude, by, sign, sign_by)
    for i in range(fours, offset.shape[0]):
        for j in range(source.shape[1]):
            out[place[i], j] = _widen(source[offset[i], j], magnitude, by, sign, sign_by)


def gather(
    mapped: Mapped,
    offset: Int64[np.ndarray, " rows"],
    place: Int64[np.ndarray, " rows"],
    out: Float32[np.ndarray, "places width"],
) -> None:
    """Write row `offset[i]` of a mapped tensor to row `place[i]` of `out`, in units of `scale(dtype)`.

    Offsets must lie within the tensor and values must be finite, as a store's are: nothing is checked here.
    """
    widening = _WIDENINGS[mapped.dtype]
    _gather(mapped.values.view(widening.bits), offset, place, out.view(np.uint32), *widening[1:])


def scale(dtype: str) -> np.float32:
    """Return what gathered rows have to be multiplied by: a power of two, so that nothing is rounded.

    >>> scale("float32")
    np.float32(1.0)
    """
    return np.float32(2.0**112 if dtype == "float16" else 1.0)
