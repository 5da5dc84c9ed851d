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
from numba.extending import intrinsic as numba_intrinsic
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]

intrinsic = cast("Callable[[Callable[..., Any]], Callable[..., Any]]", numba_intrinsic)

COMPILED: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy", "_nrt": False}
"""Without Numba's counts of references, which cost time in short loops: compiled functions allocate no arrays."""
SUMMED: dict[str, Any] = {**COMPILED, "fastmath": {"reassoc", "contract"}}
"""Sums may be reordered, so that they use vectors; the order depends on the machine, not on the threads."""


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
    """Return whether an array holds bfloat16, alone or in words of two; known at compile time."""

    def constant(_builder: Any, _table: Any) -> Any:
        return ir.IntType(1)(table.dtype in (types.uint32, types.uint16))

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


@njit(**COMPILED)
def columns_of(table: Array) -> int:
    """Return the number of columns of a table."""
    return 2 * table.shape[1] if is_packed(table) else table.shape[1]


class Entries(NamedTuple):
    """Active entries of a batch, row by row, in levels: the reconstruction of level l sums all levels up to l."""

    bounds: Array
    """Position of the first entry of each level, and the end of the last, int64 `[rows, levels + 1]`."""
    latent: Array
    code: Array
    slope: Array
    """Inner product of the residual, summed over this and later levels, with the atom."""
    counts: Array
    """Number of gathered entries of each latent per chunk of rows, int64 `[chunks, latents]`."""
    residuals: Array
    """Table `[rows * levels, width]` of residuals, weighted and summed over this and later levels."""
    squares: Array
    """Sum of squares of each row's residual `[rows, levels]`."""
    gathered: int
    """Number of levels whose entries are summed one by one. The others, the last or none, are a matrix (`Dense`)."""


class Dense(NamedTuple):
    """Entries of the last level as matrices, for products with all atoms; without rows if these entries are gathered.

    Numbers are floats, or bfloat16 as `uint16`.
    """

    codes: Array
    """Codes `[rows, latents]`, 0 where a latent is not active."""
    slopes: Array
    """Products of residuals and atoms `[rows, latents]`; then 0 where a latent is not active."""
    rebuilt: Array
    """Table `[rows, width]` of products of codes and atoms."""
    counts: Array
    """Number of entries of each latent per chunk of rows `[chunks, latents]`."""
    sums: Array
    """Sums of the slopes of active entries `[chunks, latents]`."""


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
        add_row(total, table[index[e]], weight[e])
        e += 1


@njit(**SUMMED)
def add_row(total: Array, entries: Array, weight: float) -> None:
    """Add `weight` times a row of a table."""
    words = entries.shape[0]
    low, high = total[:words], total[words:]
    if is_packed(entries):
        for i in range(words):
            low[i] += weight * low_half(entries[i])
            high[i] += weight * high_half(entries[i])
    else:
        for i in range(words):
            low[i] += weight * entries[i]


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
    inner: Array, bias: Array, atoms: Array, weights: Array, main: Entries, dense: Dense, aux: Entries, sums: Array,
    scratch: Scratch, chunk: int, first: int, last: int,
) -> None:  # fmt: skip
    """Decode the rows of one chunk, and compute residuals, their squares, and the slopes of gathered codes.

    A residual is `rebuilt - inner`. `weights` are those of the levels' errors. `aux` decodes what is left of the last
    level's residual; without AuxK it has no rows. `sums` receives the sum over rows of the first level's residual.
    """
    width, levels = inner.shape[1], weights.shape[0]
    line, suffix = scratch.lines[:levels], scratch.lines[levels]
    clear(sums[chunk])
    clear(line[0])
    count_latents(main, chunk, first, last)
    if aux.bounds.shape[0]:
        count_latents(aux, chunk, first, last)
    for row in range(first, last):
        x = inner[row]
        for i in range(width):
            line[0, i] = bias[i] - x[i]
        decode_levels(row, line, atoms, main, dense)
        if aux.bounds.shape[0]:
            rebuild_aux(row, line[levels - 1], suffix, atoms, aux)
        multiply_levels(row, line, suffix, atoms, weights, main)
        for i in range(width):
            sums[chunk, i] += suffix[i]


@njit(**COMPILED)
def decode_levels(row: int, line: Array, atoms: Array, main: Entries, dense: Dense) -> None:
    """Compute the residuals of a row's levels from `bias - x` in the first line, and their squares."""
    bounds = main.bounds[row]
    for level in range(line.shape[0]):
        rest = line[level]
        if level:
            copy(line[level - 1], rest)
        if level < main.gathered:
            add_rows(rest, atoms, main.latent, main.code, bounds[level], bounds[level + 1])
        else:
            add_row(rest, dense.rebuilt[row], line.dtype.type(1))
        main.squares[row, level] = dot(rest, rest)


