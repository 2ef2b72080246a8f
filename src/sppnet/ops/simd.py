"""Sixty-four channels at a time: the few vector operations of the CPU kernels (see `llvm`)."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from sppnet.ops.llvm import (
    LINE_BYTES,
    SQUARE,
    Builder,
    Context,
    lane_order,
    load,
    pointer,
    spread,
    store,
    turn_fours,
    turn_square,
)

LANES = 64
"""Channels of a block. 2,000 windows of a 42×56×256 map, in one slow hour: 16 took 30 ms, 32 23, 64 18."""


def _larger(builder: Builder, a: Any, b: Any) -> Any:
    return builder.select(builder.icmp_signed(">", a, b), a, b)


@intrinsic
def copy_lanes(typingctx: Any, source: Any, start: Any, target: Any, to: Any) -> Any:
    """target[to:to+64] = source[start:start+64]"""

    def generate(context: Context, builder: Builder, signature: Any, args: Any) -> Any:
        value = load(context, builder, source, args[0], args[1], LANES)
        store(context, builder, value, target, args[2], args[3])
        return context.get_dummy_value()

    return types.void(source, types.intp, target, types.intp), generate


@intrinsic
def larger_of_four(typingctx: Any, source: Any, a: Any, b: Any, c: Any, d: Any, target: Any, to: Any) -> Any:
    """target[to:to+64] = the largest of four rows of source, signed integers"""

    def generate(context: Context, builder: Builder, signature: Any, args: Any) -> Any:
        rows = [load(context, builder, source, args[0], offset, LANES) for offset in args[1:5]]
        value = _larger(builder, _larger(builder, rows[0], rows[1]), _larger(builder, rows[2], rows[3]))
        store(context, builder, value, target, args[5], args[6])
        return context.get_dummy_value()

    return types.void(source, *[types.intp] * 4, target, types.intp), generate


@intrinsic
def absorb_four(typingctx: Any, source: Any, a: Any, b: Any, c: Any, d: Any, target: Any, to: Any) -> Any:
    """As larger_of_four, and of what target[to:to+64] was."""

    def generate(context: Context, builder: Builder, signature: Any, args: Any) -> Any:
        rows = [load(context, builder, source, args[0], offset, LANES) for offset in args[1:5]]
        old = load(context, builder, target, args[5], args[6], LANES)
        value = _larger(builder, _larger(builder, rows[0], rows[1]), _larger(builder, rows[2], rows[3]))
        store(context, builder, _larger(builder, value, old), target, args[5], args[6])
        return context.get_dummy_value()

    return types.void(source, *[types.intp] * 4, target, types.intp), generate


@intrinsic
def absorb(typingctx: Any, source: Any, start: Any, target: Any, to: Any) -> Any:
    """target[to:to+64] = max(target[to:to+64], source[start:start+64]), signed integers"""

    def generate(context: Context, builder: Builder, signature: Any, args: Any) -> Any:
        old = load(context, builder, target, args[2], args[3], LANES)
        new = load(context, builder, source, args[0], args[1], LANES)
        store(context, builder, _larger(builder, new, old), target, args[2], args[3])
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


def _ranked(builder: Builder, value: Any, infinity: Any, merged: Any) -> Any:
    """As `_ordered`, with NaN, what exceeds infinity sign aside, as the largest integer.

    merged: −1 to make −0 equal to 0, 0 to rank it just below.
    """
    largest = _same(builder, value, (1 << (value.type.element.width - 1)) - 1)
    size = builder.and_(value, largest)
    is_nan = builder.icmp_signed(">", size, spread(builder, infinity, value.type))
    # −0 has the sign bit alone: without it, it ranks as 0.
    is_zero = builder.icmp_signed("==", size, _same(builder, value, 0))
    dropped = builder.and_(spread(builder, merged, value.type), builder.sext(is_zero, value.type))
    number = _ordered(builder, builder.and_(value, builder.not_(dropped)))
    return builder.select(is_nan, largest, number)


@intrinsic
def rank_lanes(
    typingctx: Any, source: Any, start: Any, infinity: Any, merged: Any, target: Any, to: Any
) -> Any:
    """target[to:to+64] = source[start:start+64], floats' bits made integers of the same order."""

    def generate(context: Context, builder: Builder, signature: Any, args: Any) -> Any:
        value = _ranked(builder, load(context, builder, source, args[0], args[1], LANES), args[2], args[3])
        store(context, builder, value, target, args[4], args[5])
        return context.get_dummy_value()

    return types.void(source, types.intp, types.intp, types.intp, target, types.intp), generate


@intrinsic
def unrank_lanes(typingctx: Any, source: Any, start: Any, target: Any, to: Any) -> Any:
    """target[to:to+64] = source[start:start+64], ordered integers made floats' bits again."""

    def generate(context: Context, builder: Builder, signature: Any, args: Any) -> Any:
        value = _ordered(builder, load(context, builder, source, args[0], args[1], LANES))
        store(context, builder, value, target, args[2], args[3])
        return context.get_dummy_value()

    return types.void(source, types.intp, target, types.intp), generate


# --- turning: rows become columns ------------------------------------------------------------------


