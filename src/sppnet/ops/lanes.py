"""Sixty-four channels at a time: the few vector operations of the CPU kernels, written as LLVM.

Numba turns scalar loops into vector instructions only when it can prove a lot about them, and in
the short loops of pooling it cannot (eight times slower in a trial of the same algorithm). So these
functions say what is wanted: take 64 neighbouring numbers, keep the larger ones, turn a square of
16×16. LLVM cuts the vectors to what the processor has (SSE, AVX2, AVX-512, NEON).

Arrays are flat and contiguous, offsets count elements, and nothing is checked. Numba's cache of
compiled kernels watches the file of each kernel: after a change here, touch those that use it.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

LANES = 64
"""Channels of a block. 2,000 windows of a 42×56×256 map, in one slow hour: 16 took 30 ms, 32 23, 64 18."""

SQUARE = 16
"""Numbers of a square turned at once, along one side."""

LINE_BYTES = 64
"""Memory comes in lines of so many bytes."""

# Arguments of numba's code generators: its own, unannotated types.
Context = Any
Builder = Any


def _pointer(context: Context, builder: Builder, array_type: Any, array: Any, offset: Any) -> Any:
    """Address of array[offset]."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.gep(data, [offset])


def _load(
    context: Context, builder: Builder, array_type: Any, array: Any, offset: Any, count: int = LANES
) -> Any:
    """The numbers from array[offset] on."""
    kind = ir.VectorType(context.get_data_type(array_type.dtype), count)
    address = builder.bitcast(_pointer(context, builder, array_type, array, offset), kind.as_pointer())
    return builder.load(address, align=array_type.dtype.bitwidth // 8)


def _store(context: Context, builder: Builder, value: Any, array_type: Any, array: Any, offset: Any) -> None:
    """array[offset:…] = value"""
    address = _pointer(context, builder, array_type, array, offset)
    builder.store(
        value, builder.bitcast(address, value.type.as_pointer()), align=array_type.dtype.bitwidth // 8
    )


def _larger(builder: Builder, a: Any, b: Any) -> Any:
    return builder.select(builder.icmp_signed(">", a, b), a, b)


@intrinsic
def copy_lanes(typingctx: Any, source: Any, start: Any, target: Any, to: Any) -> Any:
    """target[to:to+64] = source[start:start+64]"""

    def generate(context: Context, builder: Builder, signature: Any, args: Any) -> Any:
        value = _load(context, builder, source, args[0], args[1])
        _store(context, builder, value, target, args[2], args[3])
        return context.get_dummy_value()

    return types.void(source, types.intp, target, types.intp), generate


@intrinsic
def larger_of_four(typingctx: Any, source: Any, a: Any, b: Any, c: Any, d: Any, target: Any, to: Any) -> Any:
    """target[to:to+64] = the largest of four rows of source, signed integers"""

    def generate(context: Context, builder: Builder, signature: Any, args: Any) -> Any:
        rows = [_load(context, builder, source, args[0], offset) for offset in args[1:5]]
        value = _larger(builder, _larger(builder, rows[0], rows[1]), _larger(builder, rows[2], rows[3]))
        _store(context, builder, value, target, args[5], args[6])
        return context.get_dummy_value()

    return types.void(source, *[types.intp] * 4, target, types.intp), generate


@intrinsic
def absorb_four(typingctx: Any, source: Any, a: Any, b: Any, c: Any, d: Any, target: Any, to: Any) -> Any:
    """As larger_of_four, and of what target[to:to+64] was."""

    def generate(context: Context, builder: Builder, signature: Any, args: Any) -> Any:
        rows = [_load(context, builder, source, args[0], offset) for offset in args[1:5]]
        old = _load(context, builder, target, args[5], args[6])
        value = _larger(builder, _larger(builder, rows[0], rows[1]), _larger(builder, rows[2], rows[3]))
        _store(context, builder, _larger(builder, value, old), target, args[5], args[6])
        return context.get_dummy_value()

    return types.void(source, *[types.intp] * 4, target, types.intp), generate


@intrinsic
def absorb(typingctx: Any, source: Any, start: Any, target: Any, to: Any) -> Any:
    """target[to:to+64] = max(target[to:to+64], source[start:start+64]), signed integers"""

    def generate(context: Context, builder: Builder, signature: Any, args: Any) -> Any:
        old = _load(context, builder, target, args[2], args[3])
        new = _load(context, builder, source, args[0], args[1])
        _store(context, builder, _larger(builder, new, old), target, args[2], args[3])
        return context.get_dummy_value()

    return types.void(source, types.intp, target, types.intp), generate


# --- floats as integers of the same order ---------------------------------------------------------


def _same(builder: Builder, value: Any, number: int) -> Any:
    """A constant in every lane, like those of `value`."""
    return ir.Constant(value.type, [number] * value.type.count)


def _ordered(builder: Builder, value: Any) -> Any:
    """Swaps between a float's bits and an integer of the same order; its own inverse.

    Negative floats order backwards as integers: flip all their bits but the sign.
    """
    bits = value.type.element.width
    sign = builder.ashr(value, _same(builder, value, bits - 1))
    return builder.xor(value, builder.and_(sign, _same(builder, value, (1 << (bits - 1)) - 1)))


def _ranked(builder: Builder, value: Any, infinity: Any) -> Any:
    """As `_ordered`, with −0 as 0, and NaN, what exceeds infinity sign aside, as the largest integer."""
    largest = _same(builder, value, (1 << (value.type.element.width - 1)) - 1)
    size = builder.and_(value, largest)
    is_nan = builder.icmp_signed(">", size, _spread(builder, infinity, value.type))
    is_zero = builder.icmp_signed("==", size, _same(builder, value, 0))
    number = builder.select(is_zero, size, _ordered(builder, value))
    return builder.select(is_nan, largest, number)


def _spread(builder: Builder, number: Any, kind: Any) -> Any:
    """One number in all lanes of a vector of `kind`."""
    narrow = builder.trunc(number, kind.element) if kind.element.width < number.type.width else number
    lanes = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(lanes, narrow, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, lanes, _order([0] * kind.count))


@intrinsic
def rank_lanes(typingctx: Any, source: Any, start: Any, infinity: Any, target: Any, to: Any) -> Any:
    """target[to:to+64] = source[start:start+64], floats' bits made integers of the same order."""

    def generate(context: Context, builder: Builder, signature: Any, args: Any) -> Any:
        value = _ranked(builder, _load(context, builder, source, args[0], args[1]), args[2])
        _store(context, builder, value, target, args[3], args[4])
        return context.get_dummy_value()

    return types.void(source, types.intp, types.intp, target, types.intp), generate


@intrinsic
def unrank_lanes(typingctx: Any, source: Any, start: Any, target: Any, to: Any) -> Any:
    """target[to:to+64] = source[start:start+64], ordered integers made floats' bits again."""

    def generate(context: Context, builder: Builder, signature: Any, args: Any) -> Any:
        value = _ordered(builder, _load(context, builder, source, args[0], args[1]))
        _store(context, builder, value, target, args[2], args[3])
        return context.get_dummy_value()

    return types.void(source, types.intp, target, types.intp), generate


# --- turning: rows become columns ------------------------------------------------------------------


def _order(lanes: list[int]) -> Any:
    """Which lanes of two vectors a shuffle takes, those of the second counted on."""
    return ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes)


