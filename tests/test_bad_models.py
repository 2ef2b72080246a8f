"""Model files cut, retyped, reshaped and hostile: refused by name, whatever they hold."""

import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from damage import flips, tears, writes
from models import model_bytes, model_parts
from pictures import pictures
from reading_damaged import READERS, place
from sppnet.classify.classifier import Classifier
from sppnet.detect.detector import Detector
from sppnet.errors import ModelError
from sppnet.nn.model_file import load_model
from test_bad_images import run, snapshot

KINDS = {"classifier": Classifier, "detector": Detector}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("models")


def header_of(content: bytes) -> tuple[int, dict[str, Any]]:
    """Where the tensors begin, and what safetensors says of them."""
    end = 8 + struct.unpack("<Q", content[:8])[0]
    return end, json.loads(content[8:end])


def refused(kind: str, path: Path) -> str:
    with pytest.raises(ModelError, match=path.name) as caught:
        KINDS[kind].load(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_cut_at_any_boundary_is_refused(kind, home, tmp_path):
    content = model_bytes(kind, home)
    end, entries = header_of(content)
    offsets = [
        end + side for name, e in entries.items() if name != "__metadata__" for side in e["data_offsets"]
    ]
    places = {0, 1, 7, 8, 9, end // 2, *(at + step for at in (end, *offsets) for step in (-1, 0, 1))}
    cut = sorted(place for place in places if 0 <= place < len(content))
    assert len(cut) > 20
    for length in cut:
        refused(kind, place(tmp_path, "cut.safetensors", content[:length]))
    refused(kind, place(tmp_path, "long.safetensors", content + b"\0"))


DTYPES = (
    torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int8, torch.uint8, torch.bool,
    torch.complex64, torch.float8_e4m3fn,
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_floats_of_any_width_are_read_and_other_numbers_refused(kind, dtype, home, tmp_path):
    header, tensors = model_parts(kind, home)
    image = np.zeros((20, 24, 3), np.uint8)
    for name in tensors:
        changed = {**tensors, name: tensors[name].to(dtype)}
        path = place(tmp_path, "odd.safetensors", save(changed, {"sppnet": json.dumps(header)}))
        if dtype.is_floating_point == tensors[name].is_floating_point() and not dtype.is_complex:
            KINDS[kind].load(path)(image)
        else:
            assert name.removeprefix("trunk.").removeprefix("windows.") in refused(kind, path)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_another_shape_or_name_are_refused(kind, home, tmp_path):
    header, tensors = model_parts(kind, home)
    for number, (name, tensor) in enumerate(tensors.items()):
        ways = (tensor[None], tensor.reshape(-1)[:0], torch.cat([tensor, tensor]), torch.zeros(()))
        changed = {**tensors, name: ways[number % len(ways)].contiguous()}
        refused(kind, place(tmp_path, "odd.safetensors", save(changed, {"sppnet": json.dumps(header)})))
    for name in list(tensors)[::3]:
        renamed = {("x" if key == name else key): value for key, value in tensors.items()}
        refused(kind, place(tmp_path, "odd.safetensors", save(renamed, {"sppnet": json.dumps(header)})))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused(kind, value, home, tmp_path):
    header, tensors = model_parts(kind, home)
    for name in (name for name, one in tensors.items() if one.is_floating_point()):
        changed = tensors[name].clone()
        changed.view(-1)[-1] = value
        path = place(
            tmp_path, "odd.safetensors", save({**tensors, name: changed}, {"sppnet": json.dumps(header)})
        )
        if name == "svm.bias" and value == -float("inf"):  # of a class without examples
            Detector.load(path)
            continue
        said = refused(kind, path)
        assert name.removeprefix("trunk.").removeprefix("windows.") in said
        assert "NaN or infinity" in said


def raw(header: str | bytes, data: bytes = b"", length: int | None = None) -> bytes:
    text = header.encode() if isinstance(header, str) else header
    return struct.pack("<Q", len(text) if length is None else length) + text + data


OURS = '"__metadata__": {"sppnet": "{\\"kind\\": \\"classifier\\", \\"format\\": 1}"}'
ENTRY = '{"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}'


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(raw("{}", length=2**63), id="a header of 2^63 bytes"),
        pytest.param(raw("{}", length=2**64 - 1), id="of 2^64 − 1"),
        pytest.param(raw("{}", length=2**40), id="of a terabyte"),
        pytest.param(raw("{}", length=0), id="of none"),
        pytest.param(raw(b"\xff\xfe{}"), id="no text"),
        pytest.param(raw("[" * 10**6), id="nested without end"),
        pytest.param(raw('{"a": ' * 10**5), id="objects without end"),
        pytest.param(raw("[]"), id="a list"),
        pytest.param(raw(f'{{{OURS}, "a": {ENTRY}, "a": {ENTRY}}}', bytes(4)), id="a key twice"),
        pytest.param(raw(f'{{{OURS}, "a": {ENTRY}, "b": {ENTRY}}}', bytes(4)), id="tensors that overlap"),
        pytest.param(raw(f"{{{OURS}, {OURS}}}"), id="metadata twice"),
        pytest.param(
            raw(f'{{{OURS}, "a": {{"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}}}', bytes(4)),
            id="offsets that fall",
        ),
        pytest.param(
            raw(f'{{{OURS}, "a": {{"dtype": "F32", "shape": [{2**62}, 4], "data_offsets": [0, 0]}}}}'),
            id="a shape that overflows",
        ),
        pytest.param(
            raw(f'{{{OURS}, "a": {{"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}}}', bytes(4)),
            id="a side below 0",
        ),
        pytest.param(
            raw(f'{{{OURS}, "a": {{"dtype": "X9", "shape": [1], "data_offsets": [0, 4]}}}}', bytes(4)),
            id="an unknown kind of number",
        ),
        pytest.param(
            raw(f'{{{OURS}, "a": {{"dtype": "F32", "shape": [1], "data_offsets": [8, 12]}}}}', bytes(12)),
            id="a gap before the first tensor",
        ),
        pytest.param(raw(f"{{{OURS}}}"), id="a header that describes nothing"),
    ],
)
def test_hostile_files_are_refused(content, tmp_path):
    for kind in KINDS:
        refused(kind, place(tmp_path, "odd.safetensors", content))


SETTINGS: list[tuple[str, str, Any]] = [
    ("detector", "classes", 5), ("detector", "classes", ["a"]), ("detector", "classes", None),
    ("detector", "config.scales", [0]), ("detector", "config.scales", []),
    ("detector", "config.scales", [10**9]), ("detector", "config.scales", ["64"]),
    ("detector", "config.scales", [True]), ("detector", "config.levels", [10**9]),
    ("detector", "config.max_proposals", 10**30), ("detector", "config.max_proposals", 0.5),
    ("detector", "config.nms_iou", "x"),
    ("detector", "config.nms_iou", float("nan")), ("detector", "config.box_mapping", "x"),
    ("detector", "config.trunk", 5), ("detector", "config.method", []), ("detector", "config.more", 1),
    ("detector", "windows.shapes", [0.0]), ("detector", "windows.shapes", []),
    ("detector", "windows.sizes", [-1]), ("detector", "windows.hidden", 10**12),
    ("detector", "windows.hidden", 10**6), ("detector", "windows.levels", []),
    ("detector", "windows.levels", [10**5]), ("detector", "windows.step", float("inf")),
    ("detector", "windows.channels", -1), ("detector", "windows.max_refined", None),
    ("detector", "windows", 7),
    ("detector", "trunk.width", 10**6), ("detector", "trunk.width", float("nan")),
    ("detector", "trunk", []), ("detector", "trunk.name", "timm:../../x"),
    ("detector", "trunk.name", "torch:hub"), ("classifier", "testing.scale_px", 10**9),
    ("classifier", "testing.scale_px", -5), ("classifier", "testing.scale_full_px", 10**9),
    ("classifier", "testing.size_px", "64"),
    ("classifier", "testing.views", ["full"]), ("classifier", "network.hidden", 10**9),
    ("classifier", "network.num_classes", 10**9), ("classifier", "network.levels", [10**6]),
    ("classifier", "network.trunk.width", 1e9),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "key", "value"), SETTINGS, ids=lambda value: str(value)[:30])
