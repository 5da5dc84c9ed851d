"""Compiled loops that select the largest pre-activations of rows, exactly.

Positive floats have the order of their bits: a key is a rectified pre-activation, read as an integer. Like
`otoscope.sae.kernels`, every function works on a range of rows, and its result does not depend on the division of a
batch between threads.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types

from otoscope.sae.kernels import COMPILED, WORD, Array, Entries, Scratch, bfloat_value, emits, intrinsic

BLOCK = 64
"""Keys that are compared together: a bit of a word for each. Rows of keys are padded to whole blocks with 0."""
ONE = np.uint64(1)


@intrinsic
def bits_at_least(_context: Any, keys: Any, _start: Any, _bound: Any) -> Any:
    """Return which of the `BLOCK` keys from `start` on are at least `bound`: bit i for key i."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, values[0])
        lanes = ir.VectorType(values[2].type, BLOCK)
        place = builder.bitcast(builder.gep(array.data, [values[1]]), lanes.as_pointer())
        block = builder.load(place, align=keys.dtype.bitwidth // 8)
        first = builder.insert_element(ir.Constant(lanes, ir.Undefined), values[2], WORD(0))
        bound = builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(WORD, BLOCK), [0] * BLOCK))
        return builder.bitcast(builder.icmp_signed(">=", block, bound), ir.IntType(BLOCK))

    return types.uint64(keys, types.int64, keys.dtype), emit


@intrinsic
def lowest_bit(_context: Any, _bits: Any) -> Any:
    """Return the position of the lowest bit of a number above 0."""

    def count(builder: Any, bits: Any) -> Any:
        return builder.cttz(bits, ir.IntType(1)(1))

    return types.int64(types.uint64), emits(count)


@njit(**COMPILED)
def rectify(pre: Array, bias: Array, lower: Array, line: Array) -> None:
    """Write `pre + bias` to `line` where it is above `lower`, else 0, also for NaN.

    `pre` holds floats, or bfloat16 as `uint16`.
    """
    zero = line.dtype.type(0)
    for j in range(line.shape[0]):
        value = bfloat_value(pre[j]) + bias[j]
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
def choose(keys: Array, k: int, guess: int, step: int, places: Array, chosen: Array) -> tuple[int, int]:
    """Write the ascending positions of the k largest keys above 0 to `places`; return their number and a new guess.

    Of equal keys the lowest position wins. `guess` speeds the search: the threshold of a similar row, lowered by
    `step`; the result does not depend on it. `chosen` receives the keys.
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
    limit = kth_largest(chosen[:count], k, limit)
    room = k - count_at_least(chosen[:count], limit + 1)
    kept = 0
    for i in range(count):
        key = chosen[i]
        tied = (key == limit) & (room > 0)
        places[kept], chosen[kept] = places[i], key
        room -= tied
        kept += (key > limit) | tied
    return kept, limit - step


@njit(**COMPILED)
def select_rows(
    pre: Array, bias: Array, lower: Array, among: Array, ends: Array, budgets: Array, entries: Entries,
    scratch: Scratch, step: int, first: int,
) -> None:  # fmt: skip
    """Choose the `budgets[-1]` largest latents of every row of `pre`, which start at row `first` of the batch.

    Only the latents for which `among` is true are chosen, unless it is empty. The levels are the nested `budgets` of
    largest entries, or, if there is only one budget, the latents up to `ends`.
    """
    guess, k = 0, int(budgets[budgets.shape[0] - 1])
    for i in range(pre.shape[0]):
        rectify(pre[i], bias, lower, scratch.codes)
        for j in range(among.shape[0]):
            scratch.codes[j] *= among[j]
        guess = write_chosen(first + i, k, guess, step, ends, budgets, entries, scratch)


@njit(**COMPILED)
def write_chosen(
    row: int, k: int, guess: int, step: int, ends: Array, budgets: Array, entries: Entries, scratch: Scratch
) -> int:
    """Write the entries of one row from its keys, sorted by level; return the next guess."""
    bounds, places, chosen = entries.bounds[row], scratch.places, scratch.chosen
    count, guess = choose(scratch.keys, k, guess, step, places, chosen)
    start = row * k
    bounds[0] = start
    if budgets.shape[0] == 1:
        for i in range(count):
            entries.latent[start + i] = places[i]
            entries.code[start + i] = scratch.codes[places[i]]
        bound_levels(bounds, entries.latent, ends, count)
        return guess
    # smaller budgets: entries above a budget's threshold go first; the lowest position wins among equal keys
    done = 0
    for level in range(budgets.shape[0]):
        budget = min(budgets[level], count)
        limit, room = 1, budget
        if budget < count:
            limit = kth_largest(chosen[:count], budget, 1)
            room = budget - count_at_least(chosen[:count], limit + 1)
        for i in range(count):
            if chosen[i] > limit or (chosen[i] == limit and room > 0):
                room -= chosen[i] == limit
                if places[i] >= 0:
                    entries.latent[start + done] = places[i]
                    entries.code[start + done] = scratch.codes[places[i]]
                    places[i] = -1
                    done += 1
        bounds[level + 1] = start + done
    return guess


@njit(**COMPILED)
def bound_levels(bounds: Array, latent: Array, ends: Array, count: int) -> None:
    """Set the bounds of levels that are ranges of latents, of `count` ascending entries from `bounds[0]`."""
    place, stop = bounds[0], bounds[0] + count
    for level in range(ends.shape[0]):
        while place < stop and latent[place] < ends[level]:
            place += 1
        bounds[level + 1] = place


@njit(**COMPILED)
def bound_rows(bounds: Array, latent: Array, ends: Array, starts: Array, first: int, last: int) -> None:
    """Set the bounds of the levels of listed rows, whose entries start at `starts`."""
    for row in range(first, last):
        bounds[row, 0] = starts[row]
        bound_levels(bounds[row], latent, ends, starts[row + 1] - starts[row])


@njit(**COMPILED)
def count_rows(pre: Array, bias: Array, lower: Array, limit: int, counts: Array, scratch: Scratch, first: int) -> None:
    """Count the keys of each row that are at least `limit`."""
    for i in range(pre.shape[0]):
        rectify(pre[i], bias, lower, scratch.codes)
        counts[first + i] = count_at_least(scratch.keys, limit)


@njit(**COMPILED)
def list_rows(
    pre: Array,
    bias: Array,
    lower: Array,
    limit: int,
    starts: Array,
    latent: Array,
    keys: Array,
    scratch: Scratch,
    first: int,
) -> None:
    """List the latents and keys of each row that are at least `limit`, ascending, from `starts[row]`."""
    for i in range(pre.shape[0]):
        rectify(pre[i], bias, lower, scratch.codes)
        count, start = positions_at_least(scratch.keys, limit, scratch.places), starts[first + i]
        for n in range(count):
            latent[start + n] = scratch.places[n]
            keys[start + n] = scratch.keys[scratch.places[n]]
