"""The encoder's product for a block of rows: the one dense product of the step."""

from numba import njit

from otoscope.sae.kernels.gather import COMPILED, Array
from otoscope.sae.kernels.lanes import LANES, address, product_tile

TALL = 8
"""Rows a tile: 8 rows by 32 latents keep 16 sums in registers, and each load of filters serves 8 rows."""

_tall, _single = product_tile(TALL), product_tile(1)


@njit(**COMPILED)
def multiply_rows(out: Array, rows: Array, first: int, count: int, filters: Array) -> None:
    """Write the products of `count` packed rows with all filters to `out` `[count, padded latents]`.

    Groups of filters are the outer loop: 48 KiB of them (width 768) stay in the second cache while all rows pass.
    """
    words, stride = rows.shape[1], out.shape[1]
    for group in range(0, filters.shape[0], 2):
        weights = address(filters, group * words * LANES)
        row = 0
        while row + TALL <= count:
            target, source = address(out, row * stride + group * LANES), address(rows, (first + row) * words)
            _tall(target, stride, source, words, weights, words)
            row += TALL
        while row < count:
            target, source = address(out, row * stride + group * LANES), address(rows, (first + row) * words)
            _single(target, stride, source, words, weights, words)
            row += 1