def test_headers_that_cannot_be_are_refused_at_loading(kind, key, value, home, tmp_path):
    header, tensors = model_parts(kind, home)
    header = json.loads(json.dumps(header))
    *parents, last = key.split(".")
    inside = header
    for parent in parents:
        inside = inside[parent]
    inside[last] = value
    path = place(tmp_path, "odd.safetensors", save(tensors, {"sppnet": json.dumps(header)}))
    refused(kind, path)


def test_a_model_of_another_kind_is_refused(home, tmp_path):
    assert "expected a detector" in refused(
        "detector", place(tmp_path, "m.safetensors", model_bytes("classifier", home))
    )
    with pytest.raises(ModelError, match="expected a checkpoint"):
        load_model(place(tmp_path, "m.safetensors", model_bytes("detector", home)), "checkpoint")


@pytest.mark.parametrize("reader", ["model", "weights", "maps"])
def test_damaged_files_are_read_or_refused_in_one_line(reader, tmp_path):
    rng = np.random.default_rng(2)
    for seed in READERS[reader].seeds():
        for make in (flips, writes, tears):
            for data in make(seed, rng, 12):
                READERS[reader].read(data, tmp_path)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(header=st.binary(max_size=80), data=st.binary(max_size=40), length=st.integers(0, 2**64 - 1))
