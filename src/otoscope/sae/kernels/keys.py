"""Counting and listing 16-bit keys against a border, 32 at a time."""

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types

from otoscope.sae.kernels.lanes import (
    I16,
    I32,
    I64,
    LANES,
    MASK,
    SHORTS32,
    WORDS,
    Builder,
    Value,
    call,
    intrinsic,
    load,
    loop,
    splat,
    store,
)


@intrinsic
def count_at_least(_context: Any, keys: Any, _blocks: Any, _threshold: Any) -> Any:
    """Count the 16-bit keys in `blocks` blocks of 32 that are not below a threshold."""

    def emit(_c: Any, builder: Builder, _signature: Any, values: Sequence[Value]) -> Value:
        keys, blocks, threshold = values
        border = splat(builder, threshold, 2 * LANES)

        def step(i: Value, total: Value) -> list[Value]:
            found = load(builder, keys, builder.mul(i, ir.Constant(I64, 2 * LANES)), SHORTS32, align=2)
            bits = builder.bitcast(builder.icmp_signed(">=", found, border), I32)
            return [builder.add(total, builder.zext(call(builder, "llvm.ctpop.i32", I32, [bits]), I64))]

        return loop(builder, blocks, [ir.Constant(I64, 0)], step)[0]

    return types.int64(keys, types.int64, types.int16), emit


@intrinsic
def positions_at_least(_context: Any, keys: Any, _blocks: Any, _threshold: Any, out: Any) -> Any:
    """Write the ascending positions of the keys that are not below a threshold; return their number.

    `out` needs room for 16 more than that: whole vectors are stored.
    """

    def emit(_c: Any, builder: Builder, _signature: Any, values: Sequence[Value]) -> Value:
        keys, blocks, threshold, out = values
        border = splat(builder, threshold, 2 * LANES)
        lanes = ir.Constant(WORDS, list(range(LANES)))

        def step(i: Value, total: Value) -> list[Value]:
            first = builder.mul(i, ir.Constant(I64, 2 * LANES))
            found = load(builder, keys, first, SHORTS32, align=2)
            bits = builder.bitcast(builder.icmp_signed(">=", found, border), I32)
            before = builder.block
            some, after = builder.append_basic_block("some"), builder.append_basic_block("none")
            builder.cbranch(builder.icmp_unsigned("!=", bits, ir.Constant(I32, 0)), some, after)
            builder.position_at_end(some)
            grown = total
            for half in range(2):
                part = builder.trunc(builder.lshr(bits, ir.Constant(I32, LANES * half)), I16)
                start = splat(builder, builder.trunc(builder.add(first, ir.Constant(I64, LANES * half)), I32))
                kept = call(
                    builder,
                    "llvm.experimental.vector.compress.v16i32",
                    WORDS,
                    [builder.add(start, lanes), builder.bitcast(part, MASK), ir.Constant(WORDS, ir.Undefined)],
                )
                store(builder, kept, out, grown)
                number = builder.zext(call(builder, "llvm.ctpop.i16", I16, [part]), I64)
                grown = builder.add(grown, number)
            builder.branch(after)
            builder.position_at_end(after)
            joined = builder.phi(I64)
            joined.add_incoming(total, before)
            joined.add_incoming(grown, some)
            return [joined]

        return loop(builder, blocks, [ir.Constant(I64, 0)], step)[0]

    return types.int64(keys, types.int64, types.int16, out), emit
