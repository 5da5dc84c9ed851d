"""Rounding to bfloat16, two numbers a word, and laying words side by side."""

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types

from otoscope.sae.kernels.lanes import (
    I64,
    LANES,
    WORDS,
    Builder,
    Value,
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
