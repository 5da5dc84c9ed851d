"""From active entries to new weights: the half of a step that runs latent by latent.

Each latent's rows are visited in ascending order, so sums do not depend on the division of latents between threads.
"""

import numpy as np
from numba import njit

from otoscope.sae._kernels.adam import step_latents
from otoscope.sae._kernels.buffers import Entries, Parameter, Tables, Workspace
from otoscope.sae._kernels.gather import add_listed
from otoscope.sae._kernels.llvm import COMPILED, Array

BATCH = 32
"""Latents whose gradients are summed together, one block of columns at a time: that block of all rows is then read from
the second cache for all but the first of these latents."""


@njit(**COMPILED)
def add_gradients(
    gradients: Array, entries: Entries, inputs: Array, offsets: Array, bias_gradient: Array, first: int, last: int
) -> None:
    """Add the gradients of latents: `codes * residuals` for atoms, `slopes * inputs` for filters, slopes for biases."""
    columns = gradients.shape[2]
    add_listed(gradients, 0, 2 * columns, entries.residuals, entries.rows_of, entries.code_of, offsets, first, last)
    add_listed(gradients, columns, 2 * columns, inputs, entries.rows_of, entries.slope_of, offsets, first, last)
    for latent in range(first, last):
        for i in range(offsets[latent], offsets[latent + 1]):
            bias_gradient[latent] += entries.slope_of[i]


@njit(**COMPILED)
def update_latents(
    encoder: Parameter,
    decoder: Parameter,
    tables: Tables,
    work: Workspace,
    offsets: Array,
    aux_offsets: Array,
    bias_gradient: Array,
    numbers: Array,
    unit_norm: bool,
    first: int,
    last: int,
) -> None:
    """Sum the gradients of latents `first` to `last`, step their weights, and refresh their rows of tables.

    `aux_offsets` is empty without AuxK.
    """
    gradients = np.empty((BATCH, 2, 2 * work.inputs.shape[1]), np.float32)
    bias_gradient[first:last] = 0
    for start in range(first, last, BATCH):
        stop = min(start + BATCH, last)
        gradients[:] = 0
        add_gradients(gradients, work.main, work.inputs, offsets, bias_gradient, start, stop)
        if aux_offsets.shape[0]:
            add_gradients(gradients, work.aux, work.inputs, aux_offsets, bias_gradient, start, stop)
        step_latents(encoder, decoder, tables, gradients, numbers, unit_norm, start, stop)


@njit(**COMPILED)
def order_by_latent(entries: Entries, scale: np.float32, offsets: Array, first: int, last: int) -> None:
    """List the rows, scaled codes and scaled slopes of the entries of latents `first` to `last`, latent by latent."""
    cursor = offsets[first:last].copy()
    for row in range(entries.latent.shape[0]):
        line = entries.latent[row]
        low, high = 0, entries.active[row]
        while low < high:
            middle = (low + high) >> 1
            if line[middle] < first:
                low = middle + 1
            else:
                high = middle
        i, end = low, entries.active[row]
        while i < end and line[i] < last:
            place = cursor[line[i] - first]
            entries.rows_of[place] = row
            entries.code_of[place] = entries.code[row, i] * scale
            entries.slope_of[place] = entries.slope[row, i] * scale
            cursor[line[i] - first] = place + 1
            i += 1
