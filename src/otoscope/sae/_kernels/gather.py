"""Weighted sums and inner products of listed rows of a packed table, all sums in registers."""

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import njit, types

from otoscope.sae._kernels.llvm import (
    COMPILED,
    F32,
    FLOATS,
    I32,
    I64,
    LANES,
    SHORTS32,
    WORDS,
    Array,
    Builder,
    Value,
    add_lanes,
    address,
    at,
    constant,
    high_half,
    intrinsic,
    load,
    loop,
    low_half,
    multiply_add,
    pair_products,
    prefetch,
    splat,
    store,
)

AHEAD = 8
"""Rows prefetched ahead of a weighted sum; measured on an EPYC with 2,048 rows of 1.5 KB: 41 to 33 ns per row."""
AHEAD_PRODUCT = 3
"""Rows prefetched ahead of an inner product, which reads whole rows."""

WIDE, FULL = 8, 24
"""Vectors of words per block. 8 leave every sum in registers (16 of 32); 24 hold a whole row of 768 columns, whose
inner products then need one horizontal sum."""


def _row_offset(builder: Builder, index: Value, place: Value, stride: Value) -> Value:
    """Return the offset of the row that `index` lists at `place`."""
    return builder.mul(builder.sext(builder.load(at(builder, index, place)), I64), stride)


def _prefetch_row(
    builder: Builder, table: Value, stride: Value, index: Value, place: Value, last: Value, vectors: int
) -> None:
    """Start loading the row listed at `place`, or the last one: hardware cannot predict this order."""
    place = builder.select(builder.icmp_signed("<", place, last), place, last)
    row = _row_offset(builder, index, place, stride)
    for v in range(vectors):
        prefetch(builder, table, builder.add(row, ir.Constant(I64, LANES * v)), level=3)


def weighted_sum(vectors: int) -> Any:
    """Create `f(low, high, table, stride, index, weight, count)`: `low/high += sum_i weight[i] table[index[i]]`.

    Covers `16 * vectors` words; all sums stay in registers while `count` rows of the table are read.
    """

    @intrinsic
    def kernel(_c: Any, low: Any, high: Any, table: Any, _stride: Any, index: Any, weight: Any, _count: Any) -> Any:
        def emit(context: Any, builder: Builder, _signature: Any, values: Sequence[Value]) -> Value:
            low, high, table, stride, index, weight, count = values
            places = [(half, LANES * v) for half in (low, high) for v in range(vectors)]
            last = builder.sub(count, ir.Constant(I64, 1))

            def step(i: Value, *sums: Value) -> list[Value]:
                _prefetch_row(builder, table, stride, index, builder.add(i, ir.Constant(I64, AHEAD)), last, vectors)
                start = at(builder, table, _row_offset(builder, index, i, stride))
                scale = splat(builder, builder.load(at(builder, weight, i)))
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
    """Interleave the 16-bit numbers of two vectors: first those of the lower 4 in every 8, then the others.

    Each half is one instruction; a whole shuffle would be two.
    """
    shorts = [builder.bitcast(x, SHORTS32) for x in (a, b)]
    firsts = [[lane + half + i for lane in range(0, 2 * LANES, 8) for i in range(4)] for half in (0, 4)]
    orders = [[x for n in first for x in (n, n + 2 * LANES)] for first in firsts]
    kind = ir.VectorType(I32, 2 * LANES)
    return [builder.bitcast(builder.shuffle_vector(*shorts, ir.Constant(kind, order)), WORDS) for order in orders]


