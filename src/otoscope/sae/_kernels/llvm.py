"""LLVM vector operations of the kernels, written explicitly because loops over bfloat16 do not vectorise well.

A packed table holds two bfloat16 numbers per 32-bit word: word i of a row holds column i in the low half and column
`words + i` in the high half. A shift or a mask turns either half into float32, so that sums come out in the natural
order of columns. `words` is a multiple of 16.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic as numba_intrinsic
from numpy.typing import NDArray

LANES = 16
"""Float32 numbers, or words, per vector."""

Array: TypeAlias = NDArray[Any]
"""Array in compiled code."""

COMPILED: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy"}
"""Options of `njit`. Division by zero gives infinity: a check for it would keep loops from vectorising."""

Builder: TypeAlias = Any
Value: TypeAlias = Any


def intrinsic(function: Callable[..., Any]) -> Any:
    """Create an intrinsic; callers omit the context argument of its definition."""
    return numba_intrinsic(function)


class _Bfloat(ir.Type):
    """The `bfloat` type, which llvmlite lacks."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Bfloat)

    def __hash__(self) -> int:
        return hash(_Bfloat)


BYTE, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
F32 = ir.FloatType()
WORDS, FLOATS, MASK = (ir.VectorType(t, LANES) for t in (I32, F32, ir.IntType(1)))
SHORTS32 = ir.VectorType(I16, 2 * LANES)
BFLOATS = ir.VectorType(_Bfloat(), 2 * LANES)


def has_vectors() -> bool:
    """Return whether the CPU has AVX-512, whose 32 registers of 16 lanes the kernels are laid out for."""
    return bool(_features().get("avx512f") and _features().get("avx512bw") and _features().get("avx512vl"))


def has_bfloat_products() -> bool:
    """Return whether the CPU multiplies pairs of bfloat16 in one instruction (AVX-512 BF16)."""
    return bool(has_vectors() and _features().get("avx512bf16"))


def _features() -> dict[str, bool]:
    try:
        return dict(binding.get_host_cpu_features())
    except RuntimeError:  # LLVM does not know the processor
        return {}


def constant(value: float) -> Value:
    """Return a vector of equal float32 constants."""
    return ir.Constant(FLOATS, [value] * LANES)


def at(builder: Builder, pointer: Value, offset: Value | int) -> Value:
    """Return `pointer` advanced by `offset` elements."""
    return builder.gep(pointer, [ir.Constant(I64, offset) if isinstance(offset, int) else offset])


def load(
    builder: Builder,
    pointer: Value,
    offset: Value | int,
    kind: ir.VectorType,
    *,
    align: int = 4,
    mask: Value | None = None,
) -> Value:
    """Load a vector; masked-out lanes are 0 and their memory is not accessed."""
    place = builder.bitcast(at(builder, pointer, offset), kind.as_pointer())
    if mask is None:
        return builder.load(place, align=align)
    empty = ir.Constant(kind, [0] * kind.count)
    return call(builder, "llvm.masked.load.v16f32.p0", kind, [place, ir.Constant(I32, align), mask, empty])


def store(builder: Builder, value: Value, pointer: Value, offset: Value | int, *, mask: Value | None = None) -> None:
    """Store a vector, or its lanes selected by `mask`."""
    place = builder.bitcast(at(builder, pointer, offset), value.type.as_pointer())
    if mask is None:
        builder.store(value, place, align=4)
    else:
        call(builder, "llvm.masked.store.v16f32.p0", ir.VoidType(), [value, place, ir.Constant(I32, 4), mask])


def splat(builder: Builder, value: Value, count: int = LANES) -> Value:
    """Return a vector with `value` in every lane."""
    undefined = ir.Constant(ir.VectorType(value.type, count), ir.Undefined)
    one = builder.insert_element(undefined, value, ir.Constant(I32, 0))
    return builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(I32, count), [0] * count))


def call(builder: Builder, name: str, result: ir.Type, values: Sequence[Value], **options: Any) -> Value:
    """Call an LLVM intrinsic function."""
    kind = ir.FunctionType(result, [v.type for v in values])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), list(values), **options)


def add_lanes(builder: Builder, start: Value, lanes: Value) -> Value:
    """Return `start` plus the sum of a vector, in any order."""
    return call(builder, "llvm.vector.reduce.fadd.v16f32", F32, [start, lanes], fastmath=("reassoc",))


