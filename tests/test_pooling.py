"""pyramid_pool: every implementation against torch's adaptive pooling, and against the definition."""

import re
import shutil
import subprocess
import sys
import threading

import numba as nb
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._dynamo.testing import CompileCounterWithBackend

from sppnet.errors import ConfigError, GeometryError
from sppnet.ops import buffer_pool, choose, pool_maps, pyramid_pool, reference, using

NAN, INF = float("nan"), float("inf")
EVERY = pytest.mark.parametrize("name", ["cpu", "torch", "definition"])
FAST = pytest.mark.parametrize("name", ["cpu", "torch"])
FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
LEVELS = [(1, 2, 3, 6), (4, 3, 2, 1), (5,), (1, 1, 2), (6, 3, 2, 1), (10, 5, 2, 1)]


@pytest.fixture(autouse=True)
def one_thread_of_torch():
    """The expected numbers take thousands of tiny calls, which threads slow down. Numba keeps its own."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def draw(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def draw_whole(*shape, seed=0, dtype=torch.float32, low=-2, high=4):
    """Whole numbers: many ties, and sums that are the same in any order."""
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def draw_cells(count, batch, height, width, seed=0):
    """(count, 5), windows of all sizes anywhere."""
    generator = torch.Generator().manual_seed(seed)
    share = torch.rand(count, 4, generator=generator)
    x0, y0 = (share[:, 0] * width).long(), (share[:, 1] * height).long()
    x1 = x0 + 1 + (share[:, 2] * (width - x0)).long().clamp(max=width - 1)
    y1 = y0 + 1 + (share[:, 3] * (height - y0)).long().clamp(max=height - 1)
    which = torch.randint(max(batch, 1), (count,), generator=generator)
    return torch.stack([which, x0, y0, x1.clamp(max=width), y1.clamp(max=height)], 1)


def adaptive(features, cells, levels):
    """The vectors in torch's own words: differentiable, a window at a time."""
    vectors = []
    for which, x0, y0, x1, y1 in cells.tolist():
        window = features[which : which + 1, :, y0:y1, x0:x1]
        vectors.append(torch.cat([F.adaptive_max_pool2d(window, n).flatten(1) for n in levels], 1))
    return torch.cat(vectors)


def gradient(features, cells, levels, grad, pool=pyramid_pool):
    leaf = features.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    return torch.autograd.grad(pool(leaf, cells, levels), leaf, grad)[0]


def assert_same(ours, theirs):
    """Equal numbers, NaN where NaN; −0 equals 0."""
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)


# --- numbers -------------------------------------------------------------------------------------


@EVERY
@given(
    batch=st.integers(1, 3),
    channels=st.sampled_from([1, 3, 31, 33]),
    size_hw=st.tuples(st.integers(1, 15), st.integers(1, 15)),
    levels=st.sampled_from(LEVELS),
    count=st.sampled_from([1, 3, 20]),
    seed=st.integers(0, 1000),
)
@settings(deadline=None, max_examples=15)
def test_vectors_are_those_of_adaptive_pooling(name, batch, channels, size_hw, levels, count, seed):
    features, cells = (
        draw(batch, channels, *size_hw, seed=seed),
        draw_cells(count, batch, *size_hw, seed=seed),
    )
    with using(name):
        assert torch.equal(pyramid_pool(features, cells, levels), adaptive(features, cells, levels))


@FAST
@pytest.mark.parametrize("levels", LEVELS, ids=str)
@pytest.mark.parametrize("channels", [1, 3, 32, 63, 64, 65, 130])
@pytest.mark.parametrize(
    ("size_hw", "count"),
    [
        pytest.param((13, 13), 30, id="a table of many windows"),
        pytest.param((9, 14), 7, id="too few windows for a table"),
        pytest.param((42, 5), 8, id="just enough, long bins"),
        pytest.param((2, 3), 9, id="fewer cells than bins"),
        pytest.param((1, 1), 1, id="one cell"),
    ],
)
def test_blocks_of_channels_fit_together(name, levels, channels, size_hw, count):
    features, cells = draw(2, channels, *size_hw), draw_cells(count, 1, *size_hw)
    with using(name):
        assert torch.equal(pyramid_pool(features, cells, levels), adaptive(features, cells, levels))


