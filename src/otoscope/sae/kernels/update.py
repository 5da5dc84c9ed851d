"""From active entries to new weights: the half of a step that runs latent by latent.

Each latent's rows are visited in ascending order, so sums do not depend on how latents are shared out.
"""

import numpy as np
from numba import njit

from otoscope.sae.kernels.adam import (
    BETA1,
    BETA2,
    DECAY,
    EPSILON,
    RATE,
    REST1,
    REST2,
    UNBIAS,
    adam_row,
    dot_row,
    scale_row,
)
from otoscope.sae.kernels.gather import COMPILED, Array, add_listed, by_table
from otoscope.sae.kernels.lanes import LANES, address
from otoscope.sae.kernels.tables import padded_columns, staging, write_group, write_weights_row

BATCH = 32
"""Latents whose gradients are summed together, a block of columns at a time: that block of all rows is then read from
the second cache, and again for each of these latents."""


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


@njit(**COMPILED, fastmath={"contract"})
def adam(
    weight: Array, first: Array, second: Array, gradient: Array, along: float, numbers: Array, decay: float
) -> float:
    """Take one Adam step in place on flat arrays (Kingma and Ba, arXiv 1412.6980; decay as in arXiv 1711.05101).

    The slope is `gradient + along * weight`; return the sum of squares of the new weights.
    """
    rate, beta1, rest1, beta2 = numbers[RATE], numbers[BETA1], numbers[REST1], numbers[BETA2]
    rest2, unbias, epsilon = numbers[REST2], numbers[UNBIAS], numbers[EPSILON]
    total = weight.dtype.type(0)
    for i in range(weight.shape[0]):
        slope = gradient[i] + along * weight[i]
        mean = beta1 * first[i] + rest1 * slope
        square = beta2 * second[i] + rest2 * slope * slope
        first[i], second[i] = mean, square
        weight[i] = weight[i] * decay - rate * mean / (np.sqrt(square) * unbias + epsilon)
        total += weight[i] * weight[i]
    return total


def _step_packed(
    encoder: Array,
    encoder_first: Array,
    encoder_second: Array,
    decoder: Array,
    decoder_first: Array,
    decoder_second: Array,
    filters: Array,
    atoms: Array,
    gradients: Array,
    numbers: Array,
    unit_norm: bool,
    first: int,
    last: int,
) -> None:
    width, columns = encoder.shape[1], gradients.shape[2]
    line, staged, rest = np.zeros(columns, encoder.dtype), staging(filters), address(numbers, 0)
    nothing, none, shortest = np.float32(0), np.float32(1), np.float32(1e-12)
    for latent in range(first, last):
        start, slot = latent * width, (latent - first) * 2 * columns
        adam_row(
            address(encoder, start),
            address(encoder_first, start),
            address(encoder_second, start),
            address(gradients, slot + columns),
            nothing,
            rest,
            numbers[DECAY],
            width,
        )
        write_weights_row(staged, latent % LANES, encoder, latent, line)
        if latent % LANES == LANES - 1 or latent == last - 1:
            write_group(filters, latent // LANES, staged)
            staged[:] = 0
        atom, slope = address(decoder, start), address(gradients, slot)
        along = -dot_row(atom, slope, width) if unit_norm else nothing
        moments = address(decoder_first, start), address(decoder_second, start)
        squares = adam_row(atom, moments[0], moments[1], slope, along, rest, none, width)
        if unit_norm:
            scale_row(atom, none / max(np.sqrt(squares), shortest), width)
        write_weights_row(atoms, latent, decoder, latent, line)


def _step_plain(
    encoder: Array,
    encoder_first: Array,
    encoder_second: Array,
    decoder: Array,
    decoder_first: Array,
    decoder_second: Array,
    filters: Array,  # noqa: ARG001
    atoms: Array,  # noqa: ARG001
    gradients: Array,
    numbers: Array,
    unit_norm: bool,
    first: int,
    last: int,
) -> None:
    # filters and atoms are the weights themselves here
    nothing, none = encoder.dtype.type(0), encoder.dtype.type(1)
    for latent in range(first, last):
        to_atom, to_filter = gradients[latent - first, 0], gradients[latent - first, 1]
        moments = encoder_first[latent], encoder_second[latent]
        adam(encoder[latent], moments[0], moments[1], to_filter, nothing, numbers, numbers[DECAY])
        atom, along = decoder[latent], nothing
        if unit_norm:
            for i in range(atom.shape[0]):
                along -= atom[i] * to_atom[i]
        squares = adam(atom, decoder_first[latent], decoder_second[latent], to_atom, along, numbers, none)
        if unit_norm:
            atom /= max(np.sqrt(squares), encoder.dtype.type(1e-12))


@by_table(6, _step_packed, _step_plain)
def step_latents(
    encoder: Array,
    encoder_first: Array,
    encoder_second: Array,
    decoder: Array,
    decoder_first: Array,
    decoder_second: Array,
    filters: Array,
    atoms: Array,
    gradients: Array,
    numbers: Array,
    unit_norm: bool,
    first: int,
    last: int,
) -> None:
    """Step the weights of latents `first` to `last` down `gradients` `[latents, 2, columns]` (atom, filter).

    With `unit_norm` the gradient loses its part along the atom, and the atom is put back to length 1. Table rows are
    refreshed; where `first` is a multiple of 16 and `last` too, or the last of all, filters are written whole.
    """
    raise NotImplementedError("compiled code only")


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
