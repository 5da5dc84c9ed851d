"""From rows to codes, residuals and the gradient of each code: the half of a step that runs row by row.

The encoder's product is the one dense product of the step: tiles of a few rows and 32 filters, all sums in registers.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types

from otoscope.sae._kernels.buffers import Entries, Workspace
from otoscope.sae._kernels.gather import add_products, add_weighted
from otoscope.sae._kernels.llvm import (
    COMPILED,
    I64,
    LANES,
    WORDS,
    Array,
    Builder,
    Value,
    address,
    at,
    constant,
    intrinsic,
    load,
    loop,
    pair_products,
    splat,
    store,
)
from otoscope.sae._kernels.tables import padded, write_row
from otoscope.sae._kernels.topk import choose, keep_only, make_keys


def product_tile(rows: int) -> Any:
    """Create `f(out, out_stride, x, x_stride, filters, words)`: inner products of `rows` rows with 32 filters.

    `filters` points at two groups of 16, each stored `[words, 16]`: one word of 16 filters next to each other.
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

            sums = loop(builder, words, [constant(0.0)] * (2 * rows), step)
            for r in range(rows):
                line = at(builder, out, builder.mul(out_stride, ir.Constant(I64, r)))
                for c in range(2):
                    store(builder, sums[2 * r + c], line, LANES * c)
            return context.get_dummy_value()

        return types.void(out, types.int64, x, types.int64, filters, types.int64), emit

    return kernel


TALL = 8
"""Rows per tile: 8 rows by 32 latents keep 16 sums in registers, and each load of filters serves 8 rows."""

_tall, _single = product_tile(TALL), product_tile(1)


@njit(**COMPILED)
def multiply_rows(out: Array, rows: Array, first: int, count: int, filters: Array) -> None:
    """Write the products of `count` rows of a table with all filters to `out` `[count, padded latents]`.

    Groups of filters are the outer loop: 48 KiB of them (width 768) stay in the second cache for all rows.
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


BLOCK = 64
"""Rows whose pre-activations are computed together: 512 KiB at 2,048 latents, which fit in the second cache."""
RANGE = 512
"""Latents whose atoms are visited by all rows before the next: 768 KiB (width 768) fit in the second cache."""
VISIT = 32
"""Mean number of entries of a row per visit: each visit loads and stores the row's residual once."""


@njit(**COMPILED)
def normalise_rows(
    rows: Array, centre: Array, inverse_scale: Array, bias: Array, work: Workspace, start: int, stop: int
) -> None:
    """Write `x' = (x - centre) / scale` to the inputs, and `bias - x'` to the residuals, to which atoms are added."""
    residuals = work.residuals
    width, line = rows.shape[1], np.zeros(residuals.shape[1], np.float32)
    for row in range(start, stop):
        for i in range(width):
            value = (rows[row, i] - centre[i]) * inverse_scale[i]
            line[i] = value
            residuals[row, i] = bias[i] - value
        for i in range(width, residuals.shape[1]):
            residuals[row, i] = 0
        write_row(work.inputs, row, line, 0)


@njit(**COMPILED)
def encode_rows(work: Workspace, filters: Array, bias: Array, dead: Array, start: int, stop: int) -> None:
    """Choose the latents of each row, ascending, with their codes; for AuxK only among the latents in `dead` (-1)."""
    latents, main, aux = bias.shape[0], work.main, work.aux
    out = np.empty((min(BLOCK, stop - start), padded(latents)), np.float32)
    single, keys = np.zeros(latents, np.float32), np.zeros(padded(latents), np.int16)
    places = np.empty(latents + 16, np.int32)
    for first in range(start, stop, BLOCK):
        count = min(BLOCK, stop - first)
        multiply_rows(out, work.inputs, first, count, filters)
        for i in range(count):
            make_keys(out[i], bias, single, keys)
            _write_active(out[i], keys, main, first + i, places)
            if aux.latent.shape[1]:
                keep_only(keys, dead)
                _write_active(out[i], keys, aux, first + i, places)


@njit(**COMPILED)
def _write_active(values: Array, keys: Array, entries: Entries, row: int, places: Array) -> None:
    index, code = entries.latent[row], entries.code[row]
    count = choose(values, keys, index.shape[0], places)
    for i in range(count):
        index[i] = places[i]
        code[i] = values[places[i]]
    entries.active[row] = count


@njit(**COMPILED)
def count_latents(entries: Entries, share: int, start: int, stop: int) -> None:
    """Count the rows in which each latent is active."""
    counts = entries.counts[share]
    counts[:] = 0
    for row in range(start, stop):
        for i in range(entries.active[row]):
            counts[entries.latent[row, i]] += 1


@njit(**COMPILED)
def find_ranges(entries: Entries, latents: int, start: int, stop: int) -> Array:
    """Return the position in each row's entries at which each range of latents begins, `[ranges + 1, rows]`."""
    index, active = entries.latent, entries.active
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
def decode_rows(entries: Entries, bounds: Array, atoms: Array, residuals: Array, start: int, stop: int) -> None:
    """Add the active atoms of each row to its residual, which becomes `rebuilt - x'`."""
    k, columns = entries.latent.shape[1], residuals.shape[1]
    for part in range(bounds.shape[0] - 1):
        for row in range(start, stop):
            low, high = bounds[part, row - start], bounds[part + 1, row - start]
            if low < high:
                add_weighted(residuals, row * columns, atoms, entries.latent, entries.code, row * k + low, high - low)


@njit(**COMPILED)
def sum_columns(residuals: Array, sums: Array, block: int, start: int, stop: int) -> None:
    """Sum the residuals of every `block` rows; `start` is the first row of a block."""
    for first in range(start, stop, block):
        total = sums[first // block]
        total[:] = 0
        for row in range(first, min(first + block, stop)):
            for i in range(total.shape[0]):
                total[i] += residuals[row, i]


@njit(**COMPILED, fastmath={"reassoc", "contract"})
def finish_rows(residuals: Array, table: Array, squares: Array, start: int, stop: int) -> None:
    """Sum the squares of each residual and pack it into its table."""
    for row in range(start, stop):
        line = residuals[row]
        total = residuals.dtype.type(0)
        for i in range(line.shape[0]):
            total += line[i] * line[i]
        squares[row] = total
        write_row(table, row, residuals, row * residuals.shape[1])


@njit(**COMPILED)
def write_slopes(entries: Entries, bounds: Array, atoms: Array, start: int, stop: int) -> None:
    """Write `<residual, atom>` of every active entry."""
    k = entries.latent.shape[1]
    entries.slope[start:stop] = 0
    for part in range(bounds.shape[0] - 1):
        for row in range(start, stop):
            low, high = bounds[part, row - start], bounds[part + 1, row - start]
            if low < high:
                add_products(entries.slope, row * k + low, entries.residuals, row, atoms, entries.latent, high - low)


@njit(**COMPILED)
def rebuild_rows(
    entries: Entries, atoms: Array, residuals: Array, sums: Array, block: int, share: int, start: int, stop: int
) -> None:
    """Decode rows into their residuals, sum these unless `sums` is empty, and compute the slopes of active codes."""
    bounds = find_ranges(entries, atoms.shape[0], start, stop)
    decode_rows(entries, bounds, atoms, residuals, start, stop)
    if sums.shape[0]:
        sum_columns(residuals, sums, block, start, stop)
    finish_rows(residuals, entries.residuals, entries.squares, start, stop)
    write_slopes(entries, bounds, atoms, start, stop)
    count_latents(entries, share, start, stop)
