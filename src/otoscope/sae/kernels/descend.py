"""From gradients to new weights: one Adam step, the length of atoms, and the tables that the products read."""

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
from otoscope.sae.kernels.gather import COMPILED, Array, by_table
from otoscope.sae.kernels.lanes import LANES, address
from otoscope.sae.kernels.tables import staging, write_group, write_weights_row


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