@FAST
@pytest.mark.parametrize("count", [2, 40])
def test_windows_on_the_same_cells_have_the_same_vectors_wherever_they_stand(name, count):
    features, cells = draw(2, 65, 9, 8), draw_cells(count, 2, 9, 8)
    mixed = torch.randperm(3 * count, generator=torch.Generator().manual_seed(1)) % count
    with using(name):
        vectors = pyramid_pool(features, cells[mixed], (1, 2, 4))
    assert torch.equal(vectors, adaptive(features, cells, (1, 2, 4))[mixed])


@EVERY
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("channels", [5, 70])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_every_float_is_pooled_exactly(name, dtype, channels, layout):
    features, cells = draw(2, channels, 11, 7, dtype=dtype), draw_cells(20, 2, 11, 7)
    features = features.contiguous(memory_format=layout)
    with using(name):
        vectors = pyramid_pool(features, cells)
    assert vectors.dtype == dtype
    assert torch.equal(vectors, adaptive(features.double(), cells, (1, 2, 3, 6)).to(dtype))


def test_large_whole_numbers_stay_exact():
    features = draw_whole(1, 3, 6, 5, dtype=torch.int64) + (1 << 60)
    cells = draw_cells(9, 1, 6, 5)
    assert choose(features).name == "torch"
    expected = reference.pool(features, cells, (1, 2, 3))
    assert torch.equal(pyramid_pool(features, cells, (1, 2, 3)), expected)


@EVERY
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("count", [3, 12])
@pytest.mark.parametrize("channels", [4, 64])
def test_nan_wins_and_infinities_and_zeros_keep_their_order(name, dtype, count, channels):
    special = torch.tensor([NAN, -NAN, INF, -INF, 0.0, -0.0, 1.0, -1.0, -INF, -INF])
    which = draw_whole(1, channels, 8, 9, low=0, high=10, dtype=torch.int64)
    features = special[which].to(dtype)
    features[0, 3] = -INF  # a channel without anything larger
    cells = draw_cells(count, 1, 8, 9)
    with using(name):
        vectors = pyramid_pool(features, cells)
    assert_same(vectors, adaptive(features, cells, (1, 2, 3, 6)))


LAYOUTS = {
    "channels last": lambda x: x.to(memory_format=torch.channels_last),
    "every other column": lambda x: x.repeat_interleave(2, 3)[..., ::2],
    "transposed": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "one map expanded": lambda x: x[:1].expand(2, -1, -1, -1),
    "some channels of more": lambda x: torch.cat([x, x, x], 1)[:, 5:10],
}


@EVERY
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_features_of_any_layout_are_pooled(name, layout):
    features, cells = layout(draw_whole(2, 5, 9, 6)), draw_cells(12, 2, 9, 6)
    grad = draw_whole(12, 250)
    with using(name):
        assert torch.equal(pyramid_pool(features, cells), adaptive(features, cells, (1, 2, 3, 6)))
        ours = gradient(features, cells, (1, 2, 3, 6), grad)
    assert torch.equal(ours, gradient(features.contiguous(), cells, (1, 2, 3, 6), grad, adaptive))


# --- windows -------------------------------------------------------------------------------------


@EVERY
def test_windows_are_given_in_four_ways(name):
    features = draw(2, 3, 6, 8)
    first, second = torch.tensor([[0, 0, 8, 6], [1, 2, 3, 4]]), torch.tensor([[0, 0, 8, 6]])
    with using(name):
        rows = pyramid_pool(features, torch.tensor([[0, 0, 0, 8, 6], [0, 1, 2, 3, 4], [1, 0, 0, 8, 6]]))
        assert torch.equal(pyramid_pool(features, [first, second]), rows)
        assert torch.equal(pyramid_pool(features), rows[[0, 2]])
        assert torch.equal(pyramid_pool(features[:1], first), rows[:2])


