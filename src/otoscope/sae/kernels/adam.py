"""Adam on one row of weights, as wide as the machine allows, while the next numbers are on their way from memory."""

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types

from otoscope.sae.kernels.lanes import (
    F32,
    FLOATS,
    LANES,
    Builder,
    Value,
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