@pytest.mark.parametrize("reader", ["model", "weights", "maps"])
def test_any_bytes_are_read_or_refused(reader, header, data, length, tmp_path):
    READERS[reader].read(raw(header, data, length), tmp_path)
    READERS[reader].read(raw(header, data), tmp_path)
    READERS[reader].read(b"{" + header, tmp_path)


def test_box_regression_without_measure_is_clipped_in_silence(home, tmp_path):
    """Found by fuzzing: moves beyond float32 made numpy warn."""
    header, tensors = model_parts("detector", home)
    changed = {**tensors, "regressor.bias": torch.full((2, 4), 1e37), "svm.bias": torch.ones(2)}
    path = place(tmp_path, "far.safetensors", save(changed, {"sppnet": json.dumps(header)}))
    found = Detector.load(path)(np.zeros((20, 24, 3), np.uint8), min_score=-100)
    assert len(found)
    assert (found.boxes >= 0).all()
    assert (found.boxes <= [24, 20, 24, 20]).all()


WATCHER = """
import resource, sys
from pathlib import Path
from sppnet import Classifier, Detector
from sppnet.errors import ModelError
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 512 * 2**20,) * 2)
for path in sorted(Path(sys.argv[1]).iterdir()):
    for kind in (Classifier, Detector):
        try:
            kind.load(path)
        except ModelError:
            print(path.name, "refused")
"""


def test_hostile_headers_take_no_memory(home, tmp_path):
    for number, (kind, key, value) in enumerate(SETTINGS):
        if value not in (10**9, 10**6, 10**12, [10**5], [10**6], [10**9]):
            continue
        header, tensors = model_parts(kind, home)
        header = json.loads(json.dumps(header))
        *parents, last = key.split(".")
        inside = header
        for parent in parents:
            inside = inside[parent]
        inside[last] = value
        place(tmp_path, f"{number}.safetensors", save(tensors, {"sppnet": json.dumps(header)}))
    place(tmp_path, "long.safetensors", raw("{}", length=2**63))
    place(tmp_path, "deep.safetensors", raw("[" * 10**6))
    command = [sys.executable, "-c", WATCHER, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stdout.splitlines()) == 2 * len(list(tmp_path.iterdir()))


@pytest.mark.parametrize(
    "command",
    [
        "classify predict {image} --model {model} --device cpu",
        "detect predict {image} --model {model} --device cpu",
        "proposals {image} --method learned --model {model} --out {out}/boxes.json",
        "export onnx --model {model} --out {out}/x.onnx",
    ],
)
def test_commands_refuse_bad_models_in_one_line(command, home, tmp_path):
    image = place(tmp_path, "image.png", pictures()[0].data)
    whole = model_bytes("detector", home)
    (tmp_path / "out").mkdir()
    for number, content in enumerate((b"", whole[:1000], whole[:-1], b"PK\x03\x04", raw("[" * 10**5))):
        model = place(tmp_path, f"{number}.safetensors", content)
        before = snapshot(tmp_path)
        code, printed, told = run(*command.format(image=image, model=model, out=tmp_path / "out").split())
        assert (code, printed) == (1, "")
        assert "Traceback" not in told
        assert model.name in told.splitlines()[-1]
        assert snapshot(tmp_path) == before
