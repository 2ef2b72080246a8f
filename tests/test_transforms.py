"""Views: what they show, to the pixel, and what stays the same when the size or the loader changes."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional

from sppnet.data import transforms
from sppnet.data.transforms import (
    LIGHTING_VECTORS,
    alter_lighting,
    crop,
    mirror,
    resize_shorter,
    resize_to,
    sample_rng,
    shorter_size,
    to_tensor,
    training_view,
)
from sppnet.errors import ConfigError, GeometryError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8)


def coordinates(height: int, width: int) -> np.ndarray:
    """Every pixel says where it is: (row, column, 0)."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, 0 * rows], axis=2).astype(np.uint8)


# --- resizing ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size_hw", "scale_px", "expected"),
    [
        pytest.param((375, 500), 256, (256, 341), id="a landscape: 341.33"),
        pytest.param((500, 375), 256, (341, 256), id="a portrait"),
        pytest.param((100, 100), 256, (256, 256), id="a square is scaled up"),
        pytest.param((1, 1), 224, (224, 224), id="a single pixel"),
        pytest.param((20, 3000), 224, (224, 896), id="3000×20 is squeezed to 4:1"),
        pytest.param((3000, 20), 224, (896, 224), id="20×3000 is squeezed to 1:4"),
        pytest.param((100, 400), 256, (256, 1024), id="4:1 is kept"),
    ],
)
def test_the_shorter_side_gets_its_scale(size_hw, scale_px, expected):
    assert shorter_size(size_hw, scale_px) == expected
    scaled = resize_shorter(noise(*size_hw), scale_px)
    assert scaled.shape == (*expected, 3)
    assert scaled.dtype == np.uint8
    assert resize_shorter(scaled, scale_px) is scaled


@pytest.mark.parametrize("size_hw", [(30, 40), (60, 25), (7, 7)])
def test_resizing_agrees_with_torchvision(size_hw):
    image = noise(40, 50)
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    expected = functional.resize(tensor, list(size_hw), antialias=True).permute(1, 2, 0).numpy()
    assert abs(resize_to(image, size_hw).astype(int) - expected).max() <= 1


def test_a_crop_is_its_box():
    assert crop(coordinates(50, 60), (10, 20, 40, 45))[[0, -1], [0, -1]].tolist() == [
        [20, 10, 0],
        [44, 39, 0],
    ]
    with pytest.raises(GeometryError, match="inside the image of 50×60"):
        crop(coordinates(50, 60), (10, 20, 61, 45))


def test_an_image_has_at_least_one_pixel():
    with pytest.raises(GeometryError, match="got 0×5"):
        resize_to(noise(4, 4), (0, 5))


# --- colour --------------------------------------------------------------------------------------


def test_the_principal_components_are_orthonormal():
    assert np.allclose(LIGHTING_VECTORS.T @ LIGHTING_VECTORS, np.eye(3), atol=1e-3)


@pytest.mark.parametrize(
    ("weights", "shift"),
    [
        # 255 × eigenvalue × eigenvector, worked out by hand from the published table
        pytest.param((0, 0, 0), (0, 0, 0), id="no weight, no change"),
        pytest.param((1, 0, 0), (-31, -32, -32), id="the first component is brightness"),
        pytest.param((0, -10, 0), (-34, 0, 33), id="the second is blue against red"),
    ],
)
def test_lighting_adds_one_colour(weights, shift):
    image = noise(6, 5)
    expected = np.clip(image.astype(int) + shift, 0, 255)
    assert np.array_equal(alter_lighting(image, np.array(weights)), expected)


# --- training views ------------------------------------------------------------------------------


def plain_view(image, rng, **options):
    """A training view without colour altering, at its own size."""
    return training_view(image, 20, rng, scale_px=30, view_px=20, lighting_sigma=0, **options)


@pytest.mark.parametrize("size_hw", [(5, 4), (1, 1), (1, 3), (4, 1)], ids=str)
def test_a_mirror_image_has_its_columns_from_right_to_left(size_hw):
    image = noise(*size_hw)
    np.testing.assert_array_equal(mirror(image), image[:, ::-1])


