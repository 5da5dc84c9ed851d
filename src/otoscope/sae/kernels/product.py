"""The encoder's product for a block of rows: the one dense product of the step."""

from numba import njit

from otoscope.sae.kernels.gather import COMPILED, Array, by_table
from otoscope.sae.kernels.lanes import LANES, address
from otoscope.sae.kernels.tiles import product_tile

TALL = 8
"""Rows a tile: 8 rows by 32 latents keep 16 sums in registers, and each load of filters serves 8 rows."""

_tall, _single = product_tile(TALL), product_tile(1)


def _multiply_packed(out: Array, rows: Array, first: int, count: int, filters: Array) -> None:
    """Multiply tile by tile.

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


def _multiply_plain(out: Array, rows: Array, first: int, count: int, filters: Array) -> None:
    for row in range(count):
        for latent in range(filters.shape[0]):
            total = out.dtype.type(0)
            for i in range(filters.shape[1]):
                total += rows[first + row, i] * filters[latent, i]
            out[row, latent] = total


@by_table(1, _multiply_packed, _multiply_plain)
def multiply(out: Array, rows: Array, first: int, count: int, filters: Array) -> None:
    """Write the products of `count` rows of a table with all filters to `out` `[count, padded latents]`."""
    raise NotImplementedError("compiled code only")


@njit(**COMPILED)
def multiply_rows(out: Array, rows: Array, first: int, count: int, filters: Array) -> None:
    """Do `multiply`, callable from outside compiled code."""
    multiply(out, rows, first, count, filters)
