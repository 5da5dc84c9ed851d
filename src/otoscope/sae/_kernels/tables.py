"""How rows, atoms and filters lie in memory for the kernels: packed to bfloat16, or plain in the master type.

Rounding to bfloat16, two numbers a word, and laying words side by side.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import register_jitable

from otoscope.sae._kernels.gather import COMPILED, Array, by_table
from otoscope.sae._kernels.llvm import (
    I64,
    LANES,
    WORDS,
    Builder,
    Value,
    address,
    fetch_line,
    intrinsic,
    load,
    loop,
    store,
)


def to_bfloat(builder: Builder, bits: Value) -> Value:
    """Add what rounds float32 bits to the nearest bfloat16, ties to even, once their low half is dropped."""
    sixteen, one = ir.Constant(WORDS, [16] * LANES), ir.Constant(WORDS, [1] * LANES)
    odd = builder.and_(builder.lshr(bits, sixteen), one)
    return builder.add(builder.add(bits, ir.Constant(WORDS, [0x7FFF] * LANES)), odd)


@intrinsic
def pack_words(_context: Any, out: Any, low: Any, high: Any, _vectors: Any) -> Any:
    """Round two runs of float32 to bfloat16 and store them as the two halves of `16 * vectors` words.

    The words after these are fetched, where the next row is likely to go.
    """

    def emit(context: Any, builder: Builder, _signature: Any, values: Sequence[Value]) -> Value:
        out, low, high, vectors = values
        shift, mask = ir.Constant(WORDS, [16] * LANES), ir.Constant(WORDS, [0xFFFF0000] * LANES)

        def step(i: Value) -> list[Value]:
            place = builder.mul(i, ir.Constant(I64, LANES))
            bottom, top = (to_bfloat(builder, load(builder, half, place, WORDS)) for half in (low, high))
            store(builder, builder.or_(builder.lshr(bottom, shift), builder.and_(top, mask)), out, place)
            fetch_line(builder, out, builder.add(place, builder.mul(vectors, ir.Constant(I64, LANES))))
            return []

        loop(builder, vectors, [], step)
        return context.get_dummy_value()

    return types.void(out, low, high, types.int64), emit


@intrinsic
def transpose_square(_context: Any, out: Any, source: Any, _stride: Any) -> Any:
    """Write the transpose of 16 by 16 words, whose rows lie `stride` words apart, row after row to `out`.

    What lies 16 strides on from `out` is fetched: the place of the next group.
    """

    def emit(context: Any, builder: Builder, _signature: Any, values: Sequence[Value]) -> Value:
        out, source, stride = values
        rows = [load(builder, source, builder.mul(stride, ir.Constant(I64, r)), WORDS) for r in range(LANES)]
        half = LANES // 2
        # one round interleaves row i with row i + 8; four rounds move every index bit to the other side
        orders = [[x for lane in range(start, start + half) for x in (lane, LANES + lane)] for start in (0, half)]
        picks = [ir.Constant(WORDS, order) for order in orders]
        for _ in range(4):
            rows = [builder.shuffle_vector(rows[i], rows[i + half], pick) for i in range(half) for pick in picks]
        for r in range(LANES):
            store(builder, rows[r], out, LANES * r)
            fetch_line(
                builder, out, builder.add(builder.mul(stride, ir.Constant(I64, LANES)), ir.Constant(I64, LANES * r))
            )
        return context.get_dummy_value()

    return types.void(out, source, types.int64), emit


GROUP = 2 * LANES
"""Latents are multiplied in groups of 32; a filter table is padded with zeros to whole groups."""


def words_for(width: int) -> int:
    """Return how many words hold a row: two columns each, in whole vectors.

    >>> [words_for(w) for w in (1, 32, 33, 768)]
    [16, 16, 32, 384]
    """
    return -(-width // (2 * LANES)) * LANES


@register_jitable
def padded(latents: int) -> int:
    """Return the number of latents rounded up to whole groups.

    >>> [padded(n) for n in (1, 32, 2048)]
    [32, 32, 2048]
    """
    return -(-latents // GROUP) * GROUP


def _write_packed(table: Array, row: int, values: Array, start: int) -> None:
    words = table.shape[1]
    pack_words(address(table, row * words), address(values, start), address(values, start + words), words // LANES)


def _write_plain(table: Array, row: int, values: Array, start: int) -> None:
    flat = values.ravel()
    for i in range(table.shape[1]):
        table[row, i] = flat[start + i]


@by_table(0, _write_packed, _write_plain)
def write_row(table: Array, row: int, values: Array, start: int) -> None:
    """Store as row `row` of a table as many values, counted over all axes from `start`, as it has columns."""
    raise NotImplementedError("compiled code only")


def _group_packed(filters: Array, group: int, staged: Array) -> None:
    words = filters.shape[1]
    for word in range(0, words, LANES):
        transpose_square(address(filters, (group * words + word) * LANES), address(staged, word), words)


def _group_plain(filters: Array, group: int, staged: Array) -> None:
    """Do nothing: the plain product reads the encoder itself."""


@by_table(0, _group_packed, _group_plain)
def write_group(filters: Array, group: int, staged: Array) -> None:
    """Store the encoder rows of 16 latents `[16, words]` where the product finds them: word by word side by side."""
    raise NotImplementedError("compiled code only")


@register_jitable
def staging(filters: Array) -> Array:
    """Make room for the packed encoder rows of 16 latents."""
    return np.zeros((LANES, filters.shape[1]), filters.dtype)


def _two_a_word(table: Array) -> int:
    return 2 * table.shape[1]


def _one_each(table: Array) -> int:
    return table.shape[1]


@by_table(0, _two_a_word, _one_each)
def padded_columns(table: Array) -> int:
    """Return how many columns a table's rows stand for, padding included."""
    raise NotImplementedError("compiled code only")


@register_jitable
def write_weights_row(table: Array, row: int, weights: Array, latent: int, line: Array) -> None:
    """Store one latent's weights as row `row` of a table; `line` `[columns]`, zero past the width, pads them."""
    width = weights.shape[1]
    if width == line.shape[0]:
        write_row(table, row, weights, latent * width)
    else:
        for i in range(width):
            line[i] = weights[latent, i]
        write_row(table, row, line, 0)


@njit(**COMPILED)
def write_weights(encoder: Array, decoder: Array, filters: Array, atoms: Array) -> None:
    """Refresh both tables from the master weights."""
    line = np.zeros(padded_columns(atoms), encoder.dtype)
    latents, staged = encoder.shape[0], staging(filters)
    for latent in range(latents):
        write_weights_row(atoms, latent, decoder, latent, line)
        write_weights_row(staged, latent % LANES, encoder, latent, line)
        if latent % LANES == LANES - 1 or latent == latents - 1:
            write_group(filters, latent // LANES, staged)
            staged[:] = 0