def test_five_positions_and_their_flips_are_equally_likely():
    image = coordinates(30, 50)
    views = [plain_view(image, sample_rng(0, 0, i)) for i in range(2000)]
    first_pixels = [tuple(view[0, 0, :2].tolist()) for view in views]
    # Corners of the entire image and its centre, by their first pixel; a flipped view starts at its right.
    places = [(0, 0), (0, 30), (10, 0), (10, 30), (5, 15)]
    expected = [(row, column + flipped) for row, column in places for flipped in (0, 19)]
    counts = [first_pixels.count(place) for place in expected]
    assert sum(counts) == 2000
    assert 130 < min(counts) <= max(counts) < 270  # 200 each, with a deviation of 13
    assert all(abs(view[0, 0].astype(int) - view[0, -1])[1] == 19 for view in views)


def test_random_positions_reach_every_place():
    image = coordinates(30, 33)
    corners = {
        tuple(plain_view(image, sample_rng(1, 0, i), crop_rule="random", flip=False)[0, 0, :2].tolist())
        for i in range(3000)
    }
    assert corners == {(row, column) for row in range(11) for column in range(14)}


def test_a_smaller_input_shows_the_same_content():
    image = resize_to(noise(9, 12), (300, 400))  # smooth, so that sizes can be compared
    large, small = (training_view(image, size, sample_rng(7, 1, 2)) for size in (224, 180))
    assert large.shape == (224, 224, 3)
    assert np.array_equal(resize_to(large, (180, 180)), small)


@pytest.mark.parametrize("size_hw", [(1, 1), (20, 3000), (256, 256), (224, 500)])
def test_every_image_gives_training_views(size_hw):
    for rule in ("five", "random"):
        view = training_view(noise(*size_hw), 180, sample_rng(0, 0, 0), crop_rule=rule)
        assert view.shape == (180, 180, 3)


def test_draws_depend_on_seed_epoch_and_index_alone():
    draws = {
        (seed, epoch, index): sample_rng(seed, epoch, index).random()
        for seed in range(3)
        for epoch in range(3)
        for index in range(3)
    }
    assert len(set(draws.values())) == 27
    assert sample_rng(2, 1, 0).random() == draws[2, 1, 0]


def test_an_unknown_crop_is_refused():
    with pytest.raises(ConfigError, match="five or random; got 'ten'"):
        plain_view(noise(30, 30), sample_rng(0, 0, 0), crop_rule="ten")


# --- test views ----------------------------------------------------------------------------------


def test_the_central_crop_is_the_middle_of_the_scaled_image():
    image = noise(256, 300)
    assert np.array_equal(transforms.test_view(image, "crop"), image[16:240, 38:262])


@pytest.mark.parametrize("size_hw", [(1, 1), (20, 3000), (375, 500)])
@pytest.mark.parametrize(
    ("view", "options", "shape_of"),
    [
        pytest.param("crop", {}, lambda h, w: (224, 224), id="crop: 224"),
        pytest.param("crop", {"size_px": 180}, lambda h, w: (180, 180), id="crop: resized to the input"),
        pytest.param("warp", {"size_px": 96}, lambda h, w: (96, 96), id="warp: the input size"),
        pytest.param("full", {"scale_px": 64}, lambda h, w: shorter_size((h, w), 64), id="full: all of it"),
    ],
)
def test_every_image_gives_test_views(size_hw, view, options, shape_of):
    shown = transforms.test_view(noise(*size_hw), view, **options)
    assert shown.shape == (*shape_of(*size_hw), 3)


@pytest.mark.parametrize(
    ("view", "options", "error", "message"),
    [
        pytest.param("ten", {}, ConfigError, "crop, full, warp", id="an unknown view"),
        pytest.param("crop", {"scale_px": 200}, GeometryError, "do not fit", id="a scale below the view"),
    ],
)
def test_views_that_cannot_be_are_refused(view, options, error, message):
    with pytest.raises(error, match=message):
        transforms.test_view(noise(30, 30), view, **options)


# --- tensors -------------------------------------------------------------------------------------


def test_tensors_are_normalised_like_torchvision():
    image = noise(11, 13)
    expected = functional.normalize(
        functional.to_dtype(functional.to_image(Image.fromarray(image)), torch.float32, scale=True),
        list(MEAN),
        list(STD),
    )
    tensor = to_tensor(image[:, ::-1], MEAN, STD)
    assert tensor.dtype == torch.float32
    assert tensor.is_contiguous()
    torch.testing.assert_close(tensor, expected.flip(2), rtol=0, atol=2e-6)


def test_normalisation_needs_three_numbers():
    with pytest.raises(ConfigError, match="3 numbers each"):
        to_tensor(noise(2, 2), (0.5,), (0.5,))
