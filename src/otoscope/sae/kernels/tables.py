"""How rows, atoms and filters lie in memory for the kernels: packed to bfloat16, or plain in the master type."""

import numpy as np
from numba import njit
from numba.extending import register_jitable

from otoscope.sae.kernels.gather import COMPILED, Array, by_table
from otoscope.sae.kernels.lanes import LANES

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


@njit(inline="always")
def _rounded(bits: int) -> int:
    """Add what rounds float32 bits to the nearest bfloat16, ties to even, once the low half is dropped."""
    return bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))


@njit(inline="always")
def _joined(low: int, high: int) -> int:
    return np.uint32(((_rounded(low) >> np.uint32(16)) & np.uint32(0xFFFF)) | (_rounded(high) & np.uint32(0xFFFF0000)))


def _write_packed(table: Array, row: int, values: Array) -> None:
    words = table.shape[1]
    line, low, high = table[row], values[:words].view(np.uint32), values[words:].view(np.uint32)
    for i in range(words):
        line[i] = _joined(low[i], high[i])


def _write_plain(table: Array, row: int, values: Array) -> None:
    for i in range(table.shape[1]):
        table[row, i] = values[i]


@by_table(0, _write_packed, _write_plain)
def write_row(table: Array, row: int, values: Array) -> None:
    """Store `values` `[columns]`, padded to the table's columns, as row `row` of a table."""
    raise NotImplementedError("compiled code only")


def _filter_packed(filters: Array, latent: int, values: Array) -> None:
    words = filters.shape[1]
    low, high = values[:words].view(np.uint32), values[words:].view(np.uint32)
    group, lane = latent // LANES, latent % LANES
    for i in range(words):
        filters[group, i, lane] = _joined(low[i], high[i])


def _filter_plain(filters: Array, latent: int, values: Array) -> None:
    """Do nothing: the plain product reads the encoder itself."""


@by_table(0, _filter_packed, _filter_plain)
def write_filter(filters: Array, latent: int, values: Array) -> None:
    """Store one latent's padded encoder row where the product finds it: word by word beside its 15 neighbours."""
    raise NotImplementedError("compiled code only")


def _two_a_word(table: Array) -> int:
    return 2 * table.shape[1]


def _one_each(table: Array) -> int:
    return table.shape[1]


@by_table(0, _two_a_word, _one_each)
def padded_columns(table: Array) -> int:
    """Return how many columns a table's rows stand for, padding included."""
    raise NotImplementedError("compiled code only")


@njit(**COMPILED)
def write_weights(encoder: Array, decoder: Array, filters: Array, atoms: Array) -> None:
    """Refresh both tables from the master weights."""
    width, columns = encoder.shape[1], padded_columns(atoms)
    line = np.zeros(columns, encoder.dtype)
    for latent in range(encoder.shape[0]):
        line[:width] = encoder[latent]
        write_filter(filters, latent, line)
        line[:width] = decoder[latent]
        write_row(atoms, latent, line)
