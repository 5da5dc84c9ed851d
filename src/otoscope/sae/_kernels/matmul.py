"""The encoder's product for a block of rows: the one dense product of the step.

The dense product of a few rows with 32 filters, all sums in registers.
"""

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import njit, types

from otoscope.sae._kernels.gather import COMPILED, Array, by_table
from otoscope.sae._kernels.llvm import (
    FLOATS,
    I64,
    LANES,
    WORDS,
    Builder,
    Value,
    address,
    at,
    intrinsic,
    load,
    loop,
    pair_products,
    splat,
    store,
)


def product_tile(rows: int) -> Any:
    """Make `f(out, out_stride, x, x_stride, filters, words)`: inner products of `rows` rows with 32 filters.

    `filters` points at two groups of 16, each stored `[words, 16]`: one word of 16 filters side by side.
    """

    @intrinsic
    def kernel(_c: Any, out: Any, _out_stride: Any, x: Any, _x_stride: Any, filters: Any, _words: Any) -> Any:
        def emit(context: Any, builder: Builder, _signature: Any, values: Sequence[Value]) -> Value:
            out, out_stride, x, x_stride, filters, words = values
            offsets = [builder.mul(x_stride, ir.Constant(I64, r)) for r in range(rows)]
            starts = [at(builder, x, offset) for offset in offsets]
            second = at(builder, filters, builder.mul(words, ir.Constant(I64, LANES)))

            def step(i: Value, *sums: Value) -> list[Value]:
                lane = builder.mul(i, ir.Constant(I64, LANES))
                columns = [load(builder, group, lane, WORDS) for group in (filters, second)]
                pairs = [splat(builder, builder.load(at(builder, start, i))) for start in starts]
                return [
                    pair_products(builder, sums[2 * r + c], pairs[r], columns[c]) for r in range(rows) for c in range(2)
                ]

            sums = loop(builder, words, [ir.Constant(FLOATS, [0.0] * LANES)] * (2 * rows), step)
            for r in range(rows):
                line = at(builder, out, builder.mul(out_stride, ir.Constant(I64, r)))
                for c in range(2):
                    store(builder, sums[2 * r + c], line, LANES * c)
            return context.get_dummy_value()

        return types.void(out, types.int64, x, types.int64, filters, types.int64), emit

    return kernel


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
