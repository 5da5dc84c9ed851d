"""Vector building blocks, written out in LLVM's vector types because loops over bfloat16 do not vectorise well.

A packed table holds two bfloat16 numbers in each 32-bit word: word i of a row is column i in the low
half and column `words + i` in the high half. Shifting left or masking turns either half into float32,
so that sums come out in the natural order of columns. `words` is a multiple of 16.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic as numba_intrinsic

LANES = 16


def intrinsic(function: Callable[..., Any]) -> Any:
    """Make an intrinsic, which is called without the context that its definition takes first."""
    return numba_intrinsic(function)


AHEAD = 8
"""Rows fetched ahead of a weighted sum; measured on an EPYC with 2,048 rows of 1.5 KB: 41 to 33 ns a row."""

AHEAD_PRODUCT = 3
"""Rows fetched ahead of an inner product, which takes whole rows."""

Builder: TypeAlias = Any
Value: TypeAlias = Any


class _Bfloat(ir.Type):
    """The `bfloat` type, which llvmlite does not name."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Bfloat)

    def __hash__(self) -> int:
        return hash(_Bfloat)


_BYTE, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_F32 = ir.FloatType()
_WORDS, _FLOATS, _MASK = (ir.VectorType(t, LANES) for t in (_I32, _F32, ir.IntType(1)))
_SHORTS32, _MASK32 = ir.VectorType(_I16, 2 * LANES), ir.VectorType(ir.IntType(1), 2 * LANES)
_BFLOATS = ir.VectorType(_Bfloat(), 2 * LANES)


def has_vectors() -> bool:
    """Say whether this machine has the 32 wide registers that the kernels are laid out for (AVX-512)."""
    return bool(_features().get("avx512f") and _features().get("avx512bw") and _features().get("avx512vl"))


def has_bfloat_products() -> bool:
    """Say whether this machine multiplies pairs of bfloat16 in one instruction (AVX-512 BF16)."""
    return bool(has_vectors() and _features().get("avx512bf16"))


def _features() -> dict[str, bool]:
    return dict(binding.get_host_cpu_features())


def _at(builder: Builder, pointer: Value, offset: Value | int) -> Value:
    return builder.gep(pointer, [ir.Constant(_I64, offset) if isinstance(offset, int) else offset])


def _load(builder: Builder, pointer: Value, offset: Value | int, kind: ir.VectorType, align: int = 4) -> Value:
    place = builder.bitcast(_at(builder, pointer, offset), kind.as_pointer())
    return builder.load(place, align=align)


def _store(builder: Builder, value: Value, pointer: Value, offset: Value | int) -> None:
    builder.store(value, builder.bitcast(_at(builder, pointer, offset), value.type.as_pointer()), align=4)


def _splat(builder: Builder, value: Value, count: int = LANES) -> Value:
    vector = ir.VectorType(value.type, count)
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(_I32, 0))
    return builder.shuffle_vector(
        one, ir.Constant(vector, ir.Undefined), ir.Constant(ir.VectorType(_I32, count), [0] * count)
    )


def _call(builder: Builder, name: str, result: ir.Type, values: Sequence[Value], **options: Any) -> Value:
    kind = ir.FunctionType(result, [v.type for v in values])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), list(values), **options)


def _low(builder: Builder, words: Value) -> Value:
    return builder.bitcast(builder.shl(words, ir.Constant(_WORDS, [16] * LANES)), _FLOATS)


def _high(builder: Builder, words: Value) -> Value:
    return builder.bitcast(builder.and_(words, ir.Constant(_WORDS, [0xFFFF0000] * LANES)), _FLOATS)


def _fetch_ahead(
    builder: Builder, table: Value, stride: Value, index: Value, place: Value, last: Value, vectors: int
) -> None:
    """Start loading the row that `index` lists at `place`, or the last: no machine guesses this order."""
    place = builder.select(builder.icmp_signed("<", place, last), place, last)
    row = builder.mul(builder.sext(builder.load(_at(builder, index, place)), _I64), stride)
    for v in range(vectors):
        line = builder.bitcast(_at(builder, table, builder.add(row, ir.Constant(_I64, LANES * v))), _BYTE.as_pointer())
        read_keep_data = [ir.Constant(_I32, flag) for flag in (0, 3, 1)]
        _call(builder, "llvm.prefetch.p0", ir.VoidType(), [line, *read_keep_data])


def _multiply_add(builder: Builder, a: Value, b: Value, total: Value) -> Value:
    return _call(builder, "llvm.fma.v16f32", _FLOATS, [a, b, total])


