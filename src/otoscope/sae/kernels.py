"""Compiled loops of a sparse training step: selection, decoding, gradients of active entries, Adam.

Plain Numba, compiled for the vector unit of the machine. Every function works on a range of rows or of latents, so
callers may divide a batch between threads; sums run in a fixed order, so results do not depend on the division.

Tables hold copies of weights and rows for reading: plain floats, or bfloat16 in words of two columns each, which halves
the memory traffic. The low half of word i is column i, the high half column `i + words`, so that both halves of a
vector of words are vectors of neighbouring columns. Sums are in the precision of the weights. Lines that are added to
rows of a table have its number of columns: the width, for words rounded up to an even number and padded with zero.

Compiled code is cached beside the sources.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias, cast

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic as numba_intrinsic
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]

intrinsic = cast("Callable[[Callable[..., Any]], Callable[..., Any]]", numba_intrinsic)

COMPILED: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy", "_nrt": False}
"""Without Numba's counts of references, which cost time in short loops: compiled functions allocate no arrays."""
SUMMED: dict[str, Any] = {**COMPILED, "fastmath": {"reassoc", "contract"}}
"""Sums may be reordered, so that they use vectors; the order depends on the machine, not on the threads."""


LINE = 16
"""Floats per cache line."""
BLOCK = 64
"""Keys that are compared together: a bit of a word for each. Rows of keys are padded to whole blocks with 0."""
ONE = np.uint64(1)
WORD, UPPER = ir.IntType(32), 0xFFFF0000