@EVERY
@pytest.mark.parametrize(
    ("batch", "cells"),
    [
        pytest.param(2, torch.zeros(0, 5, dtype=torch.int64), id="no rows"),
        pytest.param(1, torch.zeros(0, 4, dtype=torch.int32), id="no rows of one map"),
        pytest.param(2, [torch.zeros(0, 4, dtype=torch.int64)] * 2, id="no windows on either map"),
        pytest.param(0, None, id="no maps"),
        pytest.param(0, [], id="a list for no maps"),
    ],
)
def test_nothing_is_pooled_into_nothing(name, batch, cells):
    features = draw(batch, 3, 5, 4).requires_grad_()
    with using(name):
        vectors = pyramid_pool(features, cells, (1, 2))
        assert vectors.shape == (0, 15)
        vectors.sum().backward()
    assert features.grad.shape == features.shape
    assert not features.grad.any()


def test_maps_without_windows_are_passed_over():
    features, some = draw(3, 33, 9, 9), draw_cells(20, 1, 9, 9)[:, 1:]
    none = some[:0]
    assert torch.equal(pyramid_pool(features, [none, some, none]), pyramid_pool(features[1:2], some))


@FAST
def test_more_windows_than_are_taken_at_once(name):
    features, cells = draw_whole(2, 3, 9, 7), draw_cells(600, 2, 9, 7)
    grad = draw_whole(600, 15)
    with using(name):
        assert torch.equal(pyramid_pool(features, cells, (1, 2)), adaptive(features, cells, (1, 2)))
        ours = gradient(features, cells, (1, 2), grad)
    assert torch.equal(ours, gradient(features, cells, (1, 2), grad, adaptive))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8])
def test_cells_of_any_integers_and_layout_will_do(dtype):
    features, cells = draw(1, 3, 6, 8), draw_cells(10, 1, 6, 8)[:, 1:]
    expected = pyramid_pool(features, cells)
    assert torch.equal(pyramid_pool(features, cells.to(dtype)), expected)
    assert torch.equal(pyramid_pool(features, cells.to(dtype).T.contiguous().T), expected)


@EVERY
@pytest.mark.parametrize(
    ("cells", "message"),
    [
        pytest.param(
            [[0, 0, 9, 6]], r"window 0 .* \(0, 0, 0, 9, 6\) .* 1 maps of 6×8 cells", id="too far right"
        ),
        pytest.param([[0, 0, 8, 6], [0, 0, 8, 7]], "window 1 ", id="too far down"),
        pytest.param([[-1, 0, 8, 6]], "boxes_to_cells clips boxes", id="left of the map"),
        pytest.param([[0, -1, 8, 6]], "not inside", id="above the map"),
        pytest.param([[5, 0, 3, 6]], "is empty", id="upside down across"),
        pytest.param([[0, 4, 8, 4]], "is empty", id="of no height"),
        pytest.param([[1, 0, 0, 8, 6]], r"\(1, 0, 0, 8, 6\)", id="of a map that is not there"),
        pytest.param([[-1, 0, 0, 8, 6]], r"\(-1, 0, 0, 8, 6\)", id="of a map before the first"),
    ],
)
def test_windows_outside_a_map_are_refused(name, cells, message):
    with using(name), pytest.raises(GeometryError, match=message):
        pyramid_pool(draw(1, 2, 6, 8), torch.tensor(cells))
    with using(name), pytest.raises(GeometryError, match=message):
        pyramid_pool(draw(1, 2, 6, 8), torch.tensor(cells), pooling="average")


@pytest.mark.parametrize(
    ("batch", "cells", "message"),
    [
        pytest.param(1, torch.zeros(1, 4), "must be integers; got torch.float32", id="boxes"),
        pytest.param(1, torch.zeros(1, 4, dtype=torch.bool), "got torch.bool", id="a mask"),
        pytest.param(1, torch.zeros(4, dtype=torch.int64), r"got shapes \[\(4,\)\]", id="one window, flat"),
        pytest.param(1, torch.zeros(2, 3, dtype=torch.int64), r"got shapes \[\(2, 3\)\]", id="three numbers"),
        pytest.param(2, torch.zeros(1, 4, dtype=torch.int64), "for 2 maps", id="whose map is not said"),
        pytest.param(2, [torch.zeros(1, 4, dtype=torch.int64)], "must be 2 tensors", id="a list too short"),
    ],
)
def test_what_is_no_window_is_refused(batch, cells, message):
    with pytest.raises(GeometryError, match=message):
        pyramid_pool(draw(batch, 2, 6, 8), cells)


