"""Networks made bad: ONNX files with bytes, nodes, attributes, weights and shapes changed at random.

python tests/onnx_mutants.py --minutes 10 tries them in a process of its own and prints what fails; half of
them are made of networks with other heads than YOLOX's.
"""

import argparse
import multiprocessing
import resource
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto

from onnx_detectors import make_detector
from onnx_families import NanoDet, NanoDetPlus, PicoDet, Yolov5, Yolov8, make_family, write_family
from sppnet.errors import SppnetError
from sppnet.features.detector_extractor import DetectorExtractor
from sppnet.nn.any_trunk import restore_trunk
from sppnet.nn.onnx_trunk import OnnxTrunk

MEMORY = 12 << 30
SLOW_SECONDS = 20
NUMBERS = (0, -1, 1, 2, 3, 7, 64, 1 << 16, (1 << 31) - 1, 1 << 31, -(1 << 31), (1 << 62), -(1 << 63))
KINDS = (
    "Conv", "Relu", "Sigmoid", "Concat", "Reshape", "Transpose", "Mul", "Gather", "Slice", "Resize", "Pad",
    "Loop", "If", "ConstantOfShape", "NonMaxSuppression", "Split", "MaxPool", "Nothing", "Exp", "Tile",
)  # fmt: skip


NAMES = "", '["a"]', '{"0": "x"}', "[", "7", "{0: 'a', 1: 'b'}", "{" * 999, "((1,),)", "b'a'", "{1}"


def mutant(rng: np.random.Generator, others: Sequence[bytes] = ()) -> bytes:
    """A file with one to four things changed. others: files to begin with in half of the cases."""
    if others and rng.random() < 0.5:
        model = onnx.ModelProto.FromString(_pick(others, rng))
        entry = model.metadata_props.add()
        entry.key, entry.value = "names", str(rng.choice(NAMES))
    else:
        model = make_detector(int(rng.integers(3)), names=str(rng.choice(NAMES)))
    for _ in range(rng.integers(0, 4)):
        rng.choice(CHANGES)(model, rng)
    content = model.SerializeToString()
    return damage(content, rng) if rng.random() < 0.3 else content