def emits(emit: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    """Return a code generator for a function of one argument, given its builder and its value."""

    def generate(_context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        return emit(builder, values[0])

    return generate


def same(_builder: Any, value: Any) -> Any:
    """Emit nothing: a float is its own value."""
    return value


@intrinsic
def is_packed(_context: Any, table: Any) -> Any:
    """Return whether a table holds words of two bfloat16; known at compile time."""

    def constant(_builder: Any, _table: Any) -> Any:
        return ir.IntType(1)(table.dtype == types.uint32)

    return types.bool_(table), emits(constant)


@intrinsic
def low_half(_context: Any, entry: Any) -> Any:
    """Return the low half of a word as a float; a float as it is."""

    def convert(builder: Any, word: Any) -> Any:
        return builder.bitcast(builder.shl(word, WORD(16)), ir.FloatType())

    return (types.float32(entry), emits(convert)) if entry == types.uint32 else (entry(entry), emits(same))


@intrinsic
def high_half(_context: Any, entry: Any) -> Any:
    """Return the high half of a word as a float; a float as it is."""

    def convert(builder: Any, word: Any) -> Any:
        return builder.bitcast(builder.and_(word, WORD(UPPER)), ir.FloatType())

    return (types.float32(entry), emits(convert)) if entry == types.uint32 else (entry(entry), emits(same))


@intrinsic
def bfloat_value(_context: Any, entry: Any) -> Any:
    """Return a bfloat16, given as `uint16`, as a float; a float as it is."""

    def convert(builder: Any, bits: Any) -> Any:
        return builder.bitcast(builder.shl(builder.zext(bits, WORD), WORD(16)), ir.FloatType())

    return (types.float32(entry), emits(convert)) if entry == types.uint16 else (entry(entry), emits(same))


@intrinsic
def pack(_context: Any, low: Any, high: Any) -> Any:
    """Return the word of two floats, each rounded to bfloat16 (to nearest, ties to even)."""

    def emit(context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        rounded: list[Any] = []
        for value, kind in zip(values, (low, high), strict=True):
            bits = builder.bitcast(context.cast(builder, value, kind, types.float32), WORD)
            odd = builder.and_(builder.lshr(bits, WORD(16)), WORD(1))
            rounded.append(builder.add(builder.add(bits, WORD(0x7FFF)), odd))
        return builder.or_(builder.lshr(rounded[0], WORD(16)), builder.and_(rounded[1], WORD(UPPER)))

    return types.uint32(low, high), emit


@intrinsic
def fetch(_context: Any, rows: Any, _row: Any, _column: Any) -> Any:
    """Prefetch the cache line of an element of a contiguous array into the second-level cache; it may lie outside."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, values[0])
        width = cgutils.unpack_tuple(builder, array.shape, 2)[1]
        place = builder.gep(array.data, [builder.add(builder.mul(values[1], width), values[2])])
        kinds = [WORD(number) for number in (0, 2, 1)]  # read, second-level cache, data
        pointer = builder.bitcast(place, ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, *[number.type for number in kinds]])
        builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0"), [pointer, *kinds])
        return context.get_dummy_value()

    return types.void(rows, types.int64, types.int64), emit


@njit(**COMPILED)
def fetch_row(rows: Array, row: int) -> None:
    """Prefetch a row of a contiguous array."""
    for i in range(0, rows.shape[1], LINE):
        fetch(rows, row, i)


@njit(**COMPILED)
def store_row(line: Array, entries: Array) -> None:
    """Copy a line, padded or not, into a row of a table; the row may be the line itself."""
    if not is_packed(entries):
        for i in range(entries.shape[0]):
            entries[i] = line[i]
        return
    words = entries.shape[0]
    low, high = line[:words], line[words:]
    pairs = min(high.shape[0], words)
    for i in range(pairs):
        entries[i] = pack(low[i], high[i])
    for i in range(pairs, words):
        entries[i] = pack(low[i], line.dtype.type(0))


@njit(**COMPILED)
def store_rows(lines: Array, table: Array) -> None:
    """Copy lines into the rows of a table."""
    for row in range(lines.shape[0]):
        store_row(lines[row], table[row])


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
def columns_of(table: Array) -> int:
    """Return the number of columns of a table."""
    return 2 * table.shape[1] if is_packed(table) else table.shape[1]


# Selection. Positive floats have the order of their bits: a key is a rectified pre-activation, read as an integer.


@njit(**COMPILED)
def rectify(pre: Array, bias: Array, line: Array) -> None:
    """Write `max(pre + bias, 0)` to `line`; NaN becomes 0. `pre` holds floats, or bfloat16 as `uint16`."""
    zero = line.dtype.type(0)
    for j in range(line.shape[0]):
        value = bfloat_value(pre[j]) + bias[j]
        line[j] = value if value > zero else zero


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


class Entries(NamedTuple):
    """Active entries of a batch, row by row, in levels: the reconstruction of level l sums all levels up to l."""

    bounds: Array
    """Position of the first entry of each level, and the end of the last, int64 `[rows, levels + 1]`."""
    latent: Array
    code: Array
    slope: Array
    """Inner product of the residual, summed over this and later levels, with the atom."""
    counts: Array
    """Number of entries of each latent per chunk of rows, int64 `[chunks, latents]`."""
    residuals: Array
    """Table `[rows * levels, width]` of residuals, weighted and summed over this and later levels."""
    squares: Array
    """Sum of squares of each row's residual `[rows, levels]`."""


class Scratch(NamedTuple):
    """Buffers of one thread."""

    codes: Array
    """Rectified pre-activations of a row."""
    keys: Array
    """The same memory as integers, padded to whole blocks."""
    places: Array
    chosen: Array
    lines: Array
    """Residuals of a row's levels, and one further line `[levels + 1, columns]`."""


@njit(**COMPILED)
def select_rows(
    pre: Array, bias: Array, ends: Array, budgets: Array, entries: Entries, scratch: Scratch, step: int, first: int
) -> None:
    """Choose the `budgets[-1]` largest latents of every row of `pre`, which start at row `first` of the batch.

    The levels are the nested `budgets` of largest entries, or, if there is only one budget, the latents up to `ends`.
    """
    guess, k = 0, int(budgets[budgets.shape[0] - 1])
    for i in range(pre.shape[0]):
        rectify(pre[i], bias, scratch.codes)
        guess = write_chosen(first + i, k, guess, step, ends, budgets, entries, scratch)


@njit(**COMPILED)
def select_dead_rows(
    pre: Array, bias: Array, dead: Array, ends: Array, budgets: Array, entries: Entries, scratch: Scratch,
    step: int, first: int,
) -> None:  # fmt: skip
    """Choose among the latents that are `dead`, as `select_rows` does."""
    guess, k = 0, int(budgets[budgets.shape[0] - 1])
    for i in range(pre.shape[0]):
        rectify(pre[i], bias, scratch.codes)
        for j in range(dead.shape[0]):
            scratch.codes[j] *= dead[j]
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
def count_rows(pre: Array, bias: Array, limit: int, counts: Array, scratch: Scratch, first: int) -> None:
    """Count the keys of each row that are at least `limit`."""
    for i in range(pre.shape[0]):
        rectify(pre[i], bias, scratch.codes)
        counts[first + i] = count_at_least(scratch.keys, limit)


@njit(**COMPILED)
def list_rows(
    pre: Array, bias: Array, limit: int, starts: Array, latent: Array, keys: Array, scratch: Scratch, first: int
) -> None:
    """List the latents and keys of each row that are at least `limit`, ascending, from `starts[row]`."""
    for i in range(pre.shape[0]):
        rectify(pre[i], bias, scratch.codes)
        count, start = positions_at_least(scratch.keys, limit, scratch.places), starts[first + i]
        for n in range(count):
            latent[start + n] = scratch.places[n]
            keys[start + n] = scratch.keys[scratch.places[n]]


# Sums over active entries. Eight rows of a table per pass: the sum is loaded and stored once for all of them.


@njit(**SUMMED)
def add_rows(total: Array, table: Array, index: Array, weight: Array, start: int, stop: int) -> None:
    """Add `sum of weight[e] * table[index[e]]` over the entries from `start` to `stop`."""
    words, e = table.shape[1], start
    low, high = total[:words], total[words:]
    while e + 8 <= stop:
        i1, i2, i3, i4 = index[e], index[e + 1], index[e + 2], index[e + 3]
        i5, i6, i7, i8 = index[e + 4], index[e + 5], index[e + 6], index[e + 7]
        w1, w2, w3, w4 = weight[e], weight[e + 1], weight[e + 2], weight[e + 3]
        w5, w6, w7, w8 = weight[e + 4], weight[e + 5], weight[e + 6], weight[e + 7]
        a, b, c, d, f, g, h, m = table[i1], table[i2], table[i3], table[i4], table[i5], table[i6], table[i7], table[i8]
        if is_packed(table):
            for i in range(words):
                x = low[i] + w1 * low_half(a[i]) + w2 * low_half(b[i]) + w3 * low_half(c[i]) + w4 * low_half(d[i])
                y = high[i] + w1 * high_half(a[i]) + w2 * high_half(b[i]) + w3 * high_half(c[i]) + w4 * high_half(d[i])
                low[i] = x + w5 * low_half(f[i]) + w6 * low_half(g[i]) + w7 * low_half(h[i]) + w8 * low_half(m[i])
                high[i] = y + w5 * high_half(f[i]) + w6 * high_half(g[i]) + w7 * high_half(h[i]) + w8 * high_half(m[i])
        else:
            for i in range(words):
                x = low[i] + w1 * a[i] + w2 * b[i] + w3 * c[i] + w4 * d[i]
                low[i] = x + w5 * f[i] + w6 * g[i] + w7 * h[i] + w8 * m[i]
        e += 8
    while e < stop:
        a, w1 = table[index[e]], weight[e]
        if is_packed(table):
            for i in range(words):
                low[i] += w1 * low_half(a[i])
                high[i] += w1 * high_half(a[i])
        else:
            for i in range(words):
                low[i] += w1 * a[i]
        e += 1


@njit(**SUMMED)
def multiply_rows(out: Array, line: Array, table: Array, index: Array, start: int, stop: int) -> None:
    """Write `<line, table[index[e]]>` of the entries from `start` to `stop` to `out[e]`."""
    words, e, zero = table.shape[1], start, line.dtype.type(0)
    low, high = line[:words], line[words:]
    while e + 4 <= stop:
        a, b, c, d = table[index[e]], table[index[e + 1]], table[index[e + 2]], table[index[e + 3]]
        p, q, r, s = zero, zero, zero, zero
        if is_packed(table):
            for i in range(words):
                x, y = low[i], high[i]
                p += x * low_half(a[i]) + y * high_half(a[i])
                q += x * low_half(b[i]) + y * high_half(b[i])
                r += x * low_half(c[i]) + y * high_half(c[i])
                s += x * low_half(d[i]) + y * high_half(d[i])
        else:
            for i in range(words):
                x = low[i]
                p += x * a[i]
                q += x * b[i]
                r += x * c[i]
                s += x * d[i]
        out[e], out[e + 1], out[e + 2], out[e + 3] = p, q, r, s
        e += 4
    while e < stop:
        a, p = table[index[e]], zero
        if is_packed(table):
            for i in range(words):
                p += low[i] * low_half(a[i]) + high[i] * high_half(a[i])
        else:
            for i in range(words):
                p += low[i] * a[i]
        out[e] = p
        e += 1


@njit(**COMPILED)
def clear(line: Array) -> None:
    """Set every element to 0."""
    for i in range(line.shape[0]):
        line[i] = 0


@njit(**COMPILED)
def copy(source: Array, target: Array) -> None:
    """Copy a line to another one."""
    for i in range(target.shape[0]):
        target[i] = source[i]


@njit(**SUMMED)
def dot(a: Array, b: Array) -> Any:
    """Return the inner product of two rows."""
    total = a.dtype.type(0)
    for i in range(a.shape[0]):
        total += a[i] * b[i]
    return total


@njit(**COMPILED)
def rebuild_rows(
    inner: Array, bias: Array, atoms: Array, weights: Array, main: Entries, aux: Entries, sums: Array,
    scratch: Scratch, chunk: int, first: int, last: int,
) -> None:  # fmt: skip
    """Decode the rows of one chunk, and compute residuals, their squares, and the slope of every active code.

    A residual is `rebuilt - inner`. `weights` are those of the levels' errors. `aux` decodes what is left of the last
    level's residual; without AuxK it has no rows. `sums` receives the sum over rows of the first level's residual.
    """
    width, columns, levels = inner.shape[1], columns_of(atoms), weights.shape[0]
    line, suffix = scratch.lines[:levels], scratch.lines[levels]
    clear(sums[chunk])
    clear(line[0])
    count_latents(main, chunk, first, last)
    if aux.bounds.shape[0]:
        count_latents(aux, chunk, first, last)
    for row in range(first, last):
        x, bounds = inner[row], main.bounds[row]
        for i in range(width):
            line[0, i] = bias[i] - x[i]
        for level in range(levels):
            rest = line[level]
            if level:
                copy(line[level - 1], rest)
            add_rows(rest, atoms, main.latent, main.code, bounds[level], bounds[level + 1])
            main.squares[row, level] = dot(rest, rest)
        if aux.bounds.shape[0]:
            rebuild_aux(row, line[levels - 1], suffix, atoms, aux)
        clear(suffix)
        for level in range(levels - 1, -1, -1):
            factor, rest = weights[level], line[level]
            for i in range(columns):
                suffix[i] += factor * rest[i]
            store_row(suffix, main.residuals[row * levels + level])
            multiply_rows(main.slope, suffix, atoms, main.latent, bounds[level], bounds[level + 1])
        for i in range(width):
            sums[chunk, i] += suffix[i]


@njit(**COMPILED)
def rebuild_aux(row: int, residual: Array, rest: Array, atoms: Array, aux: Entries) -> None:
    """Add the dead latents of a row to its residual, and compute their slopes."""
    start, stop = aux.bounds[row, 0], aux.bounds[row, 1]
    copy(residual, rest)
    add_rows(rest, atoms, aux.latent, aux.code, start, stop)
    aux.squares[row, 0] = dot(rest, rest)
    store_row(rest, aux.residuals[row])
    multiply_rows(aux.slope, rest, atoms, aux.latent, start, stop)


@njit(**COMPILED)
def count_latents(entries: Entries, chunk: int, first: int, last: int) -> None:
    """Count the entries of each latent in the rows of one chunk."""
    counts = entries.counts[chunk]
    clear(counts)
    for row in range(first, last):
        bounds = entries.bounds[row]
        for e in range(bounds[0], bounds[bounds.shape[0] - 1]):
            counts[entries.latent[e]] += 1


class ByLatent(NamedTuple):
    """The same entries ordered by latent, then by row: the transpose of the selection."""

    offsets: Array
    """Position of each latent's first entry, and the end of the last `[latents + 1]`."""
    row: Array
    residual: Array
    """Row of the table of residuals: `row * levels + level`."""
    code: Array
    slope: Array


@njit(**COMPILED)
def order_by_latent(entries: Entries, cursor: Array, scale: float, ordered: ByLatent, first: int, last: int) -> None:
    """Place the entries of one chunk of rows, with scaled codes and slopes, from `cursor[latent]` on."""
    levels, factor = entries.bounds.shape[1] - 1, entries.code.dtype.type(scale)
    for row in range(first, last):
        for level in range(levels):
            for e in range(entries.bounds[row, level], entries.bounds[row, level + 1]):
                latent = entries.latent[e]
                place = cursor[latent]
                cursor[latent] = place + 1
                ordered.row[place] = row
                ordered.residual[place] = row * levels + level
                ordered.code[place] = entries.code[e] * factor
                ordered.slope[place] = entries.slope[e] * factor


# Adam (Kingma and Ba, arXiv 1412.6980) with decoupled decay (arXiv 1711.05101).


class Parameter(NamedTuple):
    """An array of weights with Adam's first and second moments."""

    value: Array
    first: Array
    second: Array


class AdamNumbers(NamedTuple):
    """Numbers of one step: `rate` over the first moment's bias correction, `unbias` 1 over the root of the second's."""

    rate: float
    beta1: float
    beta2: float
    unbias: float
    epsilon: float
    keep: float
    """Factor on the encoder's weights before the step: `1 - learning rate * weight decay`."""


@njit(**COMPILED, fastmath={"contract"})
def adam(value: Array, first: Array, second: Array, gradient: Array, numbers: AdamNumbers, keep: float) -> None:
    """Take one step in place on a row of weights."""
    number = value.dtype.type
    rate, beta1, beta2 = number(numbers.rate), number(numbers.beta1), number(numbers.beta2)
    rest1, rest2 = number(1.0 - numbers.beta1), number(1.0 - numbers.beta2)
    unbias, epsilon, kept = number(numbers.unbias), number(numbers.epsilon), number(keep)
    for i in range(value.shape[0]):
        slope = gradient[i]
        mean = beta1 * first[i] + rest1 * slope
        square = beta2 * second[i] + rest2 * slope * slope
        first[i], second[i] = mean, square
        value[i] = kept * value[i] - rate * mean / (np.sqrt(square) * unbias + epsilon)


@njit(**COMPILED)
def update_latents(
    encoder: Parameter, decoder: Parameter, filters: Array, atoms: Array, inputs: Array, residuals: Array,
    aux_residuals: Array, main: ByLatent, aux: ByLatent, bias_gradient: Array, numbers: AdamNumbers,
    unit_norm: bool, trained_decoder: bool, line: Array, first: int, last: int,
) -> None:  # fmt: skip
    """Sum the gradients of latents `first` to `last` and step their weights; refresh their rows of tables.

    The atom's gradient is the sum of `code * residual`, the filter's that of `slope * input`. With `unit_norm` the
    component along the atom is removed, and the atom is scaled to length 1. `aux` has no offsets without AuxK.
    """
    width = encoder.value.shape[1]
    gradient = line[:width]
    one, shortest = encoder.value.dtype.type(1), encoder.value.dtype.type(1e-12)
    for latent in range(first, last):
        fetch_row(decoder.value, latent)
        fetch_row(decoder.first, latent)
        fetch_row(decoder.second, latent)
        fetch_row(atoms, latent)
        start, stop = main.offsets[latent], main.offsets[latent + 1]
        clear(line)
        add_rows(line, inputs, main.row, main.slope, start, stop)
        total = sum_entries(main.slope, start, stop)
        if aux.offsets.shape[0]:
            aux_start, aux_stop = aux.offsets[latent], aux.offsets[latent + 1]
            add_rows(line, inputs, aux.row, aux.slope, aux_start, aux_stop)
            total += sum_entries(aux.slope, aux_start, aux_stop)
        bias_gradient[latent] = total
        value = encoder.value[latent]
        adam(value, encoder.first[latent], encoder.second[latent], gradient, numbers, numbers.keep)
        store_row(value, filters[latent])
        if not trained_decoder:
            continue
        fetch_row(encoder.value, latent + 1)
        fetch_row(encoder.first, latent + 1)
        fetch_row(encoder.second, latent + 1)
        fetch_row(filters, latent + 1)
        clear(line)
        add_rows(line, residuals, main.residual, main.code, start, stop)
        if aux.offsets.shape[0]:
            add_rows(line, aux_residuals, aux.residual, aux.code, aux.offsets[latent], aux.offsets[latent + 1])
        atom = decoder.value[latent]
        if unit_norm:
            along = dot(gradient, atom)
            for i in range(width):
                gradient[i] -= along * atom[i]
        adam(atom, decoder.first[latent], decoder.second[latent], gradient, numbers, 1.0)
        if unit_norm:
            factor = one / max(np.sqrt(dot(atom, atom)), shortest)
            for i in range(width):
                atom[i] *= factor
        store_row(atom, atoms[latent])


@njit(**SUMMED)
def sum_entries(values: Array, start: int, stop: int) -> Any:
    """Return the sum of a range of entries."""
    total = values.dtype.type(0)
    for e in range(start, stop):
        total += values[e]
    return total
