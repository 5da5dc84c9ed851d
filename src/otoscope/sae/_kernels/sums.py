"""Sums and inner products of listed rows of a packed table, all sums in registers."""

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types

from otoscope.sae._kernels.llvm import (
    BYTE,
    F32,
    FLOATS,
    I32,
    I64,
    LANES,
    SHORTS32,
    WORDS,
    Builder,
    Value,
    at,
    call,
    high_half,
    intrinsic,
    load,
    loop,
    low_half,
    multiply_add,
    pair_products,
    splat,
    store,
)

AHEAD = 8
"""Rows fetched ahead of a weighted sum; measured on an EPYC with 2,048 rows of 1.5 KB: 41 to 33 ns a row."""

AHEAD_PRODUCT = 3
"""Rows fetched ahead of an inner product, which takes whole rows."""


def fetch_ahead(
    builder: Builder, table: Value, stride: Value, index: Value, place: Value, last: Value, vectors: int
) -> None:
    """Start loading the row that `index` lists at `place`, or the last: no machine guesses this order."""
    place = builder.select(builder.icmp_signed("<", place, last), place, last)
    row = builder.mul(builder.sext(builder.load(at(builder, index, place)), I64), stride)
    for v in range(vectors):
        line = builder.bitcast(at(builder, table, builder.add(row, ir.Constant(I64, LANES * v))), BYTE.as_pointer())
        read_keep_data = [ir.Constant(I32, flag) for flag in (0, 3, 1)]
        call(builder, "llvm.prefetch.p0", ir.VoidType(), [line, *read_keep_data])


def weighted_sum(vectors: int) -> Any:
    """Make `f(low, high, table, stride, index, weight, count)`: `low/high += sum_i weight[i] table[index[i]]`.

    Covers `16 * vectors` words; all sums stay in registers while `count` rows of the table stream by.
    """

    @intrinsic
    def kernel(_c: Any, low: Any, high: Any, table: Any, _stride: Any, index: Any, weight: Any, _count: Any) -> Any:
        def emit(context: Any, builder: Builder, _signature: Any, values: Sequence[Value]) -> Value:
            low, high, table, stride, index, weight, count = values
            places = [(half, LANES * v) for half in (low, high) for v in range(vectors)]
            last = builder.sub(count, ir.Constant(I64, 1))

            def step(i: Value, *sums: Value) -> list[Value]:
                fetch_ahead(builder, table, stride, index, builder.add(i, ir.Constant(I64, AHEAD)), last, vectors)
                row = builder.mul(builder.sext(builder.load(at(builder, index, i)), I64), stride)
                scale = splat(builder, builder.load(at(builder, weight, i)))
                start = at(builder, table, row)
                words = [load(builder, start, LANES * v, WORDS) for v in range(vectors)]
                halves = [low_half(builder, w) for w in words] + [high_half(builder, w) for w in words]
                return [multiply_add(builder, h, scale, s) for h, s in zip(halves, sums, strict=True)]

            sums = loop(builder, count, [load(builder, p, o, FLOATS) for p, o in places], step)
            for (pointer, offset), total in zip(places, sums, strict=True):
                store(builder, total, pointer, offset)
            return context.get_dummy_value()

        return types.void(low, high, table, types.int64, index, weight, types.int64), emit

    return kernel


def _bfloat_pair(builder: Builder, low: Value, high: Value) -> Value:
    """Round two float32 to the halves of a word."""

    def rounded(value: Value) -> Value:
        bits = builder.bitcast(value, I32)
        odd = builder.and_(builder.lshr(bits, ir.Constant(I32, 16)), ir.Constant(I32, 1))
        return builder.add(builder.add(bits, ir.Constant(I32, 0x7FFF)), odd)

    bottom = builder.lshr(rounded(low), ir.Constant(I32, 16))
    return builder.or_(bottom, builder.and_(rounded(high), ir.Constant(I32, 0xFFFF0000)))


def _interleave(builder: Builder, a: Value, b: Value) -> list[Value]:
    """Put the 16-bit numbers of two vectors side by side, first those of the lower 4 in every 8, then the others.

    Each half is one instruction; a whole shuffle would be two.
    """
    shorts = [builder.bitcast(x, SHORTS32) for x in (a, b)]
    firsts = [[lane + half + i for lane in range(0, 2 * LANES, 8) for i in range(4)] for half in (0, 4)]
    orders = [[x for n in first for x in (n, n + 2 * LANES)] for first in firsts]
    kind = ir.VectorType(I32, 2 * LANES)
    return [builder.bitcast(builder.shuffle_vector(*shorts, ir.Constant(kind, order)), WORDS) for order in orders]