def test_features_that_are_no_tensor_are_refused():
    with pytest.raises(
        GeometryError, match=r"must be a tensor \(b, c, h, w\), as torch.from_numpy .*; got ndarray"
    ):
        pyramid_pool(np.zeros((1, 2, 5, 5), np.float32))


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        pytest.param((3, 6, 8), {}, r"\(b, c, h, w\); got \(3, 6, 8\)", id="one map without its batch"),
        pytest.param((1, 3, 0, 8), {}, "at least 1×1 cells; got 0×8", id="a map without cells"),
        pytest.param((1, 3, 6, 8), {"levels": (2, 0)}, re.escape("got (2, 0)"), id="a level of nothing"),
        pytest.param((1, 3, 6, 8), {"pooling": "sum"}, "got 'sum'", id="an unknown pooling"),
    ],
)
def test_what_cannot_be_pooled_is_refused(shape, options, message):
    with pytest.raises(GeometryError, match=message):
        pyramid_pool(torch.zeros(shape), **options)


# --- gradients -----------------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("levels", [(1, 2, 3, 6), (4, 3, 2, 1), (5,), (1, 1, 2)], ids=str)
@pytest.mark.parametrize("size_hw", [(9, 8), (2, 3), (1, 1)], ids=str)
def test_ties_go_to_the_first_maximum_as_in_torch(name, levels, size_hw):
    features = draw_whole(2, 3, *size_hw).relu()
    cells = draw_cells(12, 2, *size_hw)
    grad = draw_whole(12, 3 * sum(n * n for n in levels), seed=1)
    with using(name):
        ours = gradient(features, cells, levels, grad)
    assert torch.equal(ours, gradient(features, cells, levels, grad, adaptive))


@FAST
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_gradients_of_every_float_are_those_of_the_definition(name, dtype):
    """With NaN, of which torch would take the last, and sums that half precision would lose."""
    features = draw_whole(2, 3, 6, 7).to(dtype)
    features[0, 0, 2:4, 3:5], features[1, 2] = NAN, -INF
    cells, grad = draw_cells(30, 2, 6, 7), draw_whole(30, 150, low=1, high=200).to(dtype)
    expected = reference.pool_backward(grad, features, cells, (1, 2, 3, 6))
    with using(name):
        ours = gradient(features, cells, (1, 2, 3, 6), grad)
    assert ours.dtype == dtype
    assert torch.equal(ours, expected)


@EVERY
def test_gradcheck(name):
    # Distinct numbers far apart: no small step changes a maximum.
    features = torch.randperm(2 * 2 * 5 * 4, generator=torch.Generator().manual_seed(0)).double()
    features = features.view(2, 2, 5, 4).requires_grad_()
    cells = draw_cells(5, 2, 5, 4)
    with using(name):
        assert torch.autograd.gradcheck(lambda x: pyramid_pool(x, cells, (1, 2, 3)), features, fast_mode=True)


def test_an_expanded_gradient_will_do():
    features = draw(1, 3, 5, 5).requires_grad_()
    pyramid_pool(features, levels=(1, 2)).sum().backward()
    assert features.grad.sum() == 15


@FAST
def test_gradients_are_the_same_on_every_run_and_any_number_of_threads(name):
    features, cells = draw(2, 40, 20, 20).relu(), draw_cells(200, 2, 20, 20)
    grad = draw(200, 40 * 50, seed=1)

    def run(threads):
        nb.set_num_threads(threads)
        torch.set_num_threads(threads)
        with using(name):
            return pyramid_pool(features, cells), gradient(features, cells, (1, 2, 3, 6), grad)

    before = nb.get_num_threads()
    try:
        runs = [run(threads) for threads in (before, 1, before, 1)]
    finally:
        nb.set_num_threads(before)
    for vectors, grads in runs[1:]:
        assert torch.equal(vectors, runs[0][0])
        assert torch.equal(grads, runs[0][1])


