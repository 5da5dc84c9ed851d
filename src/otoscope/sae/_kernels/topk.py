"""The k largest pre-activations of a row, exactly, without sorting.

The upper 16 bits of a positive float32, its key, are ordered like an integer. One instruction compares 32 keys with a
threshold, so bisection finds the k-th largest key in at most 15 counts. Full values are compared only where more keys
equal the threshold than fit.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types

from otoscope.sae._kernels.llvm import (
    COMPILED,
    I16,
    I32,
    I64,
    LANES,
    MASK,
    SHORTS32,
    WORDS,
    Array,
    Builder,
    Value,
    address,
    call,
    intrinsic,
    load,
    loop,
    splat,
    store,
)


@intrinsic
def count_at_least(_context: Any, keys: Any, _blocks: Any, _threshold: Any) -> Any:
    """Count the keys in `blocks` blocks of 32 that are at least `threshold`."""

    def emit(_c: Any, builder: Builder, _signature: Any, values: Sequence[Value]) -> Value:
        keys, blocks, threshold = values
        limit = splat(builder, threshold, 2 * LANES)

        def step(i: Value, total: Value) -> list[Value]:
            block = load(builder, keys, builder.mul(i, ir.Constant(I64, 2 * LANES)), SHORTS32, align=2)
            bits = builder.bitcast(builder.icmp_signed(">=", block, limit), I32)
            return [builder.add(total, builder.zext(call(builder, "llvm.ctpop.i32", I32, [bits]), I64))]

        return loop(builder, blocks, [ir.Constant(I64, 0)], step)[0]

    return types.int64(keys, types.int64, types.int16), emit


@intrinsic
def positions_at_least(_context: Any, keys: Any, _blocks: Any, _threshold: Any, out: Any) -> Any:
    """Write the ascending positions of the keys that are at least `threshold`; return their number.

    `out` needs room for 16 more, because whole vectors are stored.
    """

    def emit(_c: Any, builder: Builder, _signature: Any, values: Sequence[Value]) -> Value:
        keys, blocks, threshold, out = values
        limit = splat(builder, threshold, 2 * LANES)
        lanes = ir.Constant(WORDS, list(range(LANES)))

        def step(i: Value, total: Value) -> list[Value]:
            first = builder.mul(i, ir.Constant(I64, 2 * LANES))
            block = load(builder, keys, first, SHORTS32, align=2)
            bits = builder.bitcast(builder.icmp_signed(">=", block, limit), I32)
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


_ABOVE_ALL = 0x7FFF


@njit(**COMPILED)
def make_keys(values: Array, bias: Array, single: Array, keys: Array) -> None:
    """Add the bias, rectify in place, and write the keys: 0 for values that are not above 0, NaN included."""
    count = bias.shape[0]
    for j in range(count):
        value = values[j] + bias[j]
        value = value if value > 0 else values.dtype.type(0)
        values[j] = value
        single[j] = np.float32(value)
    bits = single.view(np.uint32)
    for j in range(count):
        keys[j] = np.int16(bits[j] >> np.uint32(16))


@njit(**COMPILED)
def keep_only(keys: Array, mask: Array) -> None:
    """Exclude latents from the choice: `mask` `[latents]` is -1 for those that may be chosen, else 0."""
    for j in range(mask.shape[0]):
        keys[j] &= mask[j]


@njit(**COMPILED)
def choose(values: Array, keys: Array, k: int, places: Array) -> int:
    """Write the ascending positions of the k largest values above 0 to `places`; return how many there are.

    Of equal values the lowest position wins. `places` has room for 16 more than the number of keys.
    """
    blocks = keys.shape[0] // (2 * LANES)
    line = address(keys, 0)
    low, high = 1, _ABOVE_ALL
    if count_at_least(line, blocks, np.int16(low)) <= k:
        return positions_at_least(line, blocks, np.int16(low), address(places, 0))
    while high - low > 1:
        middle = (low + high) >> 1
        chosen = count_at_least(line, blocks, np.int16(middle))
        if chosen == k:
            return positions_at_least(line, blocks, np.int16(middle), address(places, 0))
        if chosen > k:
            low = middle
        else:
            high = middle
    chosen = positions_at_least(line, blocks, np.int16(low), address(places, 0))
    return _drop_smallest(values, keys, low, k, places, chosen)


@njit(**COMPILED)
def _drop_smallest(values: Array, keys: Array, limit: int, k: int, places: Array, chosen: int) -> int:
    """Drop places whose key equals `limit`, smallest values and highest positions first, until k are left."""
    tied = np.empty(chosen, values.dtype)
    n_tied = 0
    for i in range(chosen):
        if keys[places[i]] == limit:
            tied[n_tied] = values[places[i]]
            n_tied += 1
    room = k - (chosen - n_tied)
    last = np.sort(tied[:n_tied])[n_tied - room]
    equal = room
    for i in range(n_tied):
        equal -= tied[i] > last
    kept = 0
    for i in range(chosen):
        place = places[i]
        if keys[place] == limit:
            if values[place] < last:
                continue
            if values[place] == last:
                if equal == 0:
                    continue
                equal -= 1
        places[kept] = place
        kept += 1
    return kept
