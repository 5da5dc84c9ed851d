"""From active entries to new weights: the half of a step that runs latent by latent.

Each latent's rows are visited in ascending order, so sums do not depend on how latents are shared out.

The active entries of a batch, listed latent by latent.
"""

import numpy as np
from numba import njit

from otoscope.sae._kernels.adam import step_latents
from otoscope.sae._kernels.gather import COMPILED, Array, add_listed
from otoscope.sae._kernels.tables import padded_columns

BATCH = 32
"""Latents whose gradients are summed together, a block of columns at a time: that block of all rows is then read from
the second cache, and again for each of these latents."""


@njit(**COMPILED)
def add_gradients(
    gradients: Array,
    residuals: Array,
    inputs: Array,
    offsets: Array,
    rows_of: Array,
    code_of: Array,
    slope_of: Array,
    bias_gradient: Array,
    first: int,
    last: int,
) -> None:
    """Add what rows with these latents active pull them to: `codes * residuals` for atoms, `slopes * inputs` else."""
    columns = gradients.shape[2]
    add_listed(gradients, 0, 2 * columns, residuals, rows_of, code_of, offsets, first, last)
    add_listed(gradients, columns, 2 * columns, inputs, rows_of, slope_of, offsets, first, last)
    for latent in range(first, last):
        for i in range(offsets[latent], offsets[latent + 1]):
            bias_gradient[latent] += slope_of[i]


@njit(**COMPILED)
def update_latents(
    encoder: Array,
    encoder_first: Array,
    encoder_second: Array,
    decoder: Array,
    decoder_first: Array,
    decoder_second: Array,
    filters: Array,
    atoms: Array,
    inputs: Array,
    residuals: Array,
    offsets: Array,
    rows_of: Array,
    code_of: Array,
    slope_of: Array,
    aux_residuals: Array,
    aux_offsets: Array,
    aux_rows_of: Array,
    aux_code_of: Array,
    aux_slope_of: Array,
    bias_gradient: Array,
    numbers: Array,
    unit_norm: bool,
    first: int,
    last: int,
) -> None:
    """Sum the gradients of latents `first` to `last`, step their weights, and refresh their table rows."""
    gradients = np.empty((BATCH, 2, padded_columns(inputs)), encoder.dtype)
    flat = gradients.ravel()
    bias_gradient[first:last] = 0
    for start in range(first, last, BATCH):
        stop = min(start + BATCH, last)
        for i in range(flat.shape[0]):
            flat[i] = 0
        add_gradients(gradients, residuals, inputs, offsets, rows_of, code_of, slope_of, bias_gradient, start, stop)
        if aux_offsets.shape[0]:
            add_gradients(
                gradients,
                aux_residuals,
                inputs,
                aux_offsets,
                aux_rows_of,
                aux_code_of,
                aux_slope_of,
                bias_gradient,
                start,
                stop,
            )
        step_latents(
            encoder,
            encoder_first,
            encoder_second,
            decoder,
            decoder_first,
            decoder_second,
            filters,
            atoms,
            gradients,
            numbers,
            unit_norm,
            start,
            stop,
        )


@njit(**COMPILED)
def order_by_latent(
    index: Array,
    code: Array,
    slope: Array,
    active: Array,
    scale: float,
    offsets: Array,
    rows_of: Array,
    code_of: Array,
    slope_of: Array,
    first: int,
    last: int,
) -> None:
    """Transpose the active entries of latents `first` to `last`: rows, codes and slopes side by side by latent."""
    cursor = offsets[first:last].copy()
    for row in range(index.shape[0]):
        line = index[row]
        low, high = 0, active[row]
        while low < high:
            middle = (low + high) >> 1
            if line[middle] < first:
                low = middle + 1
            else:
                high = middle
        i, end = low, active[row]
        while i < end and line[i] < last:
            place = cursor[line[i] - first]
            rows_of[place] = row
            code_of[place] = code[row, i] * scale
            slope_of[place] = slope[row, i] * scale
            cursor[line[i] - first] = place + 1
            i += 1