@FAST
def test_deterministic_algorithms_may_be_asked_for(name):
    features, cells, grad = draw_whole(1, 3, 9, 9), draw_cells(20, 1, 9, 9), draw_whole(20, 150)
    torch.use_deterministic_algorithms(True)
    try:
        with using(name):
            ours = gradient(features, cells, (1, 2, 3, 6), grad)
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(ours, gradient(features, cells, (1, 2, 3, 6), grad, adaptive))


# --- averages ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("levels", LEVELS, ids=str)
def test_averages_are_those_of_adaptive_pooling(levels, dtype):
    features, cells = draw(2, 3, 9, 14, dtype=dtype), draw_cells(15, 2, 9, 14)
    wide, expected = features.double(), []
    for which, x0, y0, x1, y1 in cells.tolist():
        window = wide[which : which + 1, :, y0:y1, x0:x1]
        expected.append(torch.cat([F.adaptive_avg_pool2d(window, n).flatten(1) for n in levels], 1))
    ours = pyramid_pool(features, cells, levels, "average")
    torch.testing.assert_close(ours, torch.cat(expected).to(dtype))


def test_averages_pass_gradcheck():
    features = draw(1, 2, 5, 4, dtype=torch.float64).requires_grad_()
    cells = draw_cells(4, 1, 5, 4)
    assert torch.autograd.gradcheck(
        lambda x: pyramid_pool(x, cells, (1, 3), "average"), features, fast_mode=True
    )


# --- numbers that are equal, and are not the same ------------------------------------------------

BITS = {torch.float16: torch.int16, torch.bfloat16: torch.int16, torch.float32: torch.int32}
BITS[torch.float64] = torch.int64
ODD_NAN = {torch.float16: -0x1FB, torch.float32: -0x3FFFFB, torch.float64: -0x7FFFFFFFFFFFB}
"""Bits of a negative NaN that nobody else makes."""


def with_ties(dtype, channels, memory_format):
    """Nothing above zero, zeros of both signs, and two kinds of NaN."""
    features = -draw(2, channels, 9, 11).abs()
    kind = torch.randint(0, 12, features.shape, generator=torch.Generator().manual_seed(1))
    for number, value in ((0, 0.0), (1, 0.0), (2, -0.0), (3, -0.0), (4, NAN)):
        features[(kind == number) & ((number < 4) | (draw(*features.shape, seed=2) > 1.5))] = value
    features = features.to(dtype)
    if dtype in ODD_NAN:
        odd = (kind == 5) & (draw(*features.shape, seed=3) > 1.5)
        features.view(BITS[dtype])[odd] = ODD_NAN[dtype]
    return features.contiguous(memory_format=memory_format)


@EVERY
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("channels", [3, 64, 70])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_zeros_and_nan_have_torchs_bits(name, dtype, channels, memory_format):
    features, levels = with_ties(dtype, channels, memory_format), (1, 2, 3, 6)
    cells = torch.cat([draw_cells(12, 2, 9, 11), torch.tensor([[1, 0, 0, 1, 1], [0, 0, 0, 11, 9]])])
    with using(name):
        ours = [pyramid_pool(features, None, levels), pyramid_pool(features, cells, levels)]
        ours.append(pool_maps(list(features), cells, levels))
    whole = torch.tensor([[0, 0, 0, 11, 9], [1, 0, 0, 11, 9]])
    contiguous = features.contiguous()  # where channels are last, torch's NaN of bfloat16 is another
    for found, windows in zip(ours, (whole, cells, cells), strict=True):
        expected = adaptive(contiguous, windows, levels)
        assert torch.equal(found.view(BITS[dtype]), expected.view(BITS[dtype]))


@EVERY
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("value", [0.0, -0.0, NAN])
def test_maps_of_one_number_keep_its_bits(name, dtype, value):
    features = torch.full((1, 5, 6, 5), value, dtype=dtype)
    with using(name):
        found = pyramid_pool(features, None, (1, 2)).view(BITS[dtype])
    assert (found == features.view(BITS[dtype])[0, 0, 0, 0]).all()


@EVERY
def test_zeros_of_both_signs_share_no_gradient(name):
    features = torch.tensor([[-0.0, 0.0], [0.0, -0.0]]).view(1, 1, 2, 2).requires_grad_()
    with using(name):
        pyramid_pool(features, None, (1,)).sum().backward()
    assert features.grad.flatten().tolist() == [1, 0, 0, 0], "the first of equal ones, as in torch"


