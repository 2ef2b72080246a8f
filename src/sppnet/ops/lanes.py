"""Sixteen channels at a time: the few vector operations of the CPU kernel, written as LLVM.

Numba turns scalar loops into vector instructions only when it can prove a lot about them, and in
the short loops of pooling it cannot (eight times slower in a trial of the same algorithm). So these
functions say what is wanted: take 16 neighbouring numbers, keep the larger ones, interleave four
rows. LLVM fits them to whatever the processor has (SSE, AVX2, AVX-512, NEON).

Arrays are flat and contiguous, offsets count elements, and nothing is checked. Numba's cache of
compiled kernels watches cpu.py alone: after a change here, touch that file.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

LANES = 16

# Arguments of numba's code generators: its own, unannotated types.
Context = Any
Builder = Any


def _pointer(context: Context, builder: Builder, array_type: Any, array: Any, offset: Any) -> Any:
    """Address of array[offset]."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.gep(data, [offset])


def _load(context: Context, builder: Builder, array_type: Any, array: Any, offset: Any) -> Any:
    """The 16 numbers from array[offset] on."""
    kind = ir.VectorType(context.get_data_type(array_type.dtype), LANES)
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
    """target[to:to+16] = source[start:start+16]"""

    def generate(context: Context, builder: Builder, signature: Any, args: Any) -> Any:
        value = _load(context, builder, source, args[0], args[1])
        _store(context, builder, value, target, args[2], args[3])
        return context.get_dummy_value()

    return types.void(source, types.intp, target, types.intp), generate


@intrinsic
def larger_of_two(typingctx: Any, source: Any, a: Any, b: Any, target: Any, to: Any) -> Any:
    """target[to:to+16] = max(source[a:a+16], source[b:b+16]), signed integers"""

    def generate(context: Context, builder: Builder, signature: Any, args: Any) -> Any:
        rows = [_load(context, builder, source, args[0], offset) for offset in args[1:3]]
        _store(context, builder, _larger(builder, *rows), target, args[3], args[4])
        return context.get_dummy_value()

    return types.void(source, *[types.intp] * 2, target, types.intp), generate


@intrinsic
def larger_of_four(typingctx: Any, source: Any, a: Any, b: Any, c: Any, d: Any, target: Any, to: Any) -> Any:
    """target[to:to+16] = the largest of four rows of source, signed integers"""

    def generate(context: Context, builder: Builder, signature: Any, args: Any) -> Any:
        rows = [_load(context, builder, source, args[0], offset) for offset in args[1:5]]
        value = _larger(builder, _larger(builder, rows[0], rows[1]), _larger(builder, rows[2], rows[3]))
        _store(context, builder, value, target, args[5], args[6])
        return context.get_dummy_value()

    return types.void(source, *[types.intp] * 4, target, types.intp), generate


@intrinsic
def absorb(typingctx: Any, source: Any, start: Any, target: Any, to: Any) -> Any:
    """target[to:to+16] = max(target[to:to+16], source[start:start+16]), signed integers"""

    def generate(context: Context, builder: Builder, signature: Any, args: Any) -> Any:
        old = _load(context, builder, target, args[2], args[3])
        new = _load(context, builder, source, args[0], args[1])
        _store(context, builder, _larger(builder, new, old), target, args[2], args[3])
        return context.get_dummy_value()

    return types.void(source, types.intp, target, types.intp), generate


def _ordered(builder: Builder, value: Any, bits: int) -> Any:
    """Swaps between a float's bits and an integer of the same order; its own inverse.

    Negative floats order backwards as integers: flip all their bits but the sign.
    """
    item = ir.IntType(bits)
    shift = ir.Constant(ir.VectorType(item, LANES), [bits - 1] * LANES)
    mask = ir.Constant(ir.VectorType(item, LANES), [(1 << (bits - 1)) - 1] * LANES)
    return builder.xor(value, builder.and_(builder.ashr(value, shift), mask))


