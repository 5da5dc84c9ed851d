"""Packed tables of rows, atoms and encoder filters: rounding to bfloat16, two numbers per word, and their layout."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import register_jitable

from otoscope.sae._kernels.llvm import (
    COMPILED,
    I64,
    LANES,
    WORDS,
    Array,
    Builder,
    Value,
    address,
    intrinsic,
    load,
    loop,
    prefetch,
    store,
)

GROUP = 2 * LANES
"""Latents are multiplied in groups of 32; a filter table is padded with zeros to whole groups."""


def _round_up(builder: Builder, bits: Value) -> Value:
    """Return float32 bits whose upper half is the nearest bfloat16, ties to even."""
    sixteen, one = ir.Constant(WORDS, [16] * LANES), ir.Constant(WORDS, [1] * LANES)
    odd = builder.and_(builder.lshr(bits, sixteen), one)
    return builder.add(builder.add(bits, ir.Constant(WORDS, [0x7FFF] * LANES)), odd)


@intrinsic
def pack_words(_context: Any, out: Any, low: Any, high: Any, _vectors: Any) -> Any:
    """Round two runs of float32 to bfloat16 and store them as the halves of `16 * vectors` words.

    The words after these are prefetched: usually those of the next row.
    """

    def emit(context: Any, builder: Builder, _signature: Any, values: Sequence[Value]) -> Value:
        out, low, high, vectors = values
        shift, mask = ir.Constant(WORDS, [16] * LANES), ir.Constant(WORDS, [0xFFFF0000] * LANES)

        def step(i: Value) -> list[Value]:
            place = builder.mul(i, ir.Constant(I64, LANES))
            bottom, top = (_round_up(builder, load(builder, half, place, WORDS)) for half in (low, high))
            store(builder, builder.or_(builder.lshr(bottom, shift), builder.and_(top, mask)), out, place)
            prefetch(builder, out, builder.add(place, builder.mul(vectors, ir.Constant(I64, LANES))), level=2)
            return []

        loop(builder, vectors, [], step)
        return context.get_dummy_value()

    return types.void(out, low, high, types.int64), emit


@intrinsic
def transpose_square(_context: Any, out: Any, source: Any, _stride: Any) -> Any:
    """Write the transpose of 16 x 16 words, whose rows are `stride` words apart, row after row to `out`.

    The words 16 strides after `out` are prefetched: those of the next group.
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
        next_group = builder.mul(stride, ir.Constant(I64, LANES))
        for r in range(LANES):
            store(builder, rows[r], out, LANES * r)
            prefetch(builder, out, builder.add(next_group, ir.Constant(I64, LANES * r)), level=2)
        return context.get_dummy_value()

    return types.void(out, source, types.int64), emit


def words_for(width: int) -> int:
    """Return the number of words per row: two columns each, in whole vectors.

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


@njit(**COMPILED)
def write_row(table: Array, row: int, values: Array, start: int) -> None:
    """Pack as many values as a row has columns, counted over all axes from `start`, into a row of a table."""
    words = table.shape[1]
    pack_words(address(table, row * words), address(values, start), address(values, start + words), words // LANES)


@njit(**COMPILED)
def write_group(filters: Array, group: int, staged: Array) -> None:
    """Write the packed encoder rows of 16 latents `[16, words]` as a group of filters `[words, 16]`."""
    words = filters.shape[1]
    for word in range(0, words, LANES):
        transpose_square(address(filters, (group * words + word) * LANES), address(staged, word), words)


@njit(**COMPILED)
def write_weights_row(table: Array, row: int, weights: Array, latent: int, line: Array) -> None:
    """Pack the weights of one latent into a row of a table; `line` `[columns]`, zero past the width, pads them."""
    width = weights.shape[1]
    if width == line.shape[0]:
        write_row(table, row, weights, latent * width)
    else:
        for i in range(width):
            line[i] = weights[latent, i]
        write_row(table, row, line, 0)


@njit(**COMPILED)
def write_weights(encoder: Array, decoder: Array, filters: Array, atoms: Array) -> None:
    """Write encoder and decoder into their tables."""
    latents, words = atoms.shape
    line, staged = np.zeros(2 * words, encoder.dtype), np.zeros((LANES, words), filters.dtype)
    for latent in range(latents):
        write_weights_row(atoms, latent, decoder, latent, line)
        write_weights_row(staged, latent % LANES, encoder, latent, line)
        if latent % LANES == LANES - 1 or latent == latents - 1:
            write_group(filters, latent // LANES, staged)
            staged[:] = 0