@intrinsic
def unrank_square(typingctx: Any, source: Any, start: Any, row: Any, target: Any, to: Any, step: Any) -> Any:
    """16×16 ordered integers, as floats' bits: source[start + row·q + c] → target[to + step·c + q]."""

    def generate(context: Context, builder: Builder, signature: Any, args: Any) -> Any:
        turn_square(context, builder, source, target, args, lambda value: _ordered(builder, value))
        return context.get_dummy_value()

    return types.void(source, types.intp, types.intp, target, types.intp, types.intp), generate


@intrinsic
def rank_square(
    typingctx: Any,
    source: Any,
    start: Any,
    row: Any,
    infinity: Any,
    merged: Any,
    target: Any,
    to: Any,
    step: Any,
) -> Any:
    """16×16 floats' bits, as ordered integers: source[start + row·q + c] → target[to + step·c + q]."""

    def generate(context: Context, builder: Builder, signature: Any, args: Any) -> Any:
        places = [*args[:3], *args[5:]]
        turn_square(context, builder, source, target, places, lambda v: _ranked(builder, v, *args[3:5]))
        return context.get_dummy_value()

    kinds = (source, *[types.intp] * 4, target, types.intp, types.intp)
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
            rows.append(_ordered(builder, load(context, builder, source, array, offset, SQUARE)))
            offset = builder.add(offset, row)
        turned = turn_fours(builder, rows)
        for channel in range(SQUARE):
            four, lane = channel // 4 * 4, channel % 4
            quarter = builder.shuffle_vector(
                turned[lane], turned[lane], lane_order(list(range(four, four + 4)))
            )
            store(context, builder, quarter, target, result, to)
            to = builder.add(to, step)
        return context.get_dummy_value()

    return types.void(source, types.intp, types.intp, target, types.intp, types.intp), generate


# --- the first maximum and its place --------------------------------------------------------------


@intrinsic
def fill_lanes(typingctx: Any, target: Any, to: Any, number: Any) -> Any:
    """target[to:to+64] = number"""

    def generate(context: Context, builder: Builder, signature: Any, args: Any) -> Any:
        kind = ir.VectorType(context.get_data_type(target.dtype), LANES)
        store(context, builder, spread(builder, args[2], kind), target, args[0], args[1])
        return context.get_dummy_value()

    return types.void(target, types.intp, types.intp), generate


@intrinsic
def keep_larger(typingctx: Any, source: Any, start: Any, best: Any, places: Any, to: Any, place: Any) -> Any:
    """Where source[start:start+64] exceeds best[to:to+64]: it, and `place` into places[to:to+64]."""

    def generate(context: Context, builder: Builder, signature: Any, args: Any) -> Any:
        new = load(context, builder, source, args[0], args[1], LANES)
        old = load(context, builder, best, args[2], args[4], LANES)
        where = load(context, builder, places, args[3], args[4], LANES)
        exceeds = builder.icmp_signed(">", new, old)
        here = spread(builder, args[5], where.type)
        store(context, builder, builder.select(exceeds, new, old), best, args[2], args[4])
        store(context, builder, builder.select(exceeds, here, where), places, args[3], args[4])
        return context.get_dummy_value()

    return types.void(source, types.intp, best, places, types.intp, types.intp), generate


@intrinsic
def keep_earlier(typingctx: Any, best: Any, places: Any, start: Any, to: Any) -> Any:
    """best and places from `start` into those from `to`, where larger, or equal and of an earlier place."""

    def generate(context: Context, builder: Builder, signature: Any, args: Any) -> Any:
        new, old = (load(context, builder, best, args[0], offset, LANES) for offset in args[2:4])
        here, there = (load(context, builder, places, args[1], offset, LANES) for offset in args[2:4])
        ties = builder.and_(builder.icmp_signed("==", new, old), builder.icmp_signed("<", here, there))
        wins = builder.or_(builder.icmp_signed(">", new, old), ties)
        store(context, builder, builder.select(wins, new, old), best, args[0], args[3])
        store(context, builder, builder.select(wins, here, there), places, args[1], args[3])
        return context.get_dummy_value()

    return types.void(best, places, types.intp, types.intp), generate


@intrinsic
def add_at(
    typingctx: Any, target: Any, start: Any, places: Any, which: Any, numbers: Any, number: Any
) -> Any:
    """target[start + places[which]] += numbers[number]; places are not negative, which numba would check."""

    def generate(context: Context, builder: Builder, signature: Any, args: Any) -> Any:
        place = builder.load(pointer(context, builder, places, args[2], args[3]))
        if place.type.width < args[1].type.width:
            place = builder.zext(place, args[1].type)
        address = pointer(context, builder, target, args[0], builder.add(args[1], place))
        new = builder.load(pointer(context, builder, numbers, args[4], args[5]))
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
        address = builder.bitcast(pointer(context, builder, target, args[0], args[1]), byte)
        for line in range(0, LANES * target.dtype.bitwidth // 8, LINE_BYTES):
            place = builder.gep(address, [number(line)])
            builder.call(prefetch, [place, number(1), number(2), number(1)])  # a write, to level 2, data
        return context.get_dummy_value()

    return types.void(target, types.intp), generate
