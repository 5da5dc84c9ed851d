"""Compiled loops that select the largest pre-activations of rows, exactly.

Positive floats have the order of their bits: a key is a rectified pre-activation, read as an integer. Like
`otoscope.sae.kernels`, every function works on a range of rows, and its result does not depend on the division of a
batch between threads.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic as numba_intrinsic

from otoscope.sae.kernel_tables import BITS, COMPILED, Array, low_half
from otoscope.sae.kernels import Entries

BLOCK = 64
"""Keys that are compared together: a bit of a word for each. Rows of keys are padded to whole blocks with 0."""
ONE = np.uint64(1)

intrinsic = cast("Callable[[Callable[..., Any]], Callable[..., Any]]", numba_intrinsic)


class Scratch(NamedTuple):
    """Buffers of one thread."""

    codes: Array
    """Rectified pre-activations of a row."""
    keys: Array
    """The same memory as integers, padded to whole blocks."""
    places: Array
    """Positions of the keys that are chosen."""
    chosen: Array
    rest: Array
    """Positions of the keys that are not chosen any more."""
    lines: Array
    """Residuals of a row's levels, and one further line `[levels + 1, columns]`."""


@intrinsic
def bits_at_least(_context: Any, keys: Any, _start: Any, _bound: Any) -> Any:
    """Return which of the `BLOCK` keys from `start` on are at least `bound`: bit i for key i."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, values[0])
        lanes, word = ir.VectorType(values[2].type, BLOCK), ir.IntType(32)
        place = builder.bitcast(builder.gep(array.data, [values[1]]), lanes.as_pointer())
        block = builder.load(place, align=keys.dtype.bitwidth // 8)
        first = builder.insert_element(ir.Constant(lanes, ir.Undefined), values[2], word(0))
        bound = builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(word, BLOCK), [0] * BLOCK))
        return builder.bitcast(builder.icmp_signed(">=", block, bound), ir.IntType(BLOCK))

    return types.uint64(keys, types.int64, keys.dtype), emit


@intrinsic
def lowest_bit(_context: Any, _bits: Any) -> Any:
    """Return the position of the lowest bit of a number above 0."""

    def emit(_context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        return builder.cttz(values[0], ir.IntType(1)(1))

    return types.int64(types.uint64), emit


@njit(**COMPILED)
def rectify(pre: Array, bias: Array, lower: Array, line: Array) -> None:
    """Write `pre + bias` to `line` where it is above `lower`, else 0, also for NaN.

    `pre` holds floats, or bfloat16 as `uint16`.
    """
    zero = line.dtype.type(0)
    for j in range(line.shape[0]):
        value = (low_half(pre[j]) if pre.dtype == BITS else pre[j]) + bias[j]
        line[j] = value if value > lower[j] else zero


@njit(**COMPILED)
def count_at_least(keys: Array, limit: int) -> int:
    """Count the keys that are at least `limit`."""
    bound, total = keys.dtype.type(limit), 0
    for j in range(keys.shape[0]):
        total += keys[j] >= bound
    return total


@njit(**COMPILED)
def positions_at_least(keys: Array, limit: int, out: Array) -> int:
    """Write the ascending positions of keys that are at least `limit`, above 0; return their number."""
    bound, total = keys.dtype.type(limit), 0
    for start in range(0, keys.shape[0], BLOCK):
        bits = bits_at_least(keys, start, bound)
        while bits:
            out[total] = start + lowest_bit(bits)
            bits &= bits - ONE
            total += 1
    return total


@njit(**COMPILED)
def kth_largest(keys: Array, k: int, low: int) -> int:
    """Return the k-th largest of more than k keys, which are all at least `low`, by bisection.

    The result may be lower where exactly k keys are at least that large.
    """
    high = 0
    for j in range(keys.shape[0]):
        high = max(high, keys[j])
    high += 1
    while high - low > 1:
        middle = low + ((high - low) >> 1)  # the sum may overflow
        count = count_at_least(keys, middle)
        if count == k:
            return middle
        if count > k:
            low = middle
        else:
            high = middle
    return low


@njit(**COMPILED)
def keep_largest(k: int, low: int, places: Array, chosen: Array, rest: Array) -> int:
    """Keep the k largest of more than k keys, which are all at least `low`, in their order; return the smallest.

    Of equal keys the lowest position wins. `rest` receives the positions of the others.
    """
    limit = kth_largest(chosen, k, low)
    room, kept = k - count_at_least(chosen, limit + 1), 0
    for i in range(chosen.shape[0]):
        place, key = places[i], chosen[i]
        tied = (key == limit) & (room > 0)
        rest[i - kept] = place  # overwritten if this key is kept
        places[kept], chosen[kept] = place, key
        room -= tied
        kept += (key > limit) | tied
    return limit


@njit(**COMPILED)
def choose(keys: Array, k: int, guess: int, step: int, places: Array, chosen: Array, rest: Array) -> tuple[int, int]:
    """Write the ascending positions of the k largest keys above 0 to `places`; return their number and a new guess.

    Of equal keys the lowest position wins. `guess` speeds the search: the threshold of a similar row, lowered by
    `step`; the result does not depend on it. `chosen` receives the keys; `rest` is a buffer.
    """
    limit, fall = max(guess, 1), step
    count = positions_at_least(keys, limit, places)
    while count < k and limit > 1:
        limit, fall = max(limit - fall, 1), 2 * fall
        count = positions_at_least(keys, limit, places)
    for i in range(count):
        chosen[i] = keys[places[i]]
    if count <= k:
        return count, limit
    return k, keep_largest(k, limit, places, chosen[:count], rest) - step


@njit(**COMPILED)
def select_rows(
    pre: Array, bias: Array, lower: Array, ends: Array, budgets: Array, entries: Entries, scratch: Scratch, step: int,
    first: int,
) -> None:  # fmt: skip
    """Choose the `budgets[-1]` largest latents above `lower` of every row of `pre`, which start at row `first`.

    The levels are the nested `budgets` of largest entries, or, if there is only one budget, the latents up to `ends`.
    """
    places, chosen, rest = scratch.places, scratch.chosen, scratch.rest
    guess, last = 0, budgets.shape[0] - 1
    k = int(budgets[last])
    for i in range(pre.shape[0]):
        bounds, start = entries.bounds[first + i], (first + i) * k
        rectify(pre[i], bias, lower, scratch.codes)
        count, guess = choose(scratch.keys, k, guess, step, places, chosen, rest)
        total, bounds[0] = count, start
        for level in range(last, 0, -1):
            bounds[level + 1] = start + count
            budget = min(budgets[level - 1], count)
            if budget < count:
                keep_largest(budget, 1, places, chosen[:count], rest)
                for n in range(count - budget):
                    entries.latent[start + budget + n] = rest[n]
                count = budget
        for n in range(count):
            entries.latent[start + n] = places[n]
        for e in range(start, start + total):
            entries.code[e] = scratch.codes[entries.latent[e]]
        if last:
            bounds[1] = start + count
        else:
            bound_levels(bounds, entries.latent, ends, count)


@njit(**COMPILED)
def bound_levels(bounds: Array, latent: Array, ends: Array, count: int) -> None:
    """Set the bounds of levels that are ranges of latents, of `count` ascending entries from `bounds[0]`."""
    place, stop = bounds[0], bounds[0] + count
    for level in range(ends.shape[0]):
        while place < stop and latent[place] < ends[level]:
            place += 1
        bounds[level + 1] = place


@njit(**COMPILED)
def count_rows(pre: Array, bias: Array, lower: Array, limit: int, counts: Array, scratch: Scratch, first: int) -> None:
    """Count the keys of each row that are at least `limit`."""
    for i in range(pre.shape[0]):
        rectify(pre[i], bias, lower, scratch.codes)
        counts[first + i] = count_at_least(scratch.keys, limit)


@njit(**COMPILED)
def list_rows(
    pre: Array, bias: Array, lower: Array, limit: int, starts: Array, ends: Array, entries: Entries, scratch: Scratch,
    first: int,
) -> None:  # fmt: skip
    """List the latents and codes of each row whose keys are at least `limit`, ascending, from `starts[row]`."""
    for i in range(pre.shape[0]):
        bounds, start = entries.bounds[first + i], starts[first + i]
        rectify(pre[i], bias, lower, scratch.codes)
        count = positions_at_least(scratch.keys, limit, scratch.places)
        for n in range(count):
            entries.latent[start + n] = scratch.places[n]
            entries.code[start + n] = scratch.codes[scratch.places[n]]
        bounds[0] = start
        bound_levels(bounds, entries.latent, ends, count)


def keep_in_batch(entries: Entries, number: int, wanted: int) -> Array:
    """Keep the `wanted` largest of `number` listed entries, of equal ones the first; return the smallest, or 0."""
    latent, code = entries.latent[:number], entries.code[:number]
    smallest, kept = np.zeros(1, code.dtype), np.ones(number, bool)
    if number >= wanted:
        smallest[0] = np.partition(code, number - wanted)[number - wanted]
        kept = code > smallest
        kept[np.flatnonzero(code == smallest)[: wanted - kept.sum()]] = True
    before = np.concatenate([[0], np.cumsum(kept)])
    latent[: before[-1]], code[: before[-1]] = latent[kept], code[kept]
    entries.bounds[...] = before[entries.bounds]
    return smallest
