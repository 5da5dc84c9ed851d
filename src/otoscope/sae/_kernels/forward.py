"""From rows to codes, residuals and the gradient of each code: the half of a step that runs row by row.

The encoder's product for a block of rows: the one dense product of the step.

The dense product of a few rows with 32 filters, all sums in registers.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types

from otoscope.sae._kernels.gather import COMPILED, Array, add_products, add_weighted, by_table
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
from otoscope.sae._kernels.tables import padded, padded_columns, write_row
from otoscope.sae._kernels.topk import choose, keep_only, make_keys


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


BLOCK = 64
"""Rows whose pre-activations are held at once: 512 KiB at 2,048 latents, so that they stay in the second cache."""


def sum_block(rows: int) -> int:
    """Return of how many rows one thread sums the residuals, in order: a matter of the batch, not of the threads.

    >>> [sum_block(rows) for rows in (16, 1024)]
    [8, 64]
    """
    return 64 if rows >= 512 else 8


RANGE = 512
"""Latents whose atoms are visited by all rows before the next: 768 KiB (width 768) stay in the second cache."""

VISIT = 32
"""Entries of a row that a visit should find on average: each visit loads and stores the row's residual once."""


@njit(**COMPILED)
def normalise_rows(
    rows: Array,
    centre: Array,
    inverse_scale: Array,
    bias: Array,
    inputs: Array,
    residuals: Array,
    start: int,
    stop: int,
) -> None:
    """Write `x' = (x - centre) / scale` to the inputs, and `bias - x'` to the residuals, to which atoms are added."""
    width, line = rows.shape[1], np.zeros(padded_columns(inputs), residuals.dtype)
    for row in range(start, stop):
        for i in range(width):
            value = (rows[row, i] - centre[i]) * inverse_scale[i]
            line[i] = value
            residuals[row, i] = bias[i] - value
        for i in range(width, residuals.shape[1]):
            residuals[row, i] = 0
        write_row(inputs, row, line, 0)


@njit(**COMPILED)
def encode_rows(
    inputs: Array,
    filters: Array,
    bias: Array,
    index: Array,
    code: Array,
    active: Array,
    wanted: Array,
    aux_index: Array,
    aux_code: Array,
    aux_active: Array,
    start: int,
    stop: int,
) -> None:
    """Choose the latents of each row, ascending, with their codes; and those of AuxK where any are wanted."""
    latents = bias.shape[0]
    out = np.empty((min(BLOCK, stop - start), padded(latents)), code.dtype)
    single, keys = np.zeros(latents, np.float32), np.zeros(padded(latents), np.int16)
    places = np.empty(latents + 16, np.int32)
    for first in range(start, stop, BLOCK):
        count = min(BLOCK, stop - first)
        multiply(out, inputs, first, count, filters)
        for i in range(count):
            make_keys(out[i], bias, single, keys)
            active[first + i] = _take(out[i], keys, index[first + i], code[first + i], places)
            if aux_index.shape[1]:
                keep_only(keys, wanted)
                aux_active[first + i] = _take(out[i], keys, aux_index[first + i], aux_code[first + i], places)


@njit(**COMPILED)
def _take(values: Array, keys: Array, index: Array, code: Array, places: Array) -> int:
    found = choose(values, keys, index.shape[0], places)
    for i in range(found):
        index[i] = places[i]
        code[i] = values[places[i]]
    return found


@njit(**COMPILED)
def count_latents(index: Array, active: Array, counts: Array, start: int, stop: int) -> None:
    """Count in how many of these rows each latent is active."""
    counts[:] = 0
    for row in range(start, stop):
        for i in range(active[row]):
            counts[index[row, i]] += 1


@njit(**COMPILED)
def find_ranges(index: Array, active: Array, latents: int, start: int, stop: int) -> Array:
    """Return where in each row's ascending entries each range of latents begins, `[ranges + 1, rows]`."""
    size = max(RANGE, latents * VISIT // max(index.shape[1], 1))
    ranges = -(-latents // size)
    bounds = np.zeros((ranges + 1, stop - start), np.int32)
    for row in range(start, stop):
        line, place = index[row], 0
        for part in range(1, ranges):
            while place < active[row] and line[place] < part * size:
                place += 1
            bounds[part, row - start] = place
        bounds[ranges, row - start] = active[row]
    return bounds


@njit(**COMPILED)
def decode_rows(
    index: Array, code: Array, bounds: Array, atoms: Array, residuals: Array, start: int, stop: int
) -> None:
    """Add the active atoms of each row to its residual, which becomes `rebuilt - x'`."""
    k, columns = index.shape[1], residuals.shape[1]
    for part in range(bounds.shape[0] - 1):
        for row in range(start, stop):
            low, high = bounds[part, row - start], bounds[part + 1, row - start]
            if low < high:
                add_weighted(residuals, row * columns, atoms, index, code, row * k + low, high - low)


@njit(**COMPILED)
def sum_columns(residuals: Array, sums: Array, block: int, start: int, stop: int) -> None:
    """Sum the residuals of every `block` rows, `start` being the first row of a block."""
    for first in range(start, stop, block):
        total = sums[first // block]
        total[:] = 0
        for row in range(first, min(first + block, stop)):
            for i in range(total.shape[0]):
                total[i] += residuals[row, i]


@njit(**COMPILED, fastmath={"reassoc", "contract"})
def finish_rows(residuals: Array, table: Array, squares: Array, start: int, stop: int) -> None:
    """Sum each residual's squares and put it into its table."""
    for row in range(start, stop):
        line = residuals[row]
        total = residuals.dtype.type(0)
        for i in range(line.shape[0]):
            total += line[i] * line[i]
        squares[row] = total
        write_row(table, row, residuals, row * residuals.shape[1])


@njit(**COMPILED)
def take_slopes(index: Array, bounds: Array, atoms: Array, table: Array, slope: Array, start: int, stop: int) -> None:
    """Write `<residual, atom>` for every active entry."""
    k = index.shape[1]
    slope[start:stop] = 0
    for part in range(bounds.shape[0] - 1):
        for row in range(start, stop):
            low, high = bounds[part, row - start], bounds[part + 1, row - start]
            if low < high:
                add_products(slope, row * k + low, table, row, atoms, index, high - low)


@njit(**COMPILED)
def rebuild_rows(
    index: Array,
    code: Array,
    slope: Array,
    active: Array,
    counts: Array,
    table: Array,
    squares: Array,
    atoms: Array,
    residuals: Array,
    sums: Array,
    block: int,
    start: int,
    stop: int,
) -> None:
    """Decode rows into their residuals, sum these where `sums` has room, and take the slope of every active code."""
    bounds = find_ranges(index, active, atoms.shape[0], start, stop)
    decode_rows(index, code, bounds, atoms, residuals, start, stop)
    if sums.shape[0]:
        sum_columns(residuals, sums, block, start, stop)
    finish_rows(residuals, table, squares, start, stop)
    take_slopes(index, bounds, atoms, table, slope, start, stop)
    count_latents(index, active, counts, start, stop)