def _interleave(builder: Builder, low: bool, a: Any, b: Any) -> Any:
    """a0 b0 a1 b1 … of the low or the high halves of two vectors."""
    first = 0 if low else LANES // 2
    order = [first + i // 2 + LANES * (i % 2) for i in range(LANES)]
    mask = ir.Constant(ir.VectorType(ir.IntType(32), LANES), order)
    return builder.shuffle_vector(a, b, mask)


def _quarter(builder: Builder, value: Any, part: int) -> Any:
    """Lanes 4·part to 4·part + 3 of a vector."""
    mask = ir.Constant(ir.VectorType(ir.IntType(32), 4), [4 * part + i for i in range(4)])
    return builder.shuffle_vector(value, value, mask)


@intrinsic
def write_bin(typingctx: Any, source: Any, start: Any, target: Any, to: Any) -> Any:
    """As copy_lanes, turned back into floats' bits: the one bin of level 1."""

    def generate(context: Context, builder: Builder, signature: Any, args: Any) -> Any:
        value = _ordered(builder, _load(context, builder, source, args[0], args[1]), source.dtype.bitwidth)
        _store(context, builder, value, target, args[2], args[3])
        return context.get_dummy_value()

    return types.void(source, types.intp, target, types.intp), generate


@intrinsic
def write_four_bins(
    typingctx: Any, source: Any, start: Any, row: Any, target: Any, to: Any, step: Any
) -> Any:
    """Four bins of 16 channels, turned from bin-major to channel-major and back into floats' bits.

    target[to + step·c + q] = source[start + row·q + c] for c < 16, q < 4: two rounds of
    interleaving, a quarter vector for each channel.
    """

    def generate(context: Context, builder: Builder, signature: Any, args: Any) -> Any:
        bits = source.dtype.bitwidth
        offset, rows = args[1], []
        for _ in range(4):
            rows.append(_ordered(builder, _load(context, builder, source, args[0], offset), bits))
            offset = builder.add(offset, args[2])
        to = args[4]
        for half in (True, False):  # channels 0-7, then 8-15
            even = _interleave(builder, half, rows[0], rows[2])
            odd = _interleave(builder, half, rows[1], rows[3])
            for low in (True, False):  # four channels of four bins each
                mixed = _interleave(builder, low, even, odd)
                for part in range(4):
                    _store(context, builder, _quarter(builder, mixed, part), target, args[3], to)
                    to = builder.add(to, args[5])
        return context.get_dummy_value()

    return types.void(source, types.intp, types.intp, target, types.intp, types.intp), generate


@intrinsic
def fill_lanes(typingctx: Any, target: Any, to: Any, number: Any) -> Any:
    """target[to:to+16] = number"""

    def generate(context: Context, builder: Builder, signature: Any, args: Any) -> Any:
        _store(context, builder, _repeated(context, builder, target, args[2]), target, args[0], args[1])
        return context.get_dummy_value()

    return types.void(target, types.intp, types.intp), generate


@intrinsic
def keep_larger(typingctx: Any, source: Any, start: Any, best: Any, places: Any, to: Any, place: Any) -> Any:
    """Where source[start:start+16] exceeds best[to:to+16]: it, and `place` into places[to:to+16]."""

    def generate(context: Context, builder: Builder, signature: Any, args: Any) -> Any:
        new = _load(context, builder, source, args[0], args[1])
        old = _load(context, builder, best, args[2], args[4])
        where = _load(context, builder, places, args[3], args[4])
        exceeds = builder.icmp_signed(">", new, old)
        here = _repeated(context, builder, places, args[5])
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


def _repeated(context: Context, builder: Builder, array_type: Any, number: Any) -> Any:
    """The same number in all lanes, as the array holds it."""
    item = context.get_data_type(array_type.dtype)
    narrow = builder.trunc(number, item) if item.width < number.type.width else number
    lanes = ir.Constant(ir.VectorType(item, LANES), ir.Undefined)
    first = builder.insert_element(lanes, narrow, ir.Constant(ir.IntType(32), 0))
    mask = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    return builder.shuffle_vector(first, lanes, mask)


@intrinsic
def prefetch_for_writing(typingctx: Any, target: Any, to: Any) -> Any:
    """Begin to fetch the memory of target[to], to be written soon."""

    def generate(context: Context, builder: Builder, signature: Any, args: Any) -> Any:
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", (byte,), kind)
        address = builder.bitcast(_pointer(context, builder, target, args[0], args[1]), byte)
        builder.call(prefetch, [address, number(1), number(2), number(1)])  # a write, to level 2, data
        return context.get_dummy_value()

    return types.void(target, types.intp), generate
