"""A detector's ONNX file as a trunk: what is found in it, what is refused, and what its head says."""

import math
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from onnx_detectors import CLASSES, SIZE_PX, make_detector, write_detector
from sppnet.boxes import box_iou
from sppnet.data.image import read_image
from sppnet.errors import ConfigError, ModelError
from sppnet.features.cache import MapCache, recipe_of
from sppnet.features.detector_extractor import DetectorExtractor
from sppnet.features.head_boxes import COPY_IOU, MAX_BOXES, choose_boxes, join_boxes
from sppnet.features.lazy_image import LazyImage
from sppnet.nn import onnx_file
from sppnet.nn.any_trunk import is_onnx, open_trunk, restore_trunk
from sppnet.nn.coco_classes import COCO_CLASSES, known_class
from sppnet.nn.detector_trunk import longer_size
from sppnet.nn.input_convention import CONVENTIONS
from sppnet.nn.onnx_file import parse_model
from sppnet.nn.onnx_graph import cut_detector
from sppnet.nn.onnx_trunk import OnnxTrunk

SHARED = Path(__file__).parents[2] / "shared" / "data"
YOLOX = SHARED / "weights" / "yolox_nano.onnx"
needs_yolox = pytest.mark.skipif(not YOLOX.exists(), reason="needs ../shared/data/weights/yolox_nano.onnx")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_detector(tmp_path_factory.mktemp("onnx") / "tiny.onnx")


@pytest.fixture(scope="module")
def trunk(file):
    return OnnxTrunk.from_file(file)


def photograph(height=50, width=70, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


# --- the graph -------------------------------------------------------------------------------------


def test_the_head_is_found_by_its_last_convolutions(trunk):
    graph = trunk.graph
    assert [level.stride for level in graph.levels] == [8, 16]
    assert graph.channels == ((8, 6, 6, CLASSES, 4, 1),) * 2
    assert (graph.size_px, graph.dynamic) == (SIZE_PX, True)


def test_the_cut_network_says_what_the_whole_one_says(file, trunk):
    images = trunk.prepare(photograph(SIZE_PX, SIZE_PX))
    (whole,) = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]).run(
        None, {"images": images}
    )
    assert joined(trunk, images) == pytest.approx(whole[0], abs=1e-6)


def joined(trunk, images):
    """(cells, 5 + classes) as a YOLOX file gives them."""
    parts = []
    for _, _, _, logits, boxes, objectness in trunk.run(images):
        rest = 1 / (1 + np.exp(-np.concatenate([objectness, logits])))
        parts.append(np.concatenate([boxes, rest]).reshape(5 + len(logits), -1).T)
    return np.concatenate(parts)


@needs_yolox
def test_yolox_is_understood_whole():
    trunk = OnnxTrunk.from_file(YOLOX)
    assert trunk.strides == (8, 16, 32)
    assert [tap.channels for tap in trunk.taps] == [64, 128, 256]
    assert trunk.known_classes == COCO_CLASSES
    pixels = read_image(next((SHARED / "raccoon").rglob("*.jpg")))
    images = trunk.prepare(pixels[:416, :416])
    images = np.pad(images, [(0, 0), (0, 0), (0, 416 - images.shape[2]), (0, 416 - images.shape[3])])
    (whole,) = onnxruntime.InferenceSession(YOLOX, providers=["CPUExecutionProvider"]).run(
        None, {"images": images}
    )
    assert joined(trunk, images) == pytest.approx(whole[0], abs=1e-4)


