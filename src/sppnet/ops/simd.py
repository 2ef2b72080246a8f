"""Sixty-four channels at a time: the vector operations of the CPU kernels, written in LLVM's own terms.

Why this exists. Numba turns a scalar loop into vector instructions only where it can prove a lot about it
(no index negative, no two arrays overlapping), and proves it again before each of the short loops of
pooling. The same kernels on plain loops of 64 numbers, with unsigned indices, gave the same bits and took
1.8 times as long (2,000 windows of a 42×56×256 map, one thread of an EPYC with AVX2), 2.2 times in
bfloat16, and 1.6 times forward and backward. With the maxima alone as vectors, and squares turned in plain
loops, it took 1.5 to 1.9 times as long (1.2 forward and backward): all of it is needed.

How it works. A compiled kernel calls an operation as it calls a function: `absorb(source, start, target,
to)`. While numba compiles the kernel it runs the operation's Python body once, which writes LLVM
instructions in place of the call: `source.load(start)` is a load of 64 numbers from source[start] on,
`builder.select(…)` a choice in every lane. LLVM cuts vectors of 64 to what the processor has (SSE, AVX2,
AVX-512, NEON), and the bodies never see a processor.

How to change it. Arrays are flat and contiguous, offsets count elements, and nothing is checked: an offset
out of bounds reads or writes what lies there. Loads and stores are aligned to an element only; kernels take
their memory from `blocks.aligned`, because a vector across two cache lines costs twice. Numbers are integers
of the width of the floats: `rank_lanes` makes a float's bits an integer of the same order, so one `icmp`
serves 16, 32 and 64 bits, and `unrank_lanes` turns it back. Numba's cache watches the file of each kernel and
not this one: after a change here, delete `ops/__pycache__`.
"""

import functools
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


class _Numbers:
    """An array that an operation was called with."""

    def __init__(self, context: Any, builder: Any, kind: Any, array: Any) -> None:
        self.builder, self.bytes = builder, kind.dtype.bitwidth // 8
        self.element = context.get_data_type(kind.dtype)
        self.data = context.make_array(kind)(context, builder, array).data

    def pointer(self, offset: Any, kind: Any = None) -> Any:
        """The address of a number, as one of `kind`."""
        address = self.builder.gep(self.data, [offset])
        return address if kind is None else self.builder.bitcast(address, kind.as_pointer())

    def load(self, offset: Any, count: int = LANES) -> Any:
        """A vector of the numbers from `offset` on."""
        return self.builder.load(self.pointer(offset, ir.VectorType(self.element, count)), align=self.bytes)

    def store(self, offset: Any, value: Any) -> None:
        self.builder.store(value, self.pointer(offset, value.type), align=self.bytes)


def _operation(write: Callable[..., None]) -> Callable[..., Any]:
    """What kernels call, from what writes its instructions: arrays come as `_Numbers`, numbers as int64."""

    @functools.wraps(write)
    def declare(_: Any, *kinds: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pairs = zip(signature.args, args, strict=True)
            write(builder, *(_Numbers(context, builder, k, a) if k != types.intp else a for k, a in pairs))
            return context.get_dummy_value()

        kinds = tuple(kind if isinstance(kind, types.Array) else types.intp for kind in kinds)
        return types.void(*kinds), generate

    return intrinsic(declare)


def _spread(builder: Any, number: Any, kind: Any) -> Any:
    """One number in all lanes of a vector of `kind`."""
    narrow = builder.trunc(number, kind.element) if kind.element.width < number.type.width else number
    lanes = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(lanes, narrow, ir.IntType(32)(0))
    return _shuffle(builder, first, lanes, [0] * kind.count)


def _shuffle(builder: Any, a: Any, b: Any, lanes: list[int]) -> Any:
    """Those lanes of two vectors, the lanes of the second counted on from the first's."""
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes))


def _larger(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.icmp_signed(">", a, b), a, b)


# --- maxima ----------------------------------------------------------------------------------------


@_operation
def copy_lanes(builder: Any, source: Any, start: Any, target: Any, to: Any) -> None:
    """target[to:to+64] = source[start:start+64]"""
    target.store(to, source.load(start))


@_operation
def larger_of_four(builder: Any, source: Any, a: Any, b: Any, c: Any, d: Any, target: Any, to: Any) -> None:
    """target[to:to+64] = the largest of four rows of source, signed integers"""
    target.store(to, _largest_row(builder, source, a, b, c, d))


