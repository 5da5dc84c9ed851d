"""How rows, atoms and filters lie in memory for the kernels: packed to bfloat16, or plain in the master type."""

import numpy as np
from numba import njit
from numba.extending import register_jitable

from otoscope.sae.kernels.gather import COMPILED, Array, by_table
from otoscope.sae.kernels.lanes import LANES, address
from otoscope.sae.kernels.packing import pack_words, transpose_square

GROUP = 2 * LANES
"""Latents are multiplied in groups of 32; a filter table is padded with zeros to whole groups."""


def words_for(width: int) -> int:
    """Return how many words hold a row: two columns each, in whole vectors.

    >>> [words_for(w) for w in (1, 32, 33, 768)]
    [16, 16, 32, 384]
    """
    return -(-width // (2 * LANES)) * LANES


@register_jitable
def padded(latents: int) -> int:
    """Return the number of latents rounded up to whole groups.

    >>> [padded(n) for n in (1, 32, 2048)]
    [32, 32, 2048]
    """
    return -(-latents // GROUP) * GROUP


def _write_packed(table: Array, row: int, values: Array, start: int) -> None:
    words = table.shape[1]
    pack_words(address(table, row * words), address(values, start), address(values, start + words), words // LANES)


def _write_plain(table: Array, row: int, values: Array, start: int) -> None:
    flat = values.ravel()
    for i in range(table.shape[1]):
        table[row, i] = flat[start + i]


@by_table(0, _write_packed, _write_plain)
def write_row(table: Array, row: int, values: Array, start: int) -> None:
    """Store as row `row` of a table as many values, counted over all axes from `start`, as it has columns."""
    raise NotImplementedError("compiled code only")


def _group_packed(filters: Array, group: int, staged: Array) -> None:
    words = filters.shape[1]
    for word in range(0, words, LANES):
        transpose_square(address(filters, (group * words + word) * LANES), address(staged, word), words)


def _group_plain(filters: Array, group: int, staged: Array) -> None:
    """Do nothing: the plain product reads the encoder itself."""


@by_table(0, _group_packed, _group_plain)
def write_group(filters: Array, group: int, staged: Array) -> None:
    """Store the encoder rows of 16 latents `[16, words]` where the product finds them: word by word side by side."""
    raise NotImplementedError("compiled code only")


@register_jitable
def staging(filters: Array) -> Array:
    """Make room for the packed encoder rows of 16 latents."""
    return np.zeros((LANES, filters.shape[1]), filters.dtype)


def _two_a_word(table: Array) -> int:
    return 2 * table.shape[1]


def _one_each(table: Array) -> int:
    return table.shape[1]


@by_table(0, _two_a_word, _one_each)
def padded_columns(table: Array) -> int:
    """Return how many columns a table's rows stand for, padding included."""
    raise NotImplementedError("compiled code only")


@register_jitable
def write_weights_row(table: Array, row: int, weights: Array, latent: int, line: Array) -> None:
    """Store one latent's weights as row `row` of a table; `line` `[columns]`, zero past the width, pads them."""
    width = weights.shape[1]
    if width == line.shape[0]:
        write_row(table, row, weights, latent * width)
    else:
        for i in range(width):
            line[i] = weights[latent, i]
        write_row(table, row, line, 0)


@njit(**COMPILED)
def write_weights(encoder: Array, decoder: Array, filters: Array, atoms: Array) -> None:
    """Refresh both tables from the master weights."""
    line = np.zeros(padded_columns(atoms), encoder.dtype)
    latents, staged = encoder.shape[0], staging(filters)
    for latent in range(latents):
        write_weights_row(atoms, latent, decoder, latent, line)
        write_weights_row(staged, latent % LANES, encoder, latent, line)
        if latent % LANES == LANES - 1 or latent == latents - 1:
            write_group(filters, latent // LANES, staged)
            staged[:] = 0