def test_a_network_of_one_size_gets_padded_images(trunk):
    model = make_detector()
    flat = np.array([1, 8, SIZE_PX // 8, SIZE_PX // 8])
    model.graph.initializer.append(onnx.numpy_helper.from_array(flat, "shape"))
    relus = [node for node in model.graph.node if node.op_type == "Relu"]
    fine = relus[2].output[0]  # the map at stride 8
    for node in model.graph.node:
        node.input[:] = ["fixed" if name == fine else name for name in node.input]
    at = list(model.graph.node).index(relus[2]) + 1
    model.graph.node.insert(at, helper.make_node("Reshape", [fine, "shape"], ["fixed"]))
    fixed = OnnxTrunk("fixed.onnx", cut_detector(model, "fixed.onnx"))
    assert not fixed.graph.dynamic
    assert fixed.prepare(photograph(50, 40)).shape == (1, 3, SIZE_PX, SIZE_PX)
    with pytest.raises(ModelError, match=f"up to {SIZE_PX}×{SIZE_PX}; got 80×40"):
        fixed.prepare(photograph(80, 40))
    with pytest.raises(ConfigError, match="up to 64 pixels a side"):
        DetectorExtractor(fixed, (96,))
    assert trunk.prepare(photograph(50, 40)).shape == (1, 3, 64, 48)


# --- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no ONNX file"),
        (b"<!doctype html><title>Sign in</title>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "LFS"),
        (make_detector().SerializeToString()[:2000], "damaged|no ONNX file"),
    ],
)
def test_what_is_no_onnx_file_is_named(tmp_path, content, message):
    path = tmp_path / "wrong.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=message):
        OnnxTrunk.from_file(path)


def test_a_missing_or_enormous_file_is_named(tmp_path, file, monkeypatch):
    with pytest.raises(ModelError, match="cannot be read"):
        OnnxTrunk.from_file(tmp_path / "missing.onnx")
    monkeypatch.setattr(onnx_file, "MAX_BYTES", 1000)
    with pytest.raises(ModelError, match="networks of up to"):
        OnnxTrunk.from_file(file)


def refusal(model):
    with pytest.raises(ModelError) as caught:
        cut_detector(parse_model(model.SerializeToString(), "tiny.onnx"), "tiny.onnx")
    return str(caught.value)


def test_weights_in_another_file_are_not_opened():
    model = make_detector()
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL
    entry = model.graph.initializer[0].external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"
    assert "another file, which is not opened" in refusal(model)


def test_weights_that_are_no_numbers_are_refused():
    model = make_detector()
    weight = next(one for one in model.graph.initializer if len(one.dims) == 4)
    values = onnx.numpy_helper.to_array(weight).copy()
    values.flat[3] = np.nan
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    assert f"tiny.onnx holds NaN in {weight.name}" in refusal(model)
    weight.raw_data = weight.raw_data[:5]
    assert f"tiny.onnx is damaged: {weight.name} cannot be read" in refusal(model)


@pytest.mark.parametrize("way", ["a number for weights", "no weights"])
def test_a_convolution_without_weights_is_refused(way):
    model = make_detector()
    node = [node for node in model.graph.node if node.op_type == "Conv"][-1]
    if way == "no weights":
        del node.input[1:]
    else:
        weight = next(one for one in model.graph.initializer if one.name == node.input[1])
        weight.CopyFrom(onnx.numpy_helper.from_array(np.float32(0), weight.name))
    assert "onnxruntime does not take the network" in refusal(model)


def test_operations_of_others_and_enormous_constants_are_refused():
    model = make_detector()
    model.graph.node[5].domain = "com.example"
    assert "operations of com.example" in refusal(model)
    model = make_detector()
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1 << 31]), "huge"))
    model.graph.node.insert(0, helper.make_node("ConstantOfShape", ["huge"], ["zeros"]))
    scaled = model.graph.node[1]
    scaled.input[1] = "zeros"
    assert "uses ConstantOfShape" in refusal(model)


def test_a_classifier_is_told_from_a_detector():
    nodes = [
        helper.make_node("Conv", ["images", "w"], ["c"], kernel_shape=[3, 3]),
        helper.make_node("GlobalAveragePool", ["c"], ["p"]),
        helper.make_node("Flatten", ["p"], ["out"]),
    ]
    weights = [onnx.numpy_helper.from_array(np.zeros((7, 3, 3, 3), np.float32), "w")]
    given = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 64, 64])
    taken = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "classifier", [given], [taken], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    assert "ends in 1 convolutions, of 7 numbers; a detector like YOLOX was expected" in refusal(model)


