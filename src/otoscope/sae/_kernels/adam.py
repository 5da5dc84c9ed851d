"""Adam on the weights of each latent, unit length of atoms, and the packed tables of the new weights."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types

from otoscope.sae._kernels.buffers import Parameter, Tables
from otoscope.sae._kernels.llvm import (
    COMPILED,
    F32,
    FLOATS,
    LANES,
    Array,
    Builder,
    Value,
    add_lanes,
    address,
    at,
    call,
    constant,
    each_vector,
    intrinsic,
    load,
    multiply_add,
    prefetch,
    splat,
    store,
)
from otoscope.sae._kernels.tables import write_group, write_weights_row

RATE, BETA1, REST1, BETA2, REST2, UNBIAS, EPSILON, DECAY = range(8)
"""Positions in the array of Adam's numbers for one step: learning rate over the bias correction of the first moment,
both betas and 1 minus each, 1 over the root of the second moment's correction, epsilon, `1 - rate * weight decay`."""


@intrinsic
def adam_row(
    _c: Any, weight: Any, first: Any, second: Any, slope: Any, _along: Any, numbers: Any, _decay: Any, _count: Any
) -> Any:
    """Take one Adam step with the gradient `slope + along * weight`; return the sum of squares of the new weights.

    (Kingma and Ba, arXiv 1412.6980; decay as in arXiv 1711.05101.) The numbers after these `count` are prefetched.
    """

    def emit(_context: Any, builder: Builder, _signature: Any, values: Sequence[Value]) -> Value:
        weight, first, second, slope, along, numbers, decay, count = values

        def number(position: int) -> Value:
            return splat(builder, builder.load(at(builder, numbers, position)))

        rate, beta1, rest1, beta2 = number(RATE), number(BETA1), number(REST1), number(BETA2)
        rest2, unbias, epsilon = number(REST2), number(UNBIAS), number(EPSILON)
        kept, factor, minus_rate = splat(builder, decay), splat(builder, along), builder.fneg(rate)

        def step(place: Value, mask: Value | None, total: Value) -> list[Value]:
            for array in (weight, first, second):
                prefetch(builder, array, builder.add(place, count), level=2)
            old, mean, square, own_slope = (
                load(builder, array, place, FLOATS, mask=mask) for array in (weight, first, second, slope)
            )
            gradient = multiply_add(builder, factor, old, own_slope)
            mean = multiply_add(builder, beta1, mean, builder.fmul(rest1, gradient))
            square = multiply_add(builder, beta2, square, builder.fmul(builder.fmul(rest2, gradient), gradient))
            root = call(builder, "llvm.sqrt.v16f32", FLOATS, [square])
            divisor = multiply_add(builder, root, unbias, epsilon)
            new = multiply_add(builder, old, kept, builder.fdiv(builder.fmul(minus_rate, mean), divisor))
            for value, array in ((new, weight), (mean, first), (square, second)):
                store(builder, value, array, place, mask=mask)
            squares = builder.fmul(new, new)
            if mask is not None:
                squares = builder.select(mask, squares, constant(0.0))
            return [builder.fadd(squares, total)]

        (squares,) = each_vector(builder, count, [constant(0.0)], step)
        return add_lanes(builder, ir.Constant(F32, 0.0), squares)

    pointers = weight, first, second, slope
    return types.float32(*pointers, types.float32, numbers, types.float32, types.int64), emit


@intrinsic
def dot_row(_c: Any, a: Any, b: Any, _count: Any) -> Any:
    """Return the inner product of `count` numbers."""

    def emit(_context: Any, builder: Builder, _signature: Any, values: Sequence[Value]) -> Value:
        a, b, count = values

        def step(place: Value, mask: Value | None, even: Value, odd: Value) -> list[Value]:
            left, right = (load(builder, array, place, FLOATS, mask=mask) for array in (a, b))
            return [odd, multiply_add(builder, left, right, even)]

        even, odd = each_vector(builder, count, [constant(0.0)] * 2, step)
        return add_lanes(builder, ir.Constant(F32, 0.0), builder.fadd(even, odd))

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


@njit(**COMPILED, fastmath={"contract"})
def adam(parameter: Parameter, gradient: Array, numbers: Array) -> None:
    """Take one Adam step in place on a flat array, without decay."""
    weight, first, second = parameter
    rate, beta1, rest1, beta2 = numbers[RATE], numbers[BETA1], numbers[REST1], numbers[BETA2]
    rest2, unbias, epsilon = numbers[REST2], numbers[UNBIAS], numbers[EPSILON]
    for i in range(weight.shape[0]):
        mean = beta1 * first[i] + rest1 * gradient[i]
        square = beta2 * second[i] + rest2 * gradient[i] * gradient[i]
        first[i], second[i] = mean, square
        weight[i] = weight[i] - rate * mean / (np.sqrt(square) * unbias + epsilon)


@njit(**COMPILED)
def step_latents(
    encoder: Parameter,
    decoder: Parameter,
    tables: Tables,
    gradients: Array,
    numbers: Array,
    unit_norm: bool,
    first: int,
    last: int,
) -> None:
    """Step the weights of latents `first` to `last` along `gradients` `[latents, 2, columns]` (atom, filter).

    With `unit_norm` the gradient's component along the atom is removed, and the atom is scaled to length 1. Rows of
    tables are refreshed; `first` must be a multiple of 16, and `last` too unless it is the last of all.
    """
    width, columns = encoder.value.shape[1], gradients.shape[2]
    line, staged = np.zeros(columns, np.float32), np.zeros((LANES, columns // 2), np.uint32)
    adam_numbers = address(numbers, 0)
    zero, one, shortest = np.float32(0), np.float32(1), np.float32(1e-12)
    for latent in range(first, last):
        start, slot = latent * width, (latent - first) * 2 * columns
        adam_row(
            address(encoder.value, start),
            address(encoder.first, start),
            address(encoder.second, start),
            address(gradients, slot + columns),
            zero,
            adam_numbers,
            numbers[DECAY],
            width,
        )
        write_weights_row(staged, latent % LANES, encoder.value, latent, line)
        if latent % LANES == LANES - 1 or latent == last - 1:
            write_group(tables.filters, latent // LANES, staged)
            staged[:] = 0
        atom, slope = address(decoder.value, start), address(gradients, slot)
        along = -dot_row(atom, slope, width) if unit_norm else zero
        moments = address(decoder.first, start), address(decoder.second, start)
        squares = adam_row(atom, moments[0], moments[1], slope, along, adam_numbers, one, width)
        if unit_norm:
            scale_row(atom, one / max(np.sqrt(squares), shortest), width)
        write_weights_row(tables.atoms, latent, decoder.value, latent, line)
