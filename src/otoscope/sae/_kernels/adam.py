"""From gradients to new weights: one Adam step, the length of atoms, and the tables that the products read.

Adam on one row of weights, as wide as the machine allows, while the next numbers are on their way from memory.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types

from otoscope.sae._kernels.gather import COMPILED, Array, by_table
from otoscope.sae._kernels.llvm import (
    F32,
    FLOATS,
    LANES,
    Builder,
    Value,
    address,
    at,
    call,
    each_vector,
    fetch_line,
    intrinsic,
    load,
    multiply_add,
    splat,
    store,
)
from otoscope.sae._kernels.tables import staging, write_group, write_weights_row

RATE, BETA1, REST1, BETA2, REST2, UNBIAS, EPSILON, DECAY = range(8)
"""Places in the array of Adam's numbers for one step: learning rate over the first moment's bias correction, both
betas and what they leave, one over the root of the second moment's correction, epsilon, `1 - rate * weight decay`."""


def _constant(value: float) -> Value:
    return ir.Constant(FLOATS, [value] * LANES)


def _sum(builder: Builder, lanes: Value) -> Value:
    start = ir.Constant(F32, 0.0)
    return call(builder, "llvm.vector.reduce.fadd.v16f32", F32, [start, lanes], fastmath=("reassoc",))


@intrinsic
def adam_row(
    _c: Any, weight: Any, first: Any, second: Any, slope: Any, _along: Any, numbers: Any, _decay: Any, _count: Any
) -> Any:
    """Step `count` weights down `slope + along * weight`; return the sum of their squares afterwards.

    (Kingma and Ba, arXiv 1412.6980; decay as in arXiv 1711.05101.) What lies `count` numbers on is fetched.
    """

    def emit(_context: Any, builder: Builder, _signature: Any, values: Sequence[Value]) -> Value:
        weight, first, second, slope, along, numbers, decay, count = values

        def number(place: int) -> Value:
            return splat(builder, builder.load(at(builder, numbers, place)))

        rate, beta1, rest1, beta2 = number(RATE), number(BETA1), number(REST1), number(BETA2)
        rest2, unbias, epsilon = number(REST2), number(UNBIAS), number(EPSILON)
        kept, factor, down = splat(builder, decay), splat(builder, along), builder.fneg(rate)

        def step(place: Value, mask: Value | None, total: Value) -> list[Value]:
            for array in (weight, first, second):
                fetch_line(builder, array, builder.add(place, count))
            old, mean, square, down_to = (
                load(builder, array, place, FLOATS, mask=mask) for array in (weight, first, second, slope)
            )
            gradient = multiply_add(builder, factor, old, down_to)
            mean = multiply_add(builder, beta1, mean, builder.fmul(rest1, gradient))
            square = multiply_add(builder, beta2, square, builder.fmul(builder.fmul(rest2, gradient), gradient))
            root = call(builder, "llvm.sqrt.v16f32", FLOATS, [square])
            below = multiply_add(builder, root, unbias, epsilon)
            new = multiply_add(builder, old, kept, builder.fdiv(builder.fmul(down, mean), below))
            for value, array in ((new, weight), (mean, first), (square, second)):
                store(builder, value, array, place, mask=mask)
            squares = builder.fmul(new, new)
            if mask is not None:
                squares = builder.select(mask, squares, _constant(0.0))
            return [builder.fadd(squares, total)]

        return _sum(builder, each_vector(builder, count, [_constant(0.0)], step)[0])

    pointers = weight, first, second, slope
    return types.float32(*pointers, types.float32, numbers, types.float32, types.int64), emit


@intrinsic
def dot_row(_c: Any, a: Any, b: Any, _count: Any) -> Any:
    """Return the inner product of `count` numbers."""

    def emit(_context: Any, builder: Builder, _signature: Any, values: Sequence[Value]) -> Value:
        a, b, count = values

        def step(place: Value, mask: Value | None, even: Value, odd: Value) -> list[Value]:
            one, other = (load(builder, array, place, FLOATS, mask=mask) for array in (a, b))
            return [odd, multiply_add(builder, one, other, even)]

        even, odd = each_vector(builder, count, [_constant(0.0)] * 2, step)
        return _sum(builder, builder.fadd(even, odd))

    return types.float32(a, b, types.int64), emit


@intrinsic
def scale_row(_c: Any, values: Any, _factor: Any, _count: Any) -> Any:
    """Multiply `count` numbers by a factor."""

    def emit(context: Any, builder: Builder, _signature: Any, arguments: Sequence[Value]) -> Value:
        values, factor, count = arguments
        factor = splat(builder, factor)

        def step(place: Value, mask: Value | None) -> list[Value]:
            old = load(builder, values, place, FLOATS, mask=mask)
            store(builder, builder.fmul(old, factor), values, place, mask=mask)
            return []

        each_vector(builder, count, [], step)
        return context.get_dummy_value()

    return types.void(values, types.float32, types.int64), emit


@intrinsic
def clear_row(_c: Any, values: Any, _count: Any) -> Any:
    """Set `count` numbers to 0."""

    def emit(context: Any, builder: Builder, _signature: Any, arguments: Sequence[Value]) -> Value:
        values, count = arguments

        def step(place: Value, mask: Value | None) -> list[Value]:
            store(builder, _constant(0.0), values, place, mask=mask)
            return []

        each_vector(builder, count, [], step)
        return context.get_dummy_value()

    return types.void(values, types.int64), emit


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