def _interleave(builder: Builder, a: Any, b: Any) -> tuple[Any, Any]:
    """Within each four lanes: a0 b0 a1 b1, and a2 b2 a3 b3."""
    fours = range(0, SQUARE, 4)
    low = [lane for four in fours for lane in (four, SQUARE + four, four + 1, SQUARE + four + 1)]
    high = [lane + 2 for lane in low]
    return builder.shuffle_vector(a, b, _order(low)), builder.shuffle_vector(a, b, _order(high))


def _turn_fours(builder: Builder, rows: list[Any]) -> list[Any]:
    """Four vectors → four: lane r of four f of the k-th is lane k of four f of rows[r]."""
    even, odd = _interleave(builder, rows[0], rows[2]), _interleave(builder, rows[1], rows[3])
    return [*_interleave(builder, even[0], odd[0]), *_interleave(builder, even[1], odd[1])]


def _joined(builder: Builder, fours: list[Any]) -> Any:
    """Four vectors of four lanes as one of sixteen."""
    halves = [builder.shuffle_vector(*pair, _order(list(range(8)))) for pair in (fours[:2], fours[2:])]
    return builder.shuffle_vector(*halves, _order(list(range(16))))


def _turn_square(
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
            fours = [_load(context, builder, source, array, offset, 4) for offset in starts]
            mixed.append(changed(_joined(builder, fours)))
        for turned in _turn_fours(builder, mixed):
            _store(context, builder, turned, target, result, to)
            to = builder.add(to, step)


@intrinsic
def unrank_square(typingctx: Any, source: Any, start: Any, row: Any, target: Any, to: Any, step: Any) -> Any:
    """16×16 ordered integers, as floats' bits: source[start + row·q + c] → target[to + step·c + q]."""

    def generate(context: Context, builder: Builder, signature: Any, args: Any) -> Any:
        _turn_square(context, builder, source, target, args, lambda value: _ordered(builder, value))
        return context.get_dummy_value()

    return types.void(source, types.intp, types.intp, target, types.intp, types.intp), generate


@intrinsic
def rank_square(
    typingctx: Any, source: Any, start: Any, row: Any, infinity: Any, target: Any, to: Any, step: Any
) -> Any:
    """16×16 floats' bits, as ordered integers: source[start + row·q + c] → target[to + step·c + q]."""

    def generate(context: Context, builder: Builder, signature: Any, args: Any) -> Any:
        places = [*args[:3], *args[4:]]
        _turn_square(context, builder, source, target, places, lambda v: _ranked(builder, v, args[3]))
        return context.get_dummy_value()

    kinds = (source, types.intp, types.intp, types.intp, target, types.intp, types.intp)
    return types.void(*kinds), generate


@intrinsic
def unrank_four_rows(
    typingctx: Any, source: Any, start: Any, row: Any, target: Any, to: Any, step: Any
) -> Any:
    """As unrank_square for q below 4: four bins of sixteen channels."""

    def generate(context: Context, builder: Builder, signature: Any, args: Any) -> Any:
        array, offset, row, result, to, step = args
        rows = []
        for _ in range(4):
            rows.append(_ordered(builder, _load(context, builder, source, array, offset, SQUARE)))
            offset = builder.add(offset, row)
        turned = _turn_fours(builder, rows)
        for channel in range(SQUARE):
            four, lane = channel // 4 * 4, channel % 4
            quarter = builder.shuffle_vector(turned[lane], turned[lane], _order(list(range(four, four + 4))))
            _store(context, builder, quarter, target, result, to)
            to = builder.add(to, step)
        return context.get_dummy_value()

    return types.void(source, types.intp, types.intp, target, types.intp, types.intp), generate


# --- the first maximum and its place --------------------------------------------------------------


@intrinsic
def fill_lanes(typingctx: Any, target: Any, to: Any, number: Any) -> Any:
    """target[to:to+64] = number"""

    def generate(context: Context, builder: Builder, signature: Any, args: Any) -> Any:
        kind = ir.VectorType(context.get_data_type(target.dtype), LANES)
        _store(context, builder, _spread(builder, args[2], kind), target, args[0], args[1])
        return context.get_dummy_value()

    return types.void(target, types.intp, types.intp), generate


@intrinsic
def keep_larger(typingctx: Any, source: Any, start: Any, best: Any, places: Any, to: Any, place: Any) -> Any:
    """Where source[start:start+64] exceeds best[to:to+64]: it, and `place` into places[to:to+64]."""

    def generate(context: Context, builder: Builder, signature: Any, args: Any) -> Any:
        new = _load(context, builder, source, args[0], args[1])
        old = _load(context, builder, best, args[2], args[4])
        where = _load(context, builder, places, args[3], args[4])
        exceeds = builder.icmp_signed(">", new, old)
        here = _spread(builder, args[5], where.type)
        _store(context, builder, builder.select(exceeds, new, old), best, args[2], args[4])
        _store(context, builder, builder.select(exceeds, here, where), places, args[3], args[4])
        return context.get_dummy_value()

    return types.void(source, types.intp, best, places, types.intp, types.intp), generate


@intrinsic
def keep_earlier(typingctx: Any, best: Any, places: Any, start: Any, to: Any) -> Any:
    """best and places from `start` into those from `to`, where larger, or equal and of an earlier place."""

    def generate(context: Context, builder: Builder, signature: Any, args: Any) -> Any:
        new, old = (_load(context, builder, best, args[0], offset) for offset in args[2:4])
        here, there = (_load(context, builder, places, args[1], offset) for offset in args[2:4])
        ties = builder.and_(builder.icmp_signed("==", new, old), builder.icmp_signed("<", here, there))
        wins = builder.or_(builder.icmp_signed(">", new, old), ties)
        _store(context, builder, builder.select(wins, new, old), best, args[0], args[3])
        _store(context, builder, builder.select(wins, here, there), places, args[1], args[3])
        return context.get_dummy_value()

    return types.void(best, places, types.intp, types.intp), generate


@intrinsic
def add_at(
    typingctx: Any, target: Any, start: Any, places: Any, which: Any, numbers: Any, number: Any
) -> Any:
    """target[start + places[which]] += numbers[number]; places are not negative, which numba would check."""

    def generate(context: Context, builder: Builder, signature: Any, args: Any) -> Any:
        place = builder.load(_pointer(context, builder, places, args[2], args[3]))
        if place.type.width < args[1].type.width:
            place = builder.zext(place, args[1].type)
        address = _pointer(context, builder, target, args[0], builder.add(args[1], place))
        new = builder.load(_pointer(context, builder, numbers, args[4], args[5]))
        builder.store(builder.fadd(builder.load(address), new), address)
        return context.get_dummy_value()

    return types.void(target, types.intp, places, types.intp, numbers, types.intp), generate


@intrinsic
def prefetch_for_writing(typingctx: Any, target: Any, to: Any) -> Any:
    """Begin to fetch the memory of target[to:to+64], to be written soon."""

    def generate(context: Context, builder: Builder, signature: Any, args: Any) -> Any:
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", (byte,), kind)
        address = builder.bitcast(_pointer(context, builder, target, args[0], args[1]), byte)
        for line in range(0, LANES * target.dtype.bitwidth // 8, LINE_BYTES):
            place = builder.gep(address, [number(line)])
            builder.call(prefetch, [place, number(1), number(2), number(1)])  # a write, to level 2, data
        return context.get_dummy_value()

    return types.void(target, types.intp), generate