def _pair_products(builder: Builder, total: Value, a: Value, b: Value) -> Value:
    """Add both products of each word pair to its lane of `total`."""
    if has_bfloat_products():
        halves = [builder.bitcast(x, _BFLOATS) for x in (a, b)]
        return _call(builder, "llvm.x86.avx512bf16.dpbf16ps.512", _FLOATS, [total, *halves])
    total = _multiply_add(builder, _low(builder, a), _low(builder, b), total)
    return _multiply_add(builder, _high(builder, a), _high(builder, b), total)


def _loop(
    builder: Builder, count: Value, carried: Sequence[Value], step: Callable[..., Sequence[Value]]
) -> list[Value]:
    """Emit `for i in range(count): carried = step(i, *carried)` and return what is carried out."""
    before = builder.block
    head, body, after = (builder.append_basic_block(name) for name in ("head", "body", "after"))
    builder.branch(head)
    builder.position_at_end(head)
    index = builder.phi(_I64)
    index.add_incoming(ir.Constant(_I64, 0), before)
    held = [builder.phi(value.type) for value in carried]
    for slot, value in zip(held, carried, strict=True):
        slot.add_incoming(value, before)
    builder.cbranch(builder.icmp_signed("<", index, count), body, after)
    builder.position_at_end(body)
    new = step(index, *held)
    index.add_incoming(builder.add(index, ir.Constant(_I64, 1)), builder.block)
    for slot, value in zip(held, new, strict=True):
        slot.add_incoming(value, builder.block)
    builder.branch(head)
    builder.position_at_end(after)
    return held


@intrinsic
def address(_context: Any, array: Any, _offset: Any) -> Any:
    """Point at an element of a contiguous array, counted over all axes."""

    def emit(context: Any, builder: Builder, signature: Any, values: Sequence[Value]) -> Value:
        return _at(builder, context.make_array(signature.args[0])(context, builder, values[0]).data, values[1])

    return types.CPointer(array.dtype)(array, types.int64), emit


def weighted_sum(vectors: int) -> Any:
    """Make `f(low, high, table, stride, index, weight, count)`: `low/high += sum_i weight[i] table[index[i]]`.

    Covers `16 * vectors` words; all sums stay in registers while `count` rows of the table stream by.
    """

    @intrinsic
    def kernel(_c: Any, low: Any, high: Any, table: Any, _stride: Any, index: Any, weight: Any, _count: Any) -> Any:
        def emit(context: Any, builder: Builder, _signature: Any, values: Sequence[Value]) -> Value:
            low, high, table, stride, index, weight, count = values
            places = [(half, LANES * v) for half in (low, high) for v in range(vectors)]
            last = builder.sub(count, ir.Constant(_I64, 1))

            def step(i: Value, *sums: Value) -> list[Value]:
                _fetch_ahead(builder, table, stride, index, builder.add(i, ir.Constant(_I64, AHEAD)), last, vectors)
                row = builder.mul(builder.sext(builder.load(_at(builder, index, i)), _I64), stride)
                scale = _splat(builder, builder.load(_at(builder, weight, i)))
                start = _at(builder, table, row)
                words = [_load(builder, start, LANES * v, _WORDS) for v in range(vectors)]
                halves = [_low(builder, w) for w in words] + [_high(builder, w) for w in words]
                return [_multiply_add(builder, h, scale, s) for h, s in zip(halves, sums, strict=True)]

            sums = _loop(builder, count, [_load(builder, p, o, _FLOATS) for p, o in places], step)
            for (pointer, offset), total in zip(places, sums, strict=True):
                _store(builder, total, pointer, offset)
            return context.get_dummy_value()

        return types.void(low, high, table, types.int64, index, weight, types.int64), emit

    return kernel


