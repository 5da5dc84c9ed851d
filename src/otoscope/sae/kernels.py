"""Compiled loops of a sparse training step on its active entries: decoding, gradients of codes and weights, Adam.

Every function works on a range of rows or of latents, so callers may divide a batch between threads; sums run in a
fixed order, so results do not depend on the division. `otoscope.sae.kernel_tables` describes tables and lines.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from otoscope.sae.kernel_tables import BITS, COMPILED, Array, add_row, add_rows, dot, multiply_rows, pack, store_row

BETA1, EPSILON = 0.9, 1e-8
"""Adam's constants."""


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
    """Number of levels whose entries are summed one by one. The others, the last or none, are a matrix of codes."""


@njit(**COMPILED)
def rebuild_rows(
    inner: Array, bias: Array, atoms: Array, weights: Array, main: Entries, rebuilt: Array, aux: Entries, sums: Array,
    lines: Array, chunk: int, first: int, last: int,
) -> None:  # fmt: skip
    """Decode the rows of one chunk, and compute residuals, their squares, and the slopes of gathered codes.

    A residual is reconstruction minus `inner`. `weights` are those of the levels' errors. `rebuilt` is a table of the
    sums of the last level's entries, if they are not gathered. `aux` decodes what is left of the last level's residual;
    without AuxK it has no rows. `sums` receives the sum over rows of the first level's residual. `lines` are buffers
    of residuals, one for each level and one more.
    """
    width, levels, one = inner.shape[1], weights.shape[0], inner.dtype.type(1)
    suffix = lines[levels]
    lines[:], sums[chunk, :], main.counts[chunk, :] = 0, 0, 0
    if aux.bounds.shape[0]:
        aux.counts[chunk, :] = 0
    for row in range(first, last):
        for i in range(width):
            lines[0, i] = bias[i] - inner[row, i]
        for level in range(levels):
            if level:
                store_row(lines[level - 1], lines[level])
            decode_level(row, level, lines[level], atoms, main, rebuilt)
        if aux.bounds.shape[0]:
            store_row(lines[levels - 1], suffix)
            decode_level(row, 0, suffix, atoms, aux, rebuilt)
            multiply_level(row, 0, suffix, atoms, aux, chunk)
        suffix[:] = 0
        for level in range(levels - 1, -1, -1):
            add_row(suffix, lines[level], weights[level])
            multiply_level(row, level, suffix, atoms, main, chunk)
        add_row(sums[chunk], suffix[:width], one)


@njit(**COMPILED)
def decode_level(row: int, level: int, residual: Array, atoms: Array, entries: Entries, rebuilt: Array) -> None:
    """Add the entries of one level of a row to its residual; store the sum of squares."""
    if level < entries.gathered:
        start, stop = entries.bounds[row, level], entries.bounds[row, level + 1]
        add_rows(residual, atoms, entries.latent, entries.code, start, stop)
    else:
        add_row(residual, rebuilt[row], residual.dtype.type(1))
    entries.squares[row, level] = dot(residual, residual)


@njit(**COMPILED)
def multiply_level(row: int, level: int, residual: Array, atoms: Array, entries: Entries, chunk: int) -> None:
    """Store the residual of one level of a row; count the level's gathered codes, and compute their slopes."""
    store_row(residual, entries.residuals[row * entries.squares.shape[1] + level])
    if level < entries.gathered:
        start, stop = entries.bounds[row, level], entries.bounds[row, level + 1]
        multiply_rows(entries.slope, residual, atoms, entries.latent, start, stop)
        for e in range(start, stop):
            entries.counts[chunk, entries.latent[e]] += 1


@njit(**COMPILED)
def fill_codes(entries: Entries, codes: Array, counts: Array, first: int, last: int) -> None:
    """Write the codes of the last level of some rows to a matrix of floats or bfloat16 bits; count them by latent."""
    codes[first:last], counts[:] = 0, 0
    for row in range(first, last):
        for e in range(entries.bounds[row, entries.gathered], entries.bounds[row, entries.gathered + 1]):
            latent, code = entries.latent[e], entries.code[e]
            codes[row, latent] = pack(code, 0.0) if codes.dtype == BITS else code
            counts[latent] += 1


@njit(**COMPILED)
def mask_slopes(codes: Array, slopes: Array) -> None:
    """Set the slopes of latents that are not active to 0."""
    for row in range(codes.shape[0]):
        for j in range(codes.shape[1]):
            slopes[row, j] = slopes[row, j] if codes[row, j] != 0 else slopes.dtype.type(0)


class GradientSums(NamedTuple):
    """Gradients of rows of weights: sums of `weight * table[row]` over the entries of each latent, in order of rows."""

    table: Array
    offsets: Array
    """Position of each latent's first entry, and the end of the last; empty without entries."""
    row: Array
    weight: Array


@njit(**COMPILED)
def order_by_latent(
    entries: Entries, cursor: Array, scale: float, filters: GradientSums, atoms: GradientSums, first: int, last: int
) -> None:
    """Place the gathered entries of one chunk of rows, with scaled codes and slopes, from `cursor[latent]` on."""
    levels, factor = entries.squares.shape[1], entries.code.dtype.type(scale)
    for row in range(first, last):
        for level in range(entries.gathered):
            for e in range(entries.bounds[row, level], entries.bounds[row, level + 1]):
                latent = entries.latent[e]
                place = cursor[latent]
                cursor[latent] = place + 1
                filters.row[place] = row
                filters.weight[place] = entries.slope[e] * factor
                atoms.row[place] = row * levels + level
                atoms.weight[place] = entries.code[e] * factor


class Parameter(NamedTuple):
    """An array of weights with Adam's first and second moments."""

    value: Array
    first: Array
    second: Array


class AdamNumbers(NamedTuple):
    """Numbers of one step: `rate` over the first moment's bias correction, `unbias` 1 over the root of the second's."""

    rate: float
    beta2: float
    unbias: float


@njit(**COMPILED, fastmath={"contract"})
def adam(value: Array, first: Array, second: Array, gradient: Array, numbers: AdamNumbers, keep: float) -> None:
    """Take one step of Adam (Kingma and Ba, arXiv 1412.6980) on a row of weights in place.

    With `keep = 1 - learning rate * weight decay`, the decay is decoupled (Loshchilov and Hutter, arXiv 1711.05101).
    """
    number = value.dtype.type
    rate, unbias, epsilon, kept = number(numbers.rate), number(numbers.unbias), number(EPSILON), number(keep)
    beta1, beta2, rest1, rest2 = number(BETA1), number(numbers.beta2), number(1.0 - BETA1), number(1.0 - numbers.beta2)
    for i in range(value.shape[0]):
        slope = gradient[i]
        mean = beta1 * first[i] + rest1 * slope
        square = beta2 * second[i] + rest2 * slope * slope
        first[i], second[i] = mean, square
        value[i] = kept * value[i] - rate * mean / (np.sqrt(square) * unbias + epsilon)


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
        line[:] = 0
        if products.shape[0]:
            add_row(line, products[latent - first], number(scale))
        for sums in (main, aux):
            if sums.offsets.shape[0]:
                add_rows(line, sums.table, sums.row, sums.weight, sums.offsets[latent], sums.offsets[latent + 1])
        weights = parameter.value[latent]
        if unit_norm:
            add_row(gradient, weights, -dot(gradient, weights))
        adam(weights, parameter.first[latent], parameter.second[latent], gradient, numbers, keep)
        if unit_norm:
            shrink = number(1) / max(np.sqrt(dot(weights, weights)), number(1e-12))
            for i in range(width):
                weights[i] *= shrink
        store_row(weights, copies[latent])