def damage(content: bytes, rng: np.random.Generator) -> bytes:
    """Bytes flipped, cut out or cut off."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 6)):
        place = int(rng.integers(len(data)))
        way = rng.integers(3)
        if way == 0:
            data[place] = int(rng.integers(256))
        elif way == 1:
            del data[place : place + int(rng.integers(1, 40))]
        elif rng.random() < 0.3:
            del data[place:]
        if not data:
            break
    return bytes(data)


def _pick(items, rng):
    return items[int(rng.integers(len(items)))]


def _change_kind(model, rng):
    _pick(model.graph.node, rng).op_type = str(rng.choice(KINDS))


def _change_domain(model, rng):
    _pick(model.graph.node, rng).domain = str(rng.choice(["com.microsoft", "ai.onnx.ml", "x"]))


def _change_input(model, rng):
    node = _pick(model.graph.node, rng)
    names = [*(name for one in model.graph.node for name in one.output), "images", "", "nothing"]
    names += [one.name for one in model.graph.initializer]
    if node.input:
        node.input[int(rng.integers(len(node.input)))] = str(rng.choice(names))


def _change_output(model, rng):
    node = _pick(model.graph.node, rng)
    if node.output:
        node.output[0] = str(
            rng.choice([*(one.output[0] for one in model.graph.node if one.output), "", "n"])
        )


def _drop_node(model, rng):
    del model.graph.node[int(rng.integers(len(model.graph.node)))]


def _swap_nodes(model, rng):
    one, other = (int(number) for number in rng.integers(len(model.graph.node), size=2))
    first, second = onnx.NodeProto(), onnx.NodeProto()
    first.CopyFrom(model.graph.node[one])
    second.CopyFrom(model.graph.node[other])
    model.graph.node[one].CopyFrom(second)
    model.graph.node[other].CopyFrom(first)


def _change_attribute(model, rng):
    node = _pick(model.graph.node, rng)
    if not node.attribute:
        node.attribute.append(onnx.helper.make_attribute("axis", int(rng.choice(NUMBERS))))
        return
    attribute = _pick(node.attribute, rng)
    if attribute.ints:
        attribute.ints[int(rng.integers(len(attribute.ints)))] = int(rng.choice(NUMBERS))
    elif rng.random() < 0.5:
        attribute.i = int(rng.choice(NUMBERS))
    else:
        attribute.type = int(rng.integers(0, 15))


def _change_weight(model, rng):
    weight = _pick(model.graph.initializer, rng)
    way = rng.integers(5)
    if way == 0:
        weight.data_type = int(rng.integers(0, 24))
    elif way == 1 and weight.dims:
        weight.dims[int(rng.integers(len(weight.dims)))] = int(rng.choice(NUMBERS))
    elif way == 2:
        weight.raw_data = weight.raw_data[: int(rng.integers(len(weight.raw_data) + 1))]
    elif way == 3:
        size = len(weight.raw_data) // 4
        weight.raw_data = np.full(size, rng.choice([np.nan, np.inf, 1e38, -1e38, 0]), np.float32).tobytes()
    else:
        weight.name = str(rng.choice(["", "images", "again"]))


def _change_shape(model, rng):
    dims = model.graph.input[0].type.tensor_type.shape.dim
    if rng.random() < 0.2:
        del dims[int(rng.integers(len(dims))) :]
    elif dims:
        _pick(dims, rng).dim_value = int(rng.choice([0, -1, 1, 3, 31, 100, 1 << 20, 1 << 40]))


def _change_input_type(model, rng):
    model.graph.input[0].type.tensor_type.elem_type = int(rng.integers(0, 20))


def _change_version(model, rng):
    if rng.random() < 0.5:
        model.ir_version = int(rng.choice([0, 1, 3, 11, 99, 1 << 40]))
    elif model.opset_import:
        model.opset_import[0].version = int(rng.choice([0, 1, 9, 22, 99, 1 << 40]))
    else:
        del model.opset_import[:]


def _drop_output(model, rng):
    if model.graph.output and rng.random() < 0.5:
        del model.graph.output[:]
    else:
        model.graph.output.add().name = str(rng.choice(["", "images", "relu3", "nothing"]))


def _outside(model, rng):
    weight = _pick(model.graph.initializer, rng)
    weight.data_location = TensorProto.EXTERNAL


CHANGES = (
    _change_kind, _change_domain, _change_input, _change_input, _change_output, _drop_node, _swap_nodes,
    _change_attribute, _change_attribute, _change_attribute, _change_weight, _change_weight, _change_shape,
    _change_input_type, _change_version, _drop_output, _outside,
)  # fmt: skip


def attempt(content: bytes, folder: Path) -> str:
    """What becomes of a file: "refused", "maps" or "boxes"; raises whatever is no refusal of ours."""
    path = folder / "net.onnx"
    path.write_bytes(content)
    try:
        trunk = OnnxTrunk.from_file(path)
        image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        maps = DetectorExtractor(trunk, (min(trunk.size_px, 64),))(image)
        again = restore_trunk(trunk.spec, trunk.state_dict())
    except SppnetError as error:
        return "refused" if str(error) else "silent"
    assert again.spec == trunk.spec
    for tap, known in zip(maps.taps, trunk.taps, strict=True):
        assert tap.maps[0].shape[0] == known.channels
        assert np.isfinite(tap.maps[0].numpy()).all(), "maps are not finite"
    if maps.head is None:
        return "maps"
    assert np.isfinite(maps.head.boxes).all(), "boxes are not finite"
    assert np.isfinite(maps.head.vectors).all(), "vectors are not finite"
    return "boxes"


# --- at length -------------------------------------------------------------------------------------


def _work(seed: int, deadline: float, folder: Path, found: "multiprocessing.Queue") -> None:
    others = [path.read_bytes() for path in sorted((folder / "families").glob("*.onnx"))]
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    results: Counter[str] = Counter()
    while time.time() < deadline and sum(results.values()) < 400:
        (folder / "seed").write_text(str(seed))
        began = time.time()
        try:
            results[attempt(mutant(np.random.default_rng(seed), others), folder)] += 1
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            found.put((f"{type(error).__name__} {last.filename}:{last.lineno}", seed, str(error)[:300]))
            results["found"] += 1
        if time.time() - began > SLOW_SECONDS:
            found.put(("slow", seed, f"{time.time() - began:.0f} s"))
        seed += 1
    found.put(("done", seed, dict(results)))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    seed = given.seed
    totals: Counter[str] = Counter()
    places: dict[str, tuple[int, str]] = {}
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "families").mkdir()
        for network in (NanoDetPlus, NanoDet, PicoDet, Yolov8, Yolov5):
            write_family(make_family(network), Path(folder, "families", f"{network.__name__}.onnx"), 64)
        deadline = time.time() + 60 * given.minutes
        while time.time() < deadline:
            found = context.Queue()
            worker = context.Process(target=_work, args=(seed, deadline, Path(folder), found))
            worker.start()
            worker.join(max(1, deadline - time.time()) + 60)
            if worker.is_alive():
                worker.kill()
            while not found.empty():
                place, at, told = found.get()
                if place == "done":
                    totals.update(told)
                elif place not in places:
                    places[place] = (at, told)
                    print(place, at, told, flush=True)
            crashed = worker.exitcode != 0
            seed = int(Path(folder, "seed").read_text()) + 1
            if crashed:
                totals["crashed"] += 1
                print("crashed", worker.exitcode, "at", seed - 1, flush=True)
    print(dict(totals), "up to seed", seed)


if __name__ == "__main__":
    main()
