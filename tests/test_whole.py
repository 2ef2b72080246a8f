"""Whole maps by the CPU kernel, against the definition."""

import numba
import pytest
import torch

from sppnet.ops import pyramid_pool, using

LEVELS = [(1, 2, 3, 6), (6, 3, 2, 1), (4, 6), (1,), (5, 3), (7, 1)]
SIZES = [(1, 1), (2, 5), (13, 13), (6, 9), (40, 23)]


def both(features, levels, grad):
    """Vectors and gradients by this kernel and by the definition."""
    results = []
    for name in ("cpu", "definition"):
        leaf = features.clone().requires_grad_()
        with using(name):
            vectors = pyramid_pool(leaf, None, levels)
            (slope,) = torch.autograd.grad(vectors, leaf, grad)
        results.append((vectors.detach(), slope))
    return results


@pytest.mark.parametrize("levels", LEVELS, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_vectors_and_gradients_are_those_of_the_definition(levels, size, dtype):
    generator = torch.Generator().manual_seed(0)
    features = torch.randint(-3, 4, (2, 5, *size), generator=generator).to(dtype)  # many equal cells
    features[0, 0, 0, 0] = float("nan")
    features[1, 1, size[0] // 2 :, size[1] // 2] = float("nan")
    features[1, 2] = float("-inf")
    grad = torch.randint(-9, 9, (2, 5 * sum(n * n for n in levels)), generator=generator).to(dtype)
    (ours, slope), (true, true_slope) = both(features, levels, grad)
    assert torch.equal(torch.nan_to_num(ours, nan=99), torch.nan_to_num(true, nan=99))
    assert torch.equal(slope, true_slope)


def test_planes_beyond_a_task_and_any_threads_give_the_same():
    features = torch.randn(3, 70, 9, 11)
    grad = torch.randn(3, 70 * 50)
    before, results = numba.get_num_threads(), []
    for threads in {1, before}:
        numba.set_num_threads(threads)
        results.append(both(features, (1, 2, 3, 6), grad)[0])
    numba.set_num_threads(before)
    vectors, slope = results[0]
    assert all(torch.equal(vectors, other[0]) and torch.equal(slope, other[1]) for other in results)
    (_, _), (true, _) = both(features, (1, 2, 3, 6), grad)
    assert torch.equal(vectors, true)