# --- the choice ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "name", "reason"),
    [
        pytest.param(torch.float32, "cpu", "numba kernel", id="floats have a kernel"),
        pytest.param(torch.bfloat16, "cpu", "numba kernel", id="half floats too"),
        pytest.param(
            torch.int32,
            "torch",
            "not cpu: no kernel for torch.int32; not gpu: features are on cpu",
            id="integers",
        ),
        pytest.param(torch.float8_e5m2, "torch", "no kernel for torch.float8_e5m2", id="a float of one byte"),
    ],
)
def test_a_choice_gives_its_reasons(dtype, name, reason):
    choice = choose(torch.zeros(1, 1, 2, 2, dtype=dtype))
    assert choice.name == name
    assert reason in choice.reason


def test_a_forced_choice_ends_with_its_block():
    features = draw(1, 1, 2, 2)
    with using("torch"):
        assert (choose(features).name, choose(features).reason) == ("torch", "forced by sppnet.ops.using")
        with using("definition"):
            assert choose(features).name == "definition"
        assert choose(features).name == "torch"
    with pytest.raises(ZeroDivisionError), using("definition"):
        raise ZeroDivisionError
    assert choose(features).name == "cpu"


def test_a_choice_that_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="no implementation 'numba'; known: cpu"), using("numba"):
        pass
    with using("cpu"), pytest.raises(ConfigError, match=r"forced, but no kernel for torch\.int64"):
        pyramid_pool(torch.zeros(1, 1, 2, 2, dtype=torch.int64))
    with using("gpu"), pytest.raises(ConfigError, match="forced, but features are on cpu"):
        pyramid_pool(draw(1, 1, 2, 2))


# --- torch's compilers ---------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("layout", ["contiguous", "channels last", "transposed"])
@pytest.mark.parametrize("windows", [None, 6])
@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf"
)  # opcheck looks at it
def test_the_operator_keeps_torchs_rules(name, layout, windows):
    """Schema, fake tensors (shape, dtype and strides) and autograd registration, both directions."""
    features = LAYOUTS.get(layout, lambda x: x)(draw(2, 3, 5, 7))
    cells = None if windows is None else draw_cells(windows, 2, 5, 7)
    grad = draw(windows or 2, 3 * 5)
    with using(name):
        torch.library.opcheck(
            torch.ops.sppnet.pyramid_pool.default, (features.clone().requires_grad_(), cells, [1, 2])
        )
        torch.library.opcheck(
            torch.ops.sppnet.pyramid_pool_backward.default,
            (grad, features, cells, [1, 2]),
            test_utils=("test_schema", "test_faketensor"),
        )