def test_two_inputs_and_other_shapes_are_refused():
    model = make_detector()
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))
    assert "this one has 2" in refusal(model)
    model = make_detector()
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1
    assert "images of shape (1, 3, height, width) were expected" in refusal(model)


def test_no_file_is_opened_that_a_model_s_header_names(tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("hunter2 is the word")
    with pytest.raises(ModelError) as caught:
        parse_model(b"damaged", str(secret))
    assert "hunter2" not in str(caught.value)


# --- the trunk -------------------------------------------------------------------------------------


def test_a_trunk_is_built_again_from_its_spec_and_content(trunk):
    again = restore_trunk(trunk.spec, trunk.state_dict())
    images = trunk.prepare(photograph())
    for level, other in zip(trunk.run(images), again.run(images), strict=True):
        for one, two in zip(level, other, strict=True):
            assert np.array_equal(one, two)
    assert (again.spec, again.known_classes) == (trunk.spec, trunk.known_classes)


def test_names_of_classes_come_from_the_file_or_are_counted(tmp_path, trunk):
    assert trunk.known_classes == tuple(f"class {number}" for number in range(CLASSES))
    for names in ('{"0": "a", "1": "b", "2": "c", "3": "d", "4": "e"}', '["a", "b", "c", "d", "e"]'):
        assert OnnxTrunk.from_file(write_detector(tmp_path / "n.onnx", names=names)).known_classes == (
            *"abcde",
        )
    with pytest.raises(ModelError, match="5 classes apart; 1 names were given"):
        OnnxTrunk.from_file(write_detector(tmp_path / "few.onnx", names='["a"]'))


def test_pixels_are_ordered_scaled_and_padded_as_the_network_was_trained(file):
    image = photograph(10, 20)
    plain = OnnxTrunk.from_file(file).prepare(image)
    assert plain.shape == (1, 3, 16, 32)
    assert np.array_equal(plain[0, :, :10, :20], image[..., ::-1].transpose(2, 0, 1))
    assert (plain[0, :, 10:] == 114).all()
    assert (plain[0, :, :, 20:] == 114).all()
    legacy = OnnxTrunk.from_file(file, "yolox-legacy").prepare(image)
    how = CONVENTIONS["yolox-legacy"]
    assert legacy[0, :, :10, :20] == pytest.approx(
        ((image / 255 - how.mean) / how.std).transpose(2, 0, 1), abs=1e-5
    )
    with pytest.raises(ConfigError, match="did you mean"):
        OnnxTrunk.from_file(file, "yolos")


def test_a_trunk_is_opened_by_the_name_of_its_file(file):
    assert is_onnx(str(file))
    assert is_onnx("X.ONNX")
    assert not is_onnx("mobilenet_v2:14+18")
    assert isinstance(open_trunk(str(file)), OnnxTrunk)
    assert open_trunk("zf5", width=0.1).name == "zf5"


@pytest.mark.parametrize(
    ("name", "meant"),
    [("person", "person"), ("Pedestrian", "person"), ("motorbike", "motorcycle"), ("TV", "tv"),
     ("dining_table", "dining table"), ("diningtable", "dining table"), ("raccoon", None), ("", None)],
)  # fmt: skip
def test_classes_are_known_by_name(name, meant):
    index = known_class(name, COCO_CLASSES)
    assert (None if index is None else COCO_CLASSES[index]) == meant


def test_a_class_named_by_signs_alone_is_no_other():
    assert known_class("raccoon", ("?", "cat")) is None
    assert known_class("!", ("?", "cat")) is None


# --- what the head says ----------------------------------------------------------------------------


def plain_cells(trunk, levels):
    """Box, objectness and vector of every cell, one at a time."""
    for index, (level, stride) in enumerate(zip(levels, trunk.strides, strict=True)):
        _, of_class, of_box, logits, boxes, objectness = level
        for y in range(boxes.shape[1]):
            for x in range(boxes.shape[2]):
                dx, dy, log_w, log_h = boxes[:, y, x].astype(float)
                half_w, half_h = (math.exp(min(max(one, -10), 8)) * stride / 2 for one in (log_w, log_h))
                cx, cy = (x + dx) * stride, (y + dy) * stride
                log = [-0.25 * math.log1p(math.exp(-one)) for one in (*logits[:, y, x], *objectness[:, y, x])]
                sizes = [math.log(max(half, 1)) - 3 for half in (half_w, half_h)]
                at = [float(index == other) for other in range(len(trunk.strides))]
                vector = [*of_class[:, y, x], *of_box[:, y, x], *log, *at, *sizes]
                yield (cx - half_w, cy - half_h, cx + half_w, cy + half_h), objectness[0, y, x], vector


def test_boxes_and_vectors_are_the_definitions(trunk):
    image = photograph(48, 64)
    levels = trunk.run(trunk.prepare(image))
    head = choose_boxes(trunk.look(image), np.full(4, 2, np.float32), (24, 32))
    cells = sorted(plain_cells(trunk, levels), key=lambda cell: -cell[1])
    kept, vectors = [], []
    for box, _, vector in cells:
        x0, y0 = (min(max(one / 2, 0), side - 1) for one, side in zip(box[:2], (32, 24), strict=True))
        x1, y1 = (
            min(max(one / 2, low + 1), side)
            for one, low, side in zip(box[2:], (x0, y0), (32, 24), strict=True)
        )
        if not kept or box_iou([[x0, y0, x1, y1]], kept).max() <= COPY_IOU:
            kept.append([x0, y0, x1, y1])
            vectors.append(vector)
    assert len(vectors[0]) == trunk.layout.length
    assert head.boxes == pytest.approx(np.array(kept), abs=1e-3)
    assert head.vectors == pytest.approx(np.array(vectors), abs=5e-3)


def test_an_image_keeps_its_shape_and_its_boxes_their_place(trunk):
    extractor = DetectorExtractor(trunk)
    maps = extractor(photograph(100, 150))
    assert maps.sizes_hw == ((42, 64),)
    assert maps.size_hw == (100, 150)
    assert [tuple(tap.maps[0].shape) for tap in maps.taps] == [(8, 6, 8), (8, 3, 4)]
    assert 0 < len(maps.head.boxes) <= MAX_BOXES
    assert (maps.head.boxes >= 0).all()
    assert (maps.head.boxes <= [150, 100, 150, 100]).all()
    with pytest.raises(ConfigError, match="not fine-tuned"):
        extractor.with_gradients(photograph())


@pytest.mark.parametrize("size", [(1, 1), (1, 400), (300, 2), (64, 64)])
def test_any_size_goes_through(trunk, size):
    assert DetectorExtractor(trunk)(photograph(*size)).head.boxes.shape[1] == 4
    assert longer_size(size, 64)[int(np.argmax(size))] == 64


def test_boxes_of_several_scales_are_joined(trunk):
    image = photograph(60, 80)
    one, other = (DetectorExtractor(trunk, (scale,))(image).head for scale in (64, 96))
    both = DetectorExtractor(trunk, (64, 96))(image)
    expected = join_boxes([one, other], trunk.layout)
    assert np.array_equal(both.head.boxes, expected.boxes)
    assert len(both.maps) == 2
    assert {tuple(box) for box in both.head.boxes} <= {tuple(box) for box in (*one.boxes, *other.boxes)}


def test_the_cache_gives_back_what_was_computed(trunk, tmp_path):
    from PIL import Image

    path = tmp_path / "photo.png"
    Image.fromarray(photograph(60, 80)).save(path)
    extractor = DetectorExtractor(trunk)
    cache = MapCache(recipe_of(extractor), tmp_path / "maps")
    fresh = LazyImage(path, extractor).maps
    first, second = (LazyImage(path, extractor, cache).maps for _ in range(2))
    for maps in (first, second):
        assert np.array_equal(maps.head.boxes, fresh.head.boxes)
        assert np.array_equal(maps.head.vectors, fresh.head.vectors)
        assert all(torch.equal(a.maps[0], b.maps[0]) for a, b in zip(maps.taps, fresh.taps, strict=True))
    assert recipe_of(DetectorExtractor(trunk, (64,))) != recipe_of(DetectorExtractor(trunk, (96,)))