def inner_products(vectors: int) -> Any:
    """Make `f(out, row, table, stride, index, count)`: `out[i] += <row, table[index[i]]>` over `16 * vectors` words."""

    @intrinsic
    def kernel(_c: Any, out: Any, row: Any, table: Any, _stride: Any, index: Any, _count: Any) -> Any:
        def emit(context: Any, builder: Builder, _signature: Any, values: Sequence[Value]) -> Value:
            out, row, table, stride, index, count = values
            fixed = [_load(builder, row, LANES * v, _WORDS) for v in range(vectors)]
            last = builder.sub(count, ir.Constant(_I64, 1))

            def step(i: Value) -> list[Value]:
                ahead = builder.add(i, ir.Constant(_I64, AHEAD_PRODUCT))
                _fetch_ahead(builder, table, stride, index, ahead, last, vectors)
                offset = builder.mul(builder.sext(builder.load(_at(builder, index, i)), _I64), stride)
                start = _at(builder, table, offset)
                sums = [ir.Constant(_FLOATS, [0.0] * LANES)] * min(4, vectors)
                for v in range(vectors):
                    words = _load(builder, start, LANES * v, _WORDS)
                    sums[v % 4] = _pair_products(builder, sums[v % 4], fixed[v], words)
                while len(sums) > 1:
                    sums = [builder.fadd(a, b) for a, b in zip(sums[::2], sums[1::2], strict=True)]
                start_value = builder.load(_at(builder, out, i))
                total = _call(
                    builder, "llvm.vector.reduce.fadd.v16f32", _F32, [start_value, sums[0]], fastmath=("reassoc",)
                )
                builder.store(total, _at(builder, out, i))
                return []

            _loop(builder, count, [], step)
            return context.get_dummy_value()

        return types.void(out, row, table, types.int64, index, types.int64), emit

    return kernel


def product_tile(rows: int) -> Any:
    """Make `f(out, out_stride, x, x_stride, filters, words)`: inner products of `rows` rows with 32 filters.

    `filters` points at two groups of 16, each stored `[words, 16]`: one word of 16 filters side by side.
    """

    @intrinsic
    def kernel(_c: Any, out: Any, _out_stride: Any, x: Any, _x_stride: Any, filters: Any, _words: Any) -> Any:
        def emit(context: Any, builder: Builder, _signature: Any, values: Sequence[Value]) -> Value:
            out, out_stride, x, x_stride, filters, words = values
            offsets = [builder.mul(x_stride, ir.Constant(_I64, r)) for r in range(rows)]
            starts = [_at(builder, x, offset) for offset in offsets]
            second = _at(builder, filters, builder.mul(words, ir.Constant(_I64, LANES)))

            def step(i: Value, *sums: Value) -> list[Value]:
                lane = builder.mul(i, ir.Constant(_I64, LANES))
                columns = [_load(builder, group, lane, _WORDS) for group in (filters, second)]
                pairs = [_splat(builder, builder.load(_at(builder, start, i))) for start in starts]
                return [
                    _pair_products(builder, sums[2 * r + c], pairs[r], columns[c])
                    for r in range(rows)
                    for c in range(2)
                ]

            sums = _loop(builder, words, [ir.Constant(_FLOATS, [0.0] * LANES)] * (2 * rows), step)
            for r in range(rows):
                line = _at(builder, out, builder.mul(out_stride, ir.Constant(_I64, r)))
                for c in range(2):
                    _store(builder, sums[2 * r + c], line, LANES * c)
            return context.get_dummy_value()

        return types.void(out, types.int64, x, types.int64, filters, types.int64), emit

    return kernel


@intrinsic
def fetch_lines(_context: Any, start: Any, _lines: Any) -> Any:
    """Start loading cache lines of 64 bytes into the second cache."""

    def emit(context: Any, builder: Builder, _signature: Any, values: Sequence[Value]) -> Value:
        start, lines = values
        pointer = builder.bitcast(start, _BYTE.as_pointer())

        def step(i: Value) -> list[Value]:
            line = _at(builder, pointer, builder.mul(i, ir.Constant(_I64, 64)))
            write_second_data = [ir.Constant(_I32, flag) for flag in (1, 2, 1)]
            _call(builder, "llvm.prefetch.p0", ir.VoidType(), [line, *write_second_data])
            return []

        _loop(builder, lines, [], step)
        return context.get_dummy_value()

    return types.void(start, types.int64), emit


def _to_bfloat(builder: Builder, bits: Value) -> Value:
    """Add what rounds float32 bits to the nearest bfloat16, ties to even, once their low half is dropped."""
    sixteen, one = ir.Constant(_WORDS, [16] * LANES), ir.Constant(_WORDS, [1] * LANES)
    odd = builder.and_(builder.lshr(bits, sixteen), one)
    return builder.add(builder.add(bits, ir.Constant(_WORDS, [0x7FFF] * LANES)), odd)


@intrinsic
def pack_words(_context: Any, out: Any, low: Any, high: Any, _vectors: Any) -> Any:
    """Round two runs of float32 to bfloat16 and store them as the two halves of `16 * vectors` words."""

    def emit(context: Any, builder: Builder, _signature: Any, values: Sequence[Value]) -> Value:
        out, low, high, vectors = values
        shift, mask = ir.Constant(_WORDS, [16] * LANES), ir.Constant(_WORDS, [0xFFFF0000] * LANES)

        def step(i: Value) -> list[Value]:
            place = builder.mul(i, ir.Constant(_I64, LANES))
            bottom, top = (_to_bfloat(builder, _load(builder, half, place, _WORDS)) for half in (low, high))
            _store(builder, builder.or_(builder.lshr(bottom, shift), builder.and_(top, mask)), out, place)
            return []

        _loop(builder, vectors, [], step)
        return context.get_dummy_value()

    return types.void(out, low, high, types.int64), emit