def compiled_gradients(backend, windows):
    """Gradients by torch.compile on several sizes, checked, and how many graphs that took."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend(backend)

    def loss(features, cells):
        return (pyramid_pool(features.relu(), cells, (1, 2, 3)) * 2).sum()

    compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend=counter)
    for batch, height, width in ((2, 13, 11), (3, 7, 9), (5, 20, 14), (4, 9, 5)):
        features = draw_whole(batch, 6, height, width).requires_grad_()
        cells = draw_cells(4 * batch, batch, height, width) if windows else None
        (ours,) = torch.autograd.grad(compiled(features, cells), features)
        (expected,) = torch.autograd.grad(loss(features, cells), features)
        assert torch.equal(ours, expected)
    return counter.frame_count


@pytest.mark.parametrize("windows", [False, True], ids=["whole maps", "windows"])
def test_one_graph_serves_every_size(windows):
    assert compiled_gradients("aot_eager", windows) == 1


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of inductor's own making
def test_inductor_compiles_it():
    assert compiled_gradients("inductor", windows=False) == 1


class Pooled(torch.nn.Module):
    def forward(self, features, cells=None):
        return pyramid_pool(features, cells)


def test_export_leaves_sizes_open():
    sizes = {"features": {0: torch.export.Dim("b"), 2: torch.export.Dim("h"), 3: torch.export.Dim("w")}}
    program = torch.export.export(Pooled(), (draw(2, 3, 13, 11),), dynamic_shapes=sizes)
    for shape in ((3, 3, 5, 17), (7, 3, 2, 2)):
        assert torch.equal(program.module()(draw(*shape)), pyramid_pool(draw(*shape)))


def test_export_leaves_the_number_of_windows_open():
    sizes = {"features": None, "cells": {0: torch.export.Dim("n")}}
    features = draw(2, 3, 13, 11)
    program = torch.export.export(Pooled(), (features, draw_cells(4, 2, 13, 11)), dynamic_shapes=sizes)
    for count in (2, 9, 30):
        cells = draw_cells(count, 2, 13, 11, seed=count)
        assert torch.equal(program.module()(features, cells), pyramid_pool(features, cells))


# --- threads and memory --------------------------------------------------------------------------


def test_four_threads_may_pool_at_once():
    features = [draw(1, 48, 15, 15, seed=seed) for seed in range(4)]
    cells = [draw_cells(50, 1, 15, 15, seed=seed) for seed in range(4)]
    expected = [adaptive(*pair, (1, 2, 3, 6)) for pair in zip(features, cells, strict=True)]
    right = [0] * 4

    def work(index):
        for _ in range(10):
            vectors = pyramid_pool(features[index], cells[index])
            right[index] += torch.equal(vectors, expected[index])

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert right == [10] * 4


HOLDERS = {
    "the tensor": lambda x: x,
    "a view of it": lambda x: x[3:5],
    "its numbers": lambda x: x.numpy(),
    "a view of its numbers": lambda x: x.numpy()[2:4, 7:],
    "its numbers flat, of another kind": lambda x: x.view(torch.int32).view(-1).numpy()[::3],
    "its storage": lambda x: torch.empty(0).set_(x.untyped_storage(), 0, (64,)),
    "a node that saved it": lambda x: x.requires_grad_().square(),
}


def large(value):
    """A large result, full of one value."""
    result = buffer_pool.empty((64, buffer_pool.LARGE_BYTES // 256), torch.float32)
    return result.fill_(value)


@pytest.mark.parametrize("hold", HOLDERS.values(), ids=HOLDERS.keys())
def test_large_memory_is_not_given_out_while_something_holds_it(hold):
    held = hold(large(7.0))
    before = torch.as_tensor(held).detach().clone()
    for value in range(4):
        large(value)
    assert torch.equal(torch.as_tensor(held).detach(), before)
    if isinstance(held, torch.Tensor) and held.requires_grad:
        (grad,) = torch.autograd.grad(held.sum(), held.grad_fn.next_functions[0][0].variable)
        assert (grad == 14).all()


def test_large_memory_is_used_again_and_aligned():
    first = large(1.0)
    address = first.data_ptr()
    assert address % 64 == 0
    del first
    assert large(2.0).data_ptr() == address


def test_large_results_alive_at_once_are_apart():
    alive = [large(float(value)) for value in range(4)]
    del alive[1]
    alive += [large(9.0), large(10.0)]
    assert [result.unique().item() for result in alive] == [0, 2, 3, 9, 10]


def test_large_results_of_the_operator_survive_later_ones():
    """Through the kernel: 200 windows × 50 bins × 256 channels are 10 MB."""
    features = [draw(1, 256, 12, 12, seed=seed) for seed in range(3)]
    cells = draw_cells(200, 1, 12, 12)
    first = pyramid_pool(features[0], cells)
    part, copy = first[10:20, 5:], first.clone()
    del first
    for later in features[1:]:
        pyramid_pool(later, cells)
    assert torch.equal(part, copy[10:20, 5:])


def test_a_block_given_back_while_another_is_taken_stops_nobody():
    """As when garbage is collected at that moment."""
    block = large(1.0)
    with buffer_pool._lock:
        del block
    assert large(2.0)[0, 0] == 2


def test_the_first_kernel_leaves_torchs_threads_alone():
    script = (
        "import torch; torch.set_num_threads(1); import sppnet;"
        "sppnet.pyramid_pool(torch.zeros(1, 40, 4, 4, requires_grad=True)).sum().backward();"
        "assert torch.get_num_threads() == 1, torch.get_num_threads()"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