def prefetch(builder: Builder, pointer: Value, offset: Value, *, level: int) -> None:
    """Start loading the cache line of an element into the first (`level` 3) or second cache (`level` 2)."""
    line = builder.bitcast(at(builder, pointer, offset), BYTE.as_pointer())
    read, data = ir.Constant(I32, 0), ir.Constant(I32, 1)
    call(builder, "llvm.prefetch.p0", ir.VoidType(), [line, read, ir.Constant(I32, level), data])


def low_half(builder: Builder, words: Value) -> Value:
    """Widen the bfloat16 in the low half of each word to float32."""
    return builder.bitcast(builder.shl(words, ir.Constant(WORDS, [16] * LANES)), FLOATS)


def high_half(builder: Builder, words: Value) -> Value:
    """Widen the bfloat16 in the high half of each word to float32."""
    return builder.bitcast(builder.and_(words, ir.Constant(WORDS, [0xFFFF0000] * LANES)), FLOATS)


def multiply_add(builder: Builder, a: Value, b: Value, total: Value) -> Value:
    """Add a product to a total, rounding once."""
    return call(builder, "llvm.fma.v16f32", FLOATS, [a, b, total])


def pair_products(builder: Builder, total: Value, a: Value, b: Value) -> Value:
    """Add both products of each pair of words to its lane of `total`."""
    if has_bfloat_products():
        halves = [builder.bitcast(x, BFLOATS) for x in (a, b)]
        return call(builder, "llvm.x86.avx512bf16.dpbf16ps.512", FLOATS, [total, *halves])
    total = multiply_add(builder, low_half(builder, a), low_half(builder, b), total)
    return multiply_add(builder, high_half(builder, a), high_half(builder, b), total)


def loop(builder: Builder, count: Value, carried: Sequence[Value], step: Callable[..., Sequence[Value]]) -> list[Value]:
    """Emit `for i in range(count): carried = step(i, *carried)` and return the last `carried`."""
    before = builder.block
    head, body, after = (builder.append_basic_block(name) for name in ("head", "body", "after"))
    builder.branch(head)
    builder.position_at_end(head)
    index = builder.phi(I64)
    index.add_incoming(ir.Constant(I64, 0), before)
    held = [builder.phi(value.type) for value in carried]
    for slot, value in zip(held, carried, strict=True):
        slot.add_incoming(value, before)
    builder.cbranch(builder.icmp_signed("<", index, count), body, after)
    builder.position_at_end(body)
    new = step(index, *held)
    index.add_incoming(builder.add(index, ir.Constant(I64, 1)), builder.block)
    for slot, value in zip(held, new, strict=True):
        slot.add_incoming(value, builder.block)
    builder.branch(head)
    builder.position_at_end(after)
    return held


def each_vector(
    builder: Builder, count: Value, carried: Sequence[Value], step: Callable[..., Sequence[Value]]
) -> list[Value]:
    """Emit `for place in range(0, count, 16): carried = step(place, mask, *carried)`.

    The mask is None except for the last vector if `count` is not a multiple of 16: there `load` returns zeros beyond
    the end and `store` does not write.
    """
    sixteen = ir.Constant(I64, LANES)
    whole = builder.udiv(count, sixteen)

    def full(i: Value, *held: Value) -> Sequence[Value]:
        return step(builder.mul(i, sixteen), None, *held)

    carried = loop(builder, whole, carried, full)
    place = builder.mul(whole, sixteen)
    rest = builder.sub(count, place)
    some = builder.zext(builder.icmp_signed(">", rest, ir.Constant(I64, 0)), I64)
    lanes = ir.Constant(WORDS, list(range(LANES)))
    mask = builder.icmp_signed("<", lanes, splat(builder, builder.trunc(rest, I32)))

    def part(_: Value, *held: Value) -> Sequence[Value]:
        return step(place, mask, *held)

    return loop(builder, some, carried, part)


@intrinsic
def address(_context: Any, array: Any, _offset: Any) -> Any:
    """Return a pointer to an element of a contiguous array, counted over all axes."""

    def emit(context: Any, builder: Builder, signature: Any, values: Sequence[Value]) -> Value:
        return at(builder, context.make_array(signature.args[0])(context, builder, values[0]).data, values[1])

    return types.CPointer(array.dtype)(array, types.int64), emit
