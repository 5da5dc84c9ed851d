"""The dense product of a few rows with 32 filters, all sums in registers."""

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types

from otoscope.sae.kernels.lanes import (
    FLOATS,
    I64,
    LANES,
    WORDS,
    Builder,
    Value,
    at,
    intrinsic,
    load,
    loop,
    pair_products,
    splat,
    store,
)


def product_tile(rows: int) -> Any:
    """Make `f(out, out_stride, x, x_stride, filters, words)`: inner products of `rows` rows with 32 filters.

    `filters` points at two groups of 16, each stored `[words, 16]`: one word of 16 filters side by side.
    """

    @intrinsic
    def kernel(_c: Any, out: Any, _out_stride: Any, x: Any, _x_stride: Any, filters: Any, _words: Any) -> Any:
        def emit(context: Any, builder: Builder, _signature: Any, values: Sequence[Value]) -> Value:
            out, out_stride, x, x_stride, filters, words = values
            offsets = [builder.mul(x_stride, ir.Constant(I64, r)) for r in range(rows)]
            starts = [at(builder, x, offset) for offset in offsets]
            second = at(builder, filters, builder.mul(words, ir.Constant(I64, LANES)))

            def step(i: Value, *sums: Value) -> list[Value]:
                lane = builder.mul(i, ir.Constant(I64, LANES))
                columns = [load(builder, group, lane, WORDS) for group in (filters, second)]
                pairs = [splat(builder, builder.load(at(builder, start, i))) for start in starts]
                return [
                    pair_products(builder, sums[2 * r + c], pairs[r], columns[c]) for r in range(rows) for c in range(2)
                ]

            sums = loop(builder, words, [ir.Constant(FLOATS, [0.0] * LANES)] * (2 * rows), step)
            for r in range(rows):
                line = at(builder, out, builder.mul(out_stride, ir.Constant(I64, r)))
                for c in range(2):
                    store(builder, sums[2 * r + c], line, LANES * c)
            return context.get_dummy_value()

        return types.void(out, types.int64, x, types.int64, filters, types.int64), emit

    return kernel