@intrinsic
def transpose_square(_context: Any, out: Any, source: Any, _stride: Any) -> Any:
    """Write the transpose of 16 by 16 words, whose rows lie `stride` words apart, row after row to `out`."""

    def emit(context: Any, builder: Builder, _signature: Any, values: Sequence[Value]) -> Value:
        out, source, stride = values
        rows = [_load(builder, source, builder.mul(stride, ir.Constant(_I64, r)), _WORDS) for r in range(LANES)]
        half = LANES // 2
        # one round interleaves row i with row i + 8; four rounds move every index bit to the other side
        orders = [[x for lane in range(start, start + half) for x in (lane, LANES + lane)] for start in (0, half)]
        picks = [ir.Constant(_WORDS, order) for order in orders]
        for _ in range(4):
            rows = [builder.shuffle_vector(rows[i], rows[i + half], pick) for i in range(half) for pick in picks]
        for r in range(LANES):
            _store(builder, rows[r], out, LANES * r)
        return context.get_dummy_value()

    return types.void(out, source, types.int64), emit


@intrinsic
def count_at_least(_context: Any, keys: Any, _blocks: Any, _threshold: Any) -> Any:
    """Count the 16-bit keys in `blocks` blocks of 32 that are not below a threshold."""

    def emit(_c: Any, builder: Builder, _signature: Any, values: Sequence[Value]) -> Value:
        keys, blocks, threshold = values
        border = _splat(builder, threshold, 2 * LANES)

        def step(i: Value, total: Value) -> list[Value]:
            found = _load(builder, keys, builder.mul(i, ir.Constant(_I64, 2 * LANES)), _SHORTS32, align=2)
            bits = builder.bitcast(builder.icmp_signed(">=", found, border), _I32)
            return [builder.add(total, builder.zext(_call(builder, "llvm.ctpop.i32", _I32, [bits]), _I64))]

        return _loop(builder, blocks, [ir.Constant(_I64, 0)], step)[0]

    return types.int64(keys, types.int64, types.int16), emit


@intrinsic
def positions_at_least(_context: Any, keys: Any, _blocks: Any, _threshold: Any, out: Any) -> Any:
    """Write the ascending positions of the keys that are not below a threshold; return their number.

    `out` needs room for 16 more than that: whole vectors are stored.
    """

    def emit(_c: Any, builder: Builder, _signature: Any, values: Sequence[Value]) -> Value:
        keys, blocks, threshold, out = values
        border = _splat(builder, threshold, 2 * LANES)
        lanes = ir.Constant(_WORDS, list(range(LANES)))

        def step(i: Value, total: Value) -> list[Value]:
            first = builder.mul(i, ir.Constant(_I64, 2 * LANES))
            found = _load(builder, keys, first, _SHORTS32, align=2)
            bits = builder.bitcast(builder.icmp_signed(">=", found, border), _I32)
            before = builder.block
            some, after = builder.append_basic_block("some"), builder.append_basic_block("none")
            builder.cbranch(builder.icmp_unsigned("!=", bits, ir.Constant(_I32, 0)), some, after)
            builder.position_at_end(some)
            grown = total
            for half in range(2):
                part = builder.trunc(builder.lshr(bits, ir.Constant(_I32, LANES * half)), _I16)
                start = _splat(builder, builder.trunc(builder.add(first, ir.Constant(_I64, LANES * half)), _I32))
                kept = _call(
                    builder,
                    "llvm.experimental.vector.compress.v16i32",
                    _WORDS,
                    [builder.add(start, lanes), builder.bitcast(part, _MASK), ir.Constant(_WORDS, ir.Undefined)],
                )
                _store(builder, kept, out, grown)
                number = builder.zext(_call(builder, "llvm.ctpop.i16", _I16, [part]), _I64)
                grown = builder.add(grown, number)
            builder.branch(after)
            builder.position_at_end(after)
            joined = builder.phi(_I64)
            joined.add_incoming(total, before)
            joined.add_incoming(grown, some)
            return [joined]

        return _loop(builder, blocks, [ir.Constant(_I64, 0)], step)[0]

    return types.int64(keys, types.int64, types.int16, out), emit
