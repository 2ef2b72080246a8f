"""The Triton kernel against the definition: in Triton's interpreter, and on a GPU where there is one.

Triton reads TRITON_INTERPRET when it is imported, so the interpreter runs in a process of its own:
this file, as a script.
"""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch

from sppnet.ops import choose, pyramid_pool, reference, using

DTYPES = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
}
NAN = float("nan")

needs_triton = pytest.mark.skipif(not importlib.util.find_spec("triton"), reason="Triton is not installed")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


def draw_windows(count: int, batch: int, height: int, width: int) -> torch.Tensor:
    """(count, 5): the whole last map, one cell, and others anywhere."""
    generator = torch.Generator().manual_seed(count)
    rows = [[batch - 1, 0, 0, width, height], [0, width - 1, height - 1, width, height]]
    for _ in range(count - 2):
        x0, y0 = (int(torch.randint(side, (), generator=generator)) for side in (width, height))
        x1 = x0 + 1 + int(torch.randint(width - x0, (), generator=generator))
        y1 = y0 + 1 + int(torch.randint(height - y0, (), generator=generator))
        rows.append([int(torch.randint(batch, (), generator=generator)), x0, y0, x1, y1])
    return torch.tensor(rows)


def draw_features(kind: str, batch: int, channels: int, height: int, width: int) -> torch.Tensor:
    """Whole numbers with many ties, so that sums are the same in any order; some are NaN and infinite."""
    generator = torch.Generator().manual_seed(channels)
    features = torch.randint(-3, 4, (batch, channels, height, width), generator=generator).to(DTYPES[kind])
    features[0, 0, 0, 0], features[-1, -1, -1, 0] = NAN, float("inf")
    features[-1, 0] = float("-inf")
    return features


def check(kind: str, layout: str, channels: int, levels: tuple[int, ...], device: str = "cpu") -> None:
    """Both directions, bit for bit."""
    from sppnet.ops import triton_impl

    features = draw_features(kind, 2, channels, 4, 5)
    if layout == "channels_last":
        features = features.to(memory_format=torch.channels_last)
    if layout == "strided":
        features = features.repeat_interleave(2, 3)[:, :, :, ::2].transpose(2, 3)
    cells = draw_windows(4, 2, *features.shape[2:])
    expected = reference.pool(features, cells, levels)
    grad = torch.randint(-4, 5, expected.shape, generator=torch.Generator().manual_seed(1)).to(features.dtype)
    expected_grad = reference.pool_backward(grad, features, cells, levels)
    there = [x.to(device) for x in (features, cells, grad)]
    pooled = triton_impl.pool(*there[:2], levels).cpu()
    result = triton_impl.pool_backward(there[2], *there[:2], levels).cpu()
    torch.testing.assert_close(pooled, expected, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(result, expected_grad, rtol=0, atol=0)
    assert pooled.dtype == result.dtype == features.dtype
    assert result.is_contiguous()


def check_nothing(device: str = "cpu") -> None:
    """No windows, and no maps."""
    from sppnet.ops import triton_impl

    for batch in (0, 2):
        features = torch.zeros(batch, 3, 4, 4, device=device)
        none = torch.zeros(0, 5, dtype=torch.int64, device=device)
        vectors = triton_impl.pool(features, none, (1, 2))
        assert vectors.shape == (0, 15)
        assert triton_impl.pool_backward(vectors, features, none, (1, 2)).shape == features.shape


CASES = [
    pytest.param("float32", "contiguous", 3, (1, 2, 3, 6), id="float32, the paper's levels"),
    pytest.param("float32", "channels_last", 2, (3, 2), id="float32, channels last"),
    pytest.param("float32", "strided", 2, (2, 1), id="float32, strided and transposed"),
    pytest.param("float32", "contiguous", 65, (1,), id="float32, one channel more than a block"),
    pytest.param("float16", "contiguous", 2, (1, 2), id="float16"),
    pytest.param("bfloat16", "contiguous", 2, (1, 2), id="bfloat16"),
    pytest.param("float64", "contiguous", 2, (1, 2), id="float64"),
]


def interpret_all() -> None:
    """What the process of the interpreter does."""
    for case in CASES:
        check(*case.values)
        print("passed:", case.id)
    check_nothing()
    print("passed: nothing")


@needs_triton
@pytest.mark.skipif(sys.platform == "win32", reason="Triton has no interpreter on Windows")
def test_the_kernel_equals_the_definition_in_the_interpreter():
    run = subprocess.run(
        [sys.executable, "-W", "ignore", __file__],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    passed = [line.removeprefix("passed: ") for line in run.stdout.splitlines()]
    assert passed == [*(case.id for case in CASES), "nothing"]


@needs_gpu
@needs_triton
@pytest.mark.parametrize(("kind", "layout", "channels", "levels"), CASES)
def test_the_kernel_equals_the_definition_on_a_gpu(kind, layout, channels, levels):
    check(kind, layout, channels, levels, device="cuda")


@needs_gpu
@needs_triton
def test_nothing_is_pooled_on_a_gpu():
    check_nothing("cuda")


@needs_gpu
@needs_triton
def test_a_gpu_agrees_with_the_cpu_on_many_windows():
    features = torch.randn(2, 96, 42, 56, generator=torch.Generator().manual_seed(0)).relu()
    cells = draw_windows(300, 2, 42, 56)
    assert torch.equal(pyramid_pool(features.cuda(), cells).cpu(), pyramid_pool(features, cells))


@needs_gpu
@needs_triton
def test_gradients_on_a_gpu_are_the_same_on_every_run():
    features = torch.randn(2, 33, 20, 20, generator=torch.Generator().manual_seed(0)).relu().cuda()
    cells = draw_windows(200, 2, 20, 20).cuda()
    grad = torch.randn(200, 33 * 50, generator=torch.Generator().manual_seed(1)).cuda()

    def gradient():
        leaf = features.clone().requires_grad_()
        return torch.autograd.grad(pyramid_pool(leaf, cells), leaf, grad)[0]

    first = gradient()
    assert all(torch.equal(gradient(), first) for _ in range(3))


@needs_gpu
def test_whole_numbers_on_a_gpu_go_through_torch():
    """Through float32 they would be rounded."""
    features = (torch.arange(12).view(1, 1, 3, 4) + (1 << 40)).cuda()
    assert choose(features).name == "torch"
    assert pyramid_pool(features, levels=(1,)).item() == (1 << 40) + 11


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_without_a_gpu_its_kernel_cannot_be_forced():
    from sppnet.errors import ConfigError

    with using("gpu"), pytest.raises(ConfigError, match="forced, but features are on cpu"):
        pyramid_pool(torch.zeros(1, 1, 2, 2))


if __name__ == "__main__":
    interpret_all()
