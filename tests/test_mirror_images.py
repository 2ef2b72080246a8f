"""Mirror images in training: pixels, boxes and maps left for right, and never apart from their photograph."""

import numpy as np
import pytest
import torch
from PIL import Image

from sppnet.boxes import mirror_boxes
from sppnet.data.detection_dataset import AnnotatedImages
from sppnet.detect.config import DetectorConfig
from sppnet.detect.label_assignment import TrainingImages
from sppnet.detect.training_proposals import propose_windows
from sppnet.features.cache import MapCache
from sppnet.features.extractor import FeatureExtractor
from sppnet.nn.trunks import load_trunk
from sppnet.progress import NullProgress
from sppnet.structures import GroundTruth

WIDTH, HEIGHT = 90, 64


@pytest.fixture
def photos(tmp_path):
    """Two photographs with their mirror images."""
    paths = []
    for index in range(2):
        pixels = np.random.default_rng(index).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
        paths.append(tmp_path / f"{index}.png")
        Image.fromarray(pixels).save(paths[-1])
    truths = (GroundTruth.of([[10, 5, 40, 60], [0, 0, 90, 64]], [1, 0]), GroundTruth.of(np.empty((0, 4)), []))
    images = AnnotatedImages(tmp_path, ("a", "b"), tuple(paths), truths, problems=())
    torch.manual_seed(0)
    extractor = FeatureExtractor(load_trunk("zf5", width=0.1), (64,))
    return TrainingImages(images, extractor, MapCache("recipe", tmp_path / "cache"), mirrored=True)


def test_mirror_images_follow_the_photographs(photos):
    assert len(photos) == 4
    assert photos.photograph_of.tolist() == [0, 1, 0, 1]
    assert photos.with_mirrors([1]) == [1, 3]
    for index in range(2):
        plain, mirrored = photos.photo(index), photos.photo(index + 2)
        assert plain.size_hw == mirrored.size_hw
        assert np.array_equal(plain.pixels[:, ::-1], mirrored.pixels)
        assert mirrored.pixels.flags.c_contiguous


def test_boxes_of_a_mirror_image_hold_the_same_pixels(photos):
    truth, mirrored = photos.truth(0), photos.truth(2)
    assert mirrored.labels.tolist() == truth.labels.tolist()
    assert mirrored.boxes.tolist() == [[50, 5, 80, 60], [0, 0, 90, 64]]
    for box, other in zip(truth.boxes.astype(int), mirrored.boxes.astype(int), strict=True):
        inside = photos.photo(0).pixels[box[1] : box[3], box[0] : box[2]]
        beyond = photos.photo(2).pixels[other[1] : other[3], other[0] : other[2]]
        assert np.array_equal(inside[:, ::-1], beyond)
    assert len(photos.truth(3)) == 0
    boxes = np.array([[1.5, 2, 30.25, 50]], np.float32)
    assert np.array_equal(mirror_boxes(mirror_boxes(boxes, WIDTH), WIDTH), boxes)
    assert mirror_boxes(boxes[:0], WIDTH).shape == (0, 4)


def test_maps_are_of_the_mirrored_pixels_and_cached_apart(photos):
    plain, mirrored = photos.photo(0).maps.maps[0], photos.photo(2).maps.maps[0]
    assert torch.equal(mirrored, photos.extractor(photos.photo(2).pixels).maps[0])
    assert not torch.equal(mirrored, plain)
    assert not torch.equal(mirrored, plain.flip(-1))  # a real mirror image, convolved
    assert torch.equal(photos.photo(2).maps.maps[0], mirrored)  # from the cache
    assert torch.equal(photos.photo(0).maps.maps[0], plain)


def test_some_photographs_keep_their_mirror_images(photos):
    second = photos.take([1])
    assert len(second) == 2
    assert np.array_equal(second.photo(1).pixels, photos.photo(3).pixels)


def test_proposals_of_a_mirror_image_are_the_mirrored_ones(photos, tmp_path):
    (tmp_path / "boxes.csv").write_text("image,x0,y0,x1,y1,score\n0.png,5,6,20,30,1\n1.png,0,0,9,9,1\n")
    config = DetectorConfig(proposals=str(tmp_path / "boxes.csv"))
    found = propose_windows(photos, None, config, NullProgress())
    assert [boxes.tolist() for boxes in found] == [
        [[5, 6, 20, 30]], [[0, 0, 9, 9]], [[70, 6, 85, 30]], [[81, 0, 90, 9]],
    ]  # fmt: skip