@_operation
def absorb_four(builder: Any, source: Any, a: Any, b: Any, c: Any, d: Any, target: Any, to: Any) -> None:
    """As larger_of_four, and of what target[to:to+64] was."""
    target.store(to, _larger(builder, _largest_row(builder, source, a, b, c, d), target.load(to)))


def _largest_row(builder: Any, source: Any, *offsets: Any) -> Any:
    a, b, c, d = (source.load(offset) for offset in offsets)
    return _larger(builder, _larger(builder, a, b), _larger(builder, c, d))


@_operation
def absorb(builder: Any, source: Any, start: Any, target: Any, to: Any) -> None:
    """target[to:to+64] = max(target[to:to+64], source[start:start+64]), signed integers"""
    target.store(to, _larger(builder, source.load(start), target.load(to)))


# --- floats as integers of the same order ---------------------------------------------------------


def _same(value: Any, number: int) -> Any:
    """A constant in every lane, like those of `value`."""
    return ir.Constant(value.type, [number] * value.type.count)


def _ordered(builder: Any, value: Any) -> Any:
    """Swaps between a float's bits and an integer of the same order; its own inverse.

    Negative floats order backwards as integers: flip all their bits but the sign.
    """
    bits = value.type.element.width
    sign = builder.ashr(value, _same(value, bits - 1))
    return builder.xor(value, builder.and_(sign, _same(value, (1 << (bits - 1)) - 1)))


def _ranked(builder: Any, value: Any, infinity: Any, merged: Any) -> Any:
    """As `_ordered`, with NaN, what exceeds infinity sign aside, as the largest integer.

    merged: −1 to make −0 equal to 0, 0 to rank it just below.
    """
    largest = _same(value, (1 << (value.type.element.width - 1)) - 1)
    size = builder.and_(value, largest)
    is_nan = builder.icmp_signed(">", size, _spread(builder, infinity, value.type))
    # −0 has the sign bit alone: without it, it ranks as 0.
    is_zero = builder.icmp_signed("==", size, _same(value, 0))
    dropped = builder.and_(_spread(builder, merged, value.type), builder.sext(is_zero, value.type))
    number = _ordered(builder, builder.and_(value, builder.not_(dropped)))
    return builder.select(is_nan, largest, number)


@_operation
def rank_lanes(
    builder: Any, source: Any, start: Any, infinity: Any, merged: Any, target: Any, to: Any
) -> None:
    """target[to:to+64] = source[start:start+64], floats' bits made integers of the same order."""
    target.store(to, _ranked(builder, source.load(start), infinity, merged))


@_operation
def unrank_lanes(builder: Any, source: Any, start: Any, target: Any, to: Any) -> None:
    """target[to:to+64] = source[start:start+64], ordered integers made floats' bits again."""
    target.store(to, _ordered(builder, source.load(start)))


# --- turning: rows become columns ------------------------------------------------------------------


@_operation
def unrank_square(builder: Any, source: Any, start: Any, row: Any, target: Any, to: Any, step: Any) -> None:
    """16×16 ordered integers, as floats' bits: source[start + row·q + c] → target[to + step·c + q]."""
    _turn_square(builder, source, start, row, target, to, step, functools.partial(_ordered, builder))


@_operation
def rank_square(
    builder: Any, source: Any, start: Any, row: Any, infinity: Any, merged: Any, target: Any,
    to: Any, step: Any,
) -> None:  # fmt: skip
    """16×16 floats' bits, as ordered integers: source[start + row·q + c] → target[to + step·c + q]."""
    changed = functools.partial(_ranked, builder, infinity=infinity, merged=merged)
    _turn_square(builder, source, start, row, target, to, step, changed)


@_operation
def unrank_four_rows(
    builder: Any, source: Any, start: Any, row: Any, target: Any, to: Any, step: Any
) -> None:
    """As unrank_square for q below 4: four bins of sixteen channels."""
    rows = [_ordered(builder, source.load(place, SQUARE)) for place in _places(builder, start, row, 4)]
    turned = _turn_fours(builder, rows)
    for channel, place in enumerate(_places(builder, to, step, SQUARE)):
        four, lanes = channel // 4 * 4, turned[channel % 4]
        target.store(place, _shuffle(builder, lanes, lanes, list(range(four, four + 4))))