def rounded_sum(vectors: int) -> Any:
    """Create `weighted_sum` with weights that are rounded to bfloat16 like the table.

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
                    _prefetch_row(builder, table, stride, index, ahead, last, vectors)
                scales = [builder.load(at(builder, weight, p)) for p in places]
                scales[1] = builder.select(whole, scales[1], ir.Constant(F32, 0.0))
                scale = splat(builder, _bfloat_pair(builder, *scales))
                starts = [at(builder, table, _row_offset(builder, index, p, stride)) for p in places]
                new: list[Value] = []
                for v in range(vectors):
                    words = [load(builder, start, LANES * v, WORDS) for start in starts]
                    for half, mixed in enumerate(_interleave(builder, *words)):
                        new.append(pair_products(builder, sums[2 * v + half], mixed, scale))
                return new

            pairs = builder.lshr(builder.add(count, one), one)
            sums = loop(builder, pairs, [constant(0.0)] * (2 * vectors), step)
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
    """Create `f(out, row, table, stride, index, count)`: `out[i] += <row, table[index[i]]>`, `16 * vectors` words."""

    @intrinsic
    def kernel(_c: Any, out: Any, row: Any, table: Any, _stride: Any, index: Any, _count: Any) -> Any:
        def emit(context: Any, builder: Builder, _signature: Any, values: Sequence[Value]) -> Value:
            out, row, table, stride, index, count = values
            fixed = [load(builder, row, LANES * v, WORDS) for v in range(vectors)]
            last = builder.sub(count, ir.Constant(I64, 1))

            def step(i: Value) -> list[Value]:
                ahead = builder.add(i, ir.Constant(I64, AHEAD_PRODUCT))
                _prefetch_row(builder, table, stride, index, ahead, last, vectors)
                start = at(builder, table, _row_offset(builder, index, i, stride))
                sums = [constant(0.0)] * min(4, vectors)
                for v in range(vectors):
                    words = load(builder, start, LANES * v, WORDS)
                    sums[v % 4] = pair_products(builder, sums[v % 4], fixed[v], words)
                while len(sums) > 1:
                    sums = [builder.fadd(a, b) for a, b in zip(sums[::2], sums[1::2], strict=True)]
                target = at(builder, out, i)
                builder.store(add_lanes(builder, builder.load(target), sums[0]), target)
                return []

            loop(builder, count, [], step)
            return context.get_dummy_value()

        return types.void(out, row, table, types.int64, index, types.int64), emit

    return kernel


_sum_wide, _sum_one = weighted_sum(WIDE), weighted_sum(1)
_rounded_wide, _rounded_one = rounded_sum(WIDE), rounded_sum(1)
_dots_full, _dots_wide, _dots_one = inner_products(FULL), inner_products(WIDE), inner_products(1)


@njit(**COMPILED)
def add_weighted(out: Array, base: int, table: Array, index: Array, weight: Array, start: int, count: int) -> None:
    """Add `sum_i weight[start + i] * table[index[start + i]]` to `out[base : base + columns]`."""
    words = table.shape[1]
    listed, scale = address(index, start), address(weight, start)
    column = 0
    while column + WIDE * LANES <= words:
        low = base + column
        _sum_wide(address(out, low), address(out, low + words), address(table, column), words, listed, scale, count)
        column += WIDE * LANES
    while column < words:
        low = base + column
        _sum_one(address(out, low), address(out, low + words), address(table, column), words, listed, scale, count)
        column += LANES


@njit(**COMPILED)
def add_listed(
    out: Array,
    base: int,
    stride: int,
    table: Array,
    index: Array,
    weight: Array,
    offsets: Array,
    first: int,
    last: int,
) -> None:
    """Add the weighted rows of each list i to `out`, at `base + (i - first) * stride`, for lists `first` to `last`.

    List i holds the entries `offsets[i]` to `offsets[i + 1]`. One block of columns follows the other, for all lists.
    """
    words, column = table.shape[1], 0
    while column < words:
        wide = column + WIDE * LANES <= words
        for i in range(first, last):
            start, count = offsets[i], offsets[i + 1] - offsets[i]
            if count == 0:
                continue
            place = base + (i - first) * stride + column
            low, high, source = address(out, place), address(out, place + words), address(table, column)
            if wide:
                _rounded_wide(low, high, source, words, address(index, start), address(weight, start), count)
            else:
                _rounded_one(low, high, source, words, address(index, start), address(weight, start), count)
        column += WIDE * LANES if wide else LANES


@njit(**COMPILED)
def add_products(out: Array, start: int, rows: Array, row: int, table: Array, index: Array, count: int) -> None:
    """Add `<rows[row], table[index[start + i]]>` to `out[start + i]` for each of `count`."""
    words = table.shape[1]
    listed, target = address(index, start), address(out, start)
    column = 0
    while column + FULL * LANES <= words:
        _dots_full(target, address(rows, row * words + column), address(table, column), words, listed, count)
        column += FULL * LANES
    while column + WIDE * LANES <= words:
        _dots_wide(target, address(rows, row * words + column), address(table, column), words, listed, count)
        column += WIDE * LANES
    while column < words:
        _dots_one(target, address(rows, row * words + column), address(table, column), words, listed, count)
        column += LANES