@njit(**COMPILED)
def multiply_levels(row: int, line: Array, suffix: Array, atoms: Array, weights: Array, main: Entries) -> None:
    """Store the weighted sums of residuals over levels, from the last on, and compute the slopes of gathered codes."""
    bounds, levels = main.bounds[row], line.shape[0]
    clear(suffix)
    for level in range(levels - 1, -1, -1):
        factor, rest = weights[level], line[level]
        for i in range(rest.shape[0]):
            suffix[i] += factor * rest[i]
        store_row(suffix, main.residuals[row * levels + level])
        if level < main.gathered:
            multiply_rows(main.slope, suffix, atoms, main.latent, bounds[level], bounds[level + 1])


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
    """Count the gathered entries of each latent in the rows of one chunk."""
    counts = entries.counts[chunk]
    clear(counts)
    for row in range(first, last):
        bounds = entries.bounds[row]
        for e in range(bounds[0], bounds[entries.gathered]):
            counts[entries.latent[e]] += 1


@njit(**COMPILED)
def fill_codes(entries: Entries, dense: Dense, chunk: int, first: int, last: int) -> None:
    """Write and count the codes of the last level in the rows of one chunk."""
    counts, zero = dense.counts[chunk], entries.code.dtype.type(0)
    clear(counts)
    for row in range(first, last):
        codes, bounds = dense.codes[row], entries.bounds[row]
        clear(codes)
        for e in range(bounds[entries.gathered], bounds[entries.gathered + 1]):
            latent, code = entries.latent[e], entries.code[e]
            codes[latent] = pack(code, zero) if is_packed(codes) else code
            counts[latent] += 1


@njit(**COMPILED)
def mask_slopes(dense: Dense, chunk: int, first: int, last: int) -> None:
    """Set the slopes of latents that are not active to 0 in the rows of one chunk; add up those of each latent."""
    sums = dense.sums[chunk]
    clear(sums)
    for row in range(first, last):
        codes, slopes = dense.codes[row], dense.slopes[row]
        for j in range(codes.shape[0]):
            slope = slopes[j] if codes[j] != 0 else slopes.dtype.type(0)
            slopes[j] = slope
            sums[j] += bfloat_value(slope)


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
    """Place the gathered entries of one chunk of rows, with scaled codes and slopes, from `cursor[latent]` on."""
    levels, factor = entries.bounds.shape[1] - 1, entries.code.dtype.type(scale)
    for row in range(first, last):
        for level in range(entries.gathered):
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


class GradientSums(NamedTuple):
    """Terms of the gradients of rows of weights: a sum of `weight * table[row]` over the entries of each latent."""

    table: Array
    offsets: Array
    """Position of each latent's first entry, and the end of the last; empty without entries."""
    row: Array
    weight: Array


@njit(**COMPILED)
def update_rows(
    parameter: Parameter, copies: Array, main: GradientSums, aux: GradientSums, products: Array, scale: float,
    numbers: AdamNumbers, keep: float, unit_norm: bool, line: Array, first: int, last: int,
) -> None:  # fmt: skip
    """Sum the gradients of the weights of latents `first` to `last`, step them, and refresh their rows of `copies`.

    `products` is a table of gradients of these latents, over `scale`, to which the sums are added, or has no rows. With
    `unit_norm`, the component along an atom is removed from its gradient, and the atom is scaled to length 1.
    """
    width = parameter.value.shape[1]
    gradient, number = line[:width], parameter.value.dtype.type
    for latent in range(first, last):
        clear(line)
        if products.shape[0]:
            add_row(line, products[latent - first], number(scale))
        for sums in (main, aux):
            if sums.offsets.shape[0]:
                add_rows(line, sums.table, sums.row, sums.weight, sums.offsets[latent], sums.offsets[latent + 1])
        weights = parameter.value[latent]
        if unit_norm:
            along = dot(gradient, weights)
            for i in range(width):
                gradient[i] -= along * weights[i]
        adam(weights, parameter.first[latent], parameter.second[latent], gradient, numbers, keep)
        if unit_norm:
            shrink = number(1) / max(np.sqrt(dot(weights, weights)), number(1e-12))
            for i in range(width):
                weights[i] *= shrink
        store_row(weights, copies[latent])


@njit(**SUMMED)
def sum_entries(values: Array, offsets: Array, totals: Array) -> None:
    """Add the sum of the entries of each latent to its total."""
    for latent in range(totals.shape[0]):
        total = values.dtype.type(0)
        for e in range(offsets[latent], offsets[latent + 1]):
            total += values[e]
        totals[latent] += total