def rounded_sum(vectors: int) -> Any:
    """Make what `weighted_sum` makes, but round the weights to bfloat16 as the table is.

    One instruction then multiplies and adds the numbers of two rows.
    """

    @intrinsic
    def kernel(_c: Any, low: Any, high: Any, table: Any, _stride: Any, index: Any, weight: Any, _count: Any) -> Any:
        def emit(context: Any, builder: Builder, _signature: Any, values: Sequence[Value]) -> Value:
            low, high, table, stride, index, weight, count = values
            one = ir.Constant(I64, 1)
            last = builder.sub(count, one)

            def step(i: Value, *sums: Value) -> list[Value]:
                place = builder.shl(i, one)
                second = builder.add(place, one)
                whole = builder.icmp_signed("<", second, count)
                places = [place, builder.select(whole, second, place)]
                for p in (place, second):
                    ahead = builder.add(p, ir.Constant(I64, AHEAD))
                    fetch_ahead(builder, table, stride, index, ahead, last, vectors)
                scales = [builder.load(at(builder, weight, p)) for p in places]
                scales[1] = builder.select(whole, scales[1], ir.Constant(F32, 0.0))
                scale = splat(builder, _bfloat_pair(builder, *scales))
                rows = [builder.mul(builder.sext(builder.load(at(builder, index, p)), I64), stride) for p in places]
                starts = [at(builder, table, row) for row in rows]
                new: list[Value] = []
                for v in range(vectors):
                    words = [load(builder, start, LANES * v, WORDS) for start in starts]
                    for half, mixed in enumerate(_interleave(builder, *words)):
                        new.append(pair_products(builder, sums[2 * v + half], mixed, scale))
                return new

            pairs = builder.lshr(builder.add(count, one), one)
            sums = loop(builder, pairs, [ir.Constant(FLOATS, [0.0] * LANES)] * (2 * vectors), step)
            for offset, pointer in enumerate((low, high)):
                order = [offset + x for lane in range(0, 16, 4) for x in (lane, lane + 2, lane + 16, lane + 18)]
                for v in range(vectors):
                    total = builder.shuffle_vector(sums[2 * v], sums[2 * v + 1], ir.Constant(WORDS, order))
                    total = builder.fadd(total, load(builder, pointer, LANES * v, FLOATS))
                    store(builder, total, pointer, LANES * v)
            return context.get_dummy_value()

        return types.void(low, high, table, types.int64, index, weight, types.int64), emit

    return kernel


def inner_products(vectors: int) -> Any:
    """Make `f(out, row, table, stride, index, count)`: `out[i] += <row, table[index[i]]>` over `16 * vectors` words."""

    @intrinsic
    def kernel(_c: Any, out: Any, row: Any, table: Any, _stride: Any, index: Any, _count: Any) -> Any:
        def emit(context: Any, builder: Builder, _signature: Any, values: Sequence[Value]) -> Value:
            out, row, table, stride, index, count = values
            fixed = [load(builder, row, LANES * v, WORDS) for v in range(vectors)]
            last = builder.sub(count, ir.Constant(I64, 1))

            def step(i: Value) -> list[Value]:
                ahead = builder.add(i, ir.Constant(I64, AHEAD_PRODUCT))
                fetch_ahead(builder, table, stride, index, ahead, last, vectors)
                offset = builder.mul(builder.sext(builder.load(at(builder, index, i)), I64), stride)
                start = at(builder, table, offset)
                sums = [ir.Constant(FLOATS, [0.0] * LANES)] * min(4, vectors)
                for v in range(vectors):
                    words = load(builder, start, LANES * v, WORDS)
                    sums[v % 4] = pair_products(builder, sums[v % 4], fixed[v], words)
                while len(sums) > 1:
                    sums = [builder.fadd(a, b) for a, b in zip(sums[::2], sums[1::2], strict=True)]
                start_value = builder.load(at(builder, out, i))
                total = call(
                    builder, "llvm.vector.reduce.fadd.v16f32", F32, [start_value, sums[0]], fastmath=("reassoc",)
                )
                builder.store(total, at(builder, out, i))
                return []

            loop(builder, count, [], step)
            return context.get_dummy_value()

        return types.void(out, row, table, types.int64, index, types.int64), emit

    return kernel
