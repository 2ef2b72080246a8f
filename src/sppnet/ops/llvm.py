"""What the CPU kernels' vector instructions are built of: LLVM, by llvmlite.

Numba turns scalar loops into vector instructions only when it can prove a lot about them, and in the
short loops of pooling it cannot (eight times slower in a trial of the same algorithm). So `simd` says what
is wanted, on vectors of a fixed length; LLVM cuts them to what the processor has (SSE, AVX2, AVX-512,
NEON).

Arrays are flat and contiguous, offsets count elements, and nothing is checked. Numba's cache of
compiled kernels watches the file of each kernel: after a change here, touch those that use it.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir

SQUARE = 16
"""Numbers of a square turned at once, along one side."""

LINE_BYTES = 64
"""Memory comes in lines of so many bytes."""

# Arguments of numba's code generators: its own, unannotated types.
Context = Any
Builder = Any


def pointer(context: Context, builder: Builder, array_type: Any, array: Any, offset: Any) -> Any:
    """Address of array[offset]."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.gep(data, [offset])


def load(context: Context, builder: Builder, array_type: Any, array: Any, offset: Any, count: int) -> Any:
    """The numbers from array[offset] on."""
    kind = ir.VectorType(context.get_data_type(array_type.dtype), count)
    address = builder.bitcast(pointer(context, builder, array_type, array, offset), kind.as_pointer())
    return builder.load(address, align=array_type.dtype.bitwidth // 8)


def store(context: Context, builder: Builder, value: Any, array_type: Any, array: Any, offset: Any) -> None:
    """array[offset:…] = value"""
    address = pointer(context, builder, array_type, array, offset)
    builder.store(
        value, builder.bitcast(address, value.type.as_pointer()), align=array_type.dtype.bitwidth // 8
    )


def spread(builder: Builder, number: Any, kind: Any) -> Any:
    """One number in all lanes of a vector of `kind`."""
    narrow = builder.trunc(number, kind.element) if kind.element.width < number.type.width else number
    lanes = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(lanes, narrow, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, lanes, lane_order([0] * kind.count))


# --- turning: rows become columns ------------------------------------------------------------------


def lane_order(lanes: list[int]) -> Any:
    """Which lanes of two vectors a shuffle takes, those of the second counted on."""
    return ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes)


def _interleave(builder: Builder, a: Any, b: Any) -> tuple[Any, Any]:
    """Within each four lanes: a0 b0 a1 b1, and a2 b2 a3 b3."""
    fours = range(0, SQUARE, 4)
    low = [lane for four in fours for lane in (four, SQUARE + four, four + 1, SQUARE + four + 1)]
    high = [lane + 2 for lane in low]
    return builder.shuffle_vector(a, b, lane_order(low)), builder.shuffle_vector(a, b, lane_order(high))


def turn_fours(builder: Builder, rows: list[Any]) -> list[Any]:
    """Four vectors → four: lane r of four f of the k-th is lane k of four f of rows[r]."""
    even, odd = _interleave(builder, rows[0], rows[2]), _interleave(builder, rows[1], rows[3])
    return [*_interleave(builder, even[0], odd[0]), *_interleave(builder, even[1], odd[1])]


def _joined(builder: Builder, fours: list[Any]) -> Any:
    """Four vectors of four lanes as one of sixteen."""
    halves = [builder.shuffle_vector(*pair, lane_order(list(range(8)))) for pair in (fours[:2], fours[2:])]
    return builder.shuffle_vector(*halves, lane_order(list(range(16))))


def turn_square(
    context: Context, builder: Builder, source: Any, target: Any, args: Any, changed: Callable[[Any], Any]
) -> None:
    """target[to + step·c + q] = changed(source[start + row·q + c]) for q and c below 16.

    Four lanes of each row at a time, put together so that no lane has to leave its four after that.
    """
    array, start, row, result, to, step = args
    rows = [start]
    for _ in range(SQUARE - 1):
        rows.append(builder.add(rows[-1], row))
    for first in range(0, SQUARE, 4):
        mixed = []
        for r in range(4):
            starts = [builder.add(rows[q], ir.Constant(row.type, first)) for q in range(r, SQUARE, 4)]
            fours = [load(context, builder, source, array, offset, 4) for offset in starts]
            mixed.append(changed(_joined(builder, fours)))
        for turned in turn_fours(builder, mixed):
            store(context, builder, turned, target, result, to)
            to = builder.add(to, step)