def _turn_square(
    builder: Any, source: Any, start: Any, row: Any, target: Any, to: Any, step: Any,
    changed: Callable[[Any], Any],
) -> None:  # fmt: skip
    """target[to + step·c + q] = changed(source[start + row·q + c]) for q and c below 16.

    Four lanes of each row at a time, put together so that no lane has to leave its four after that.
    """
    rows = _places(builder, start, row, SQUARE)
    columns = iter(_places(builder, to, step, SQUARE))
    for first in range(0, SQUARE, 4):
        mixed = []
        for r in range(4):
            places = [builder.add(rows[q], ir.Constant(row.type, first)) for q in range(r, SQUARE, 4)]
            mixed.append(changed(_joined(builder, [source.load(place, 4) for place in places])))
        for turned in _turn_fours(builder, mixed):
            target.store(next(columns), turned)


def _places(builder: Any, first: Any, step: Any, count: int) -> list[Any]:
    places = [first]
    for _ in range(count - 1):
        places.append(builder.add(places[-1], step))
    return places


def _joined(builder: Any, fours: list[Any]) -> Any:
    """Four vectors of four lanes as one of sixteen."""
    halves = [_shuffle(builder, a, b, list(range(8))) for a, b in (fours[:2], fours[2:])]
    return _shuffle(builder, halves[0], halves[1], list(range(16)))


def _turn_fours(builder: Any, rows: list[Any]) -> list[Any]:
    """Four vectors → four: lane r of four f of the k-th is lane k of four f of rows[r]."""
    even, odd = _interleave(builder, rows[0], rows[2]), _interleave(builder, rows[1], rows[3])
    return [*_interleave(builder, even[0], odd[0]), *_interleave(builder, even[1], odd[1])]


def _interleave(builder: Any, a: Any, b: Any) -> tuple[Any, Any]:
    """Within each four lanes: a0 b0 a1 b1, and a2 b2 a3 b3."""
    fours = range(0, SQUARE, 4)
    low = [lane for four in fours for lane in (four, SQUARE + four, four + 1, SQUARE + four + 1)]
    return _shuffle(builder, a, b, low), _shuffle(builder, a, b, [lane + 2 for lane in low])


# --- the first maximum and its place --------------------------------------------------------------


@_operation
def fill_lanes(builder: Any, target: Any, to: Any, number: Any) -> None:
    """target[to:to+64] = number"""
    target.store(to, _spread(builder, number, ir.VectorType(target.element, LANES)))


@_operation
def keep_larger(builder: Any, source: Any, start: Any, best: Any, places: Any, to: Any, place: Any) -> None:
    """Where source[start:start+64] exceeds best[to:to+64]: it, and `place` into places[to:to+64]."""
    new, old, where = source.load(start), best.load(to), places.load(to)
    exceeds = builder.icmp_signed(">", new, old)
    best.store(to, builder.select(exceeds, new, old))
    places.store(to, builder.select(exceeds, _spread(builder, place, where.type), where))


@_operation
def keep_earlier(builder: Any, best: Any, places: Any, start: Any, to: Any) -> None:
    """best and places from `start` into those from `to`, where larger, or equal and of an earlier place."""
    new, old, here, there = best.load(start), best.load(to), places.load(start), places.load(to)
    ties = builder.and_(builder.icmp_signed("==", new, old), builder.icmp_signed("<", here, there))
    wins = builder.or_(builder.icmp_signed(">", new, old), ties)
    best.store(to, builder.select(wins, new, old))
    places.store(to, builder.select(wins, here, there))


@_operation
def add_at(builder: Any, target: Any, start: Any, places: Any, which: Any, numbers: Any, number: Any) -> None:
    """target[start + places[which]] += numbers[number]; places are not negative, which numba would check."""
    place = builder.load(places.pointer(which))
    if place.type.width < start.type.width:
        place = builder.zext(place, start.type)
    address = target.pointer(builder.add(start, place))
    new = builder.load(numbers.pointer(number))
    builder.store(builder.fadd(builder.load(address), new), address)


@_operation
def prefetch_for_writing(builder: Any, target: Any, to: Any) -> None:
    """Begin to fetch the memory of target[to:to+64], to be written soon."""
    byte, number = ir.IntType(8), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [byte.as_pointer(), number, number, number])
    prefetch = builder.module.declare_intrinsic("llvm.prefetch", (byte.as_pointer(),), kind)
    address = target.pointer(to, byte)
    for line in range(0, LANES * target.bytes, LINE_BYTES):
        # A write, to the second-level cache, of data.
        builder.call(prefetch, [builder.gep(address, [number(line)]), number(1), number(2), number(1)])
