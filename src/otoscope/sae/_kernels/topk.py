"""The k largest pre-activations of a row, exactly, without sorting.

The upper 16 bits of a positive float32 order like an integer. Counting the keys above a border takes one
comparison for 32 of them, so bisection over the border finds the k-th largest key in at most 15 counts;
only where more keys lie on the border than fit are the full values compared.

Counting and listing 16-bit keys against a border, 32 at a time.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types

from otoscope.sae._kernels.gather import COMPILED, Array
from otoscope.sae._kernels.llvm import (
    I16,
    I32,
    I64,
    LANES,
    MASK,
    SHORTS32,
    WORDS,
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


_ABOVE_ALL = 0x7FFF


@njit(**COMPILED)
def make_keys(values: Array, bias: Array, single: Array, keys: Array) -> None:
    """Add the bias, rectify in place, and write the 16-bit keys: 0 for what is not above 0 (NaN included)."""
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
def keep_only(keys: Array, wanted: Array) -> None:
    """Take latents out of the choice: `wanted` `[latents]` is -1 for those that may be chosen, else 0."""
    for j in range(wanted.shape[0]):
        keys[j] &= wanted[j]


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
        found = count_at_least(line, blocks, np.int16(middle))
        if found == k:
            return positions_at_least(line, blocks, np.int16(middle), address(places, 0))
        if found > k:
            low = middle
        else:
            high = middle
    found = positions_at_least(line, blocks, np.int16(low), address(places, 0))
    return _drop_smallest(values, keys, low, k, places, found)


@njit(**COMPILED)
def _drop_smallest(values: Array, keys: Array, border: int, k: int, places: Array, found: int) -> int:
    """Thin out the places on the border, smallest values and highest positions first, until k are left."""
    on_border = np.empty(found, values.dtype)
    ties = 0
    for i in range(found):
        if keys[places[i]] == border:
            on_border[ties] = values[places[i]]
            ties += 1
    room = k - (found - ties)
    last = np.sort(on_border[:ties])[ties - room]
    equal = room
    for i in range(ties):
        equal -= on_border[i] > last
    kept = 0
    for i in range(found):
        place = places[i]
        if keys[place] == border:
            if values[place] < last:
                continue
            if values[place] == last:
                if equal == 0:
                    continue
                equal -= 1
        places[kept] = place
        kept += 1
    return kept
