"""Every reader of foreign files, as a function of bytes: what fuzzing calls, and the tests of bad input.

A reader may refuse with an error of ours, in one line. Whatever else it raises, a warning included, and
whatever it returns that cannot be, is a finding.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile
from zlib import crc32

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load, save

from models import model_bytes, model_parts
from pictures import encode, pictures
from sppnet.classify.classifier import Classifier
from sppnet.data.detection_dataset import open_annotated
from sppnet.data.image import read_header, read_image
from sppnet.detect.detector import Detector
from sppnet.errors import SppnetError
from sppnet.features.cache import MapCache
from sppnet.features.maps import FeatureMaps
from sppnet.geometry.grid import CellGrid
from sppnet.nn.weights import read_weights
from sppnet.proposals.precomputed import read_boxes

WIDTH, HEIGHT = 80, 60
MOST_PIXELS = 2**20
"""So that no input is slow because it is rightly large."""
PART = b"\0"
"""Between the files of a reader that reads two."""


@dataclass(frozen=True)
class Reader:
    """One way in."""

    read: Callable[[bytes, Path], None]
    """Reads content in a scratch folder of its own; raises for a finding."""
    seeds: Callable[[], list[bytes]]
    """Sound content to begin at."""


@contextmanager
def refusing() -> Iterator[None]:
    """Errors of ours are no findings, as long as they are one line that can be printed."""
    try:
        yield
    except SppnetError as error:
        check_sentence(str(error))


def check_sentence(text: str) -> None:
    text.encode()
    assert "\n" not in text, f"more than one line: {text!r}"
    assert len(text) < 10_000, f"{len(text)} letters: {text[:99]}…"


def first_words(data: bytes) -> tuple[bytes, bytes]:
    head, _, tail = data.partition(PART)
    return head, tail


# --- images --------------------------------------------------------------------------------------


def read_one_image(data: bytes, folder: Path) -> None:
    with refusing():
        pixels = read_image(data, MOST_PIXELS)
        assert pixels.dtype == np.uint8
        assert pixels.ndim == 3
        assert pixels.shape[2] == 3
        assert read_header(data, MOST_PIXELS).size_hw == pixels.shape[:2]


@cache
def small_pictures() -> list[bytes]:
    return [picture.data for picture in pictures() if len(picture.data) < 3000]


# --- annotations ---------------------------------------------------------------------------------


@cache
def blank() -> bytes:
    return encode(Image.new("RGB", (WIDTH, HEIGHT)), "PNG")


def check_annotated(data: Path, root: Path) -> None:
    """What is read must lie in the folder and in the image, and print."""
    with refusing():
        images = open_annotated(data)
        for path, truth in zip(images.paths, images.truths, strict=True):
            assert path.resolve().is_relative_to(root.resolve())
            assert (truth.boxes >= 0).all()
            assert (truth.boxes <= np.array([WIDTH, HEIGHT] * 2) + 0.5).all() or data.suffix == ".json"
        for text in (*images.problems, *images.classes):
            check_sentence(text)


def place(root: Path, name: str, content: bytes) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def read_voc(data: bytes, folder: Path) -> None:
    xml, lines = first_words(data)
    for name in ("a", "b"):
        if not (folder / f"JPEGImages/{name}.png").exists():
            place(folder, f"JPEGImages/{name}.png", blank())
    place(folder, "Annotations/a.xml", xml)
    place(folder, "ImageSets/Main/train.txt", lines)
    check_annotated(folder, folder)


def voc_seeds() -> list[bytes]:
    box = "<bndbox><xmin>1</xmin><ymin>2.5</ymin><xmax>70</xmax><ymax>6e1</ymax></bndbox>"
    thing = f"<object><name>cat</name><difficult>1</difficult>{box}</object>"
    size = "<size><width>80</width><height>60</height><depth>3</depth></size>"
    whole = f"<annotation><filename>b.png</filename>{size}{thing}{thing}</annotation>"
    bomb = '<!DOCTYPE a [<!ENTITY l "ll"><!ENTITY m "&l;&l;">]><annotation>&m;</annotation>'
    latin = '<?xml version="1.0" encoding="latin-1"?>' + whole.replace("cat", "Kätzchen")
    return [
        whole.encode() + PART + b"a\nb.png -1\n../c\n",
        latin.encode("latin-1") + PART + b"a 1\n",
        whole.encode("utf-16") + PART,
        b'<?xml version="1.0" encoding="utf-8"?>' + latin.encode("latin-1")[44:],
        bomb.encode(),
        whole.replace("70", "nan").replace("2.5", "-inf").encode() + PART + b"/etc/passwd\n",
    ]


def read_coco(data: bytes, folder: Path) -> None:
    for name in ("a.png", "images/b.png"):
        if not (folder / name).exists():
            place(folder, name, blank())
    check_annotated(place(folder, "all.json", data), folder)


def coco_seeds() -> list[bytes]:
    images = [{"id": 1, "file_name": "a.png", "width": 80, "height": 60}, {"id": 2, "file_name": "b.png"}]
    found = [
        {"image_id": 1, "category_id": 5, "bbox": [1, 2.5, 30, 40], "iscrowd": 0},
        {"image_id": 2, "category_id": 5, "bbox": [-5, 0, 1e3, 40], "ignore": 1},
    ]
    whole = {"images": images, "annotations": found, "categories": [{"id": 5, "name": "cat"}]}
    odd = {**whole, "images": [{"id": "x", "file_name": "../../etc/passwd"}, {"id": None}, 5]}
    broken = {**whole, "annotations": [{"image_id": [1]}, {}, "box", {"bbox": [float("nan")] * 4}]}
    return [json.dumps(each).encode() for each in (whole, odd, broken, {"images": []})]


def read_yolo(data: bytes, folder: Path) -> None:
    settings, lines = first_words(data)
    for name in ("images/a.png", "images/train/b.png"):
        if not (folder / name).exists():
            place(folder, name, blank())
    for name in ("labels/a.txt", "labels/train/b.txt", "list.txt"):
        place(folder, name, lines)
    check_annotated(place(folder, "data.yaml", settings), folder)


def yolo_seeds() -> list[bytes]:
    return [
        b"names: [dog, cat]\ntrain: images/train\nval: images\n\x000 .5 .5 .5 .5\n1 0.1 0.1 0.2 0.2\n",
        b"path: ../x\ntrain: list.txt\nnames:\n  0: dog\n  1: cat\n\x00images/a.png\n/x/images/train/b.png\n",
        b"nc: 3\ntest: [images, ../../etc/passwd]\nkpt_shape: [2, 3]\n\x001 .5 .5 .9 .9 .1 .1 2 .2 .2 2\n",
        b"names: !!python/object/apply:os.getcwd []\n\x000 .1 .1 .9 .1 .9 .9 .1 .9\n",
        b"a: &a [1, 2]\nnames: [*a]\n\x00nan inf -1 1e400 0x1\n",
    ]


# --- models --------------------------------------------------------------------------------------


def read_model(data: bytes, folder: Path) -> None:
    """A file; or the text of a header, which is put before sound weights."""
    kind = "detector" if b'"detector"' in data else "classifier"
    if data.startswith(b"{"):
        data = save(model_parts(kind, folder)[1], {"sppnet": data.decode("utf-8", "replace")})
    path = place(folder, "model.safetensors", data)
    with refusing():
        model = Detector.load(path) if kind == "detector" else Classifier.load(path)
        model(np.zeros((20, 24, 3), np.uint8))
        repr(model)


def model_seeds() -> list[bytes]:
    from tempfile import TemporaryDirectory

    found = []
    with TemporaryDirectory() as name:
        for kind in ("classifier", "detector"):
            content = model_bytes(kind, Path(name))
            length = int.from_bytes(content[:8], "little")
            metadata = json.loads(content[8 : 8 + length])["__metadata__"]
            found += [metadata["sppnet"].encode(), content]
        model_bytes.cache_clear()
    tiny = save({"a": torch.zeros(2)}, {"sppnet": '{"kind": "classifier", "format": 1}'})
    return [*found, tiny]


PICKLED = b"pickle:"
"""Before a pickle without the file around it."""


def read_foreign_weights(data: bytes, folder: Path) -> None:
    """A file; or a pickle, which is put into a sound torch file."""
    if data.startswith(PICKLED):
        data = torch_file(data.removeprefix(PICKLED))
    for suffix in (".safetensors", ".pth"):
        with refusing():
            state = read_weights(place(folder, f"weights{suffix}", data))
            assert all(isinstance(tensor, torch.Tensor) for tensor in state.values())


def torch_file(pickled: bytes) -> bytes:
    """With two stores of numbers for the tensors of the pickle."""
    stream = BytesIO()
    parts = {
        "data.pkl": pickled,
        "byteorder": b"little",
        "data/0": bytes(24),
        "data/1": bytes(2),
        "version": b"3\n",
    }
    with ZipFile(stream, "w") as archive:
        for name, content in parts.items():
            archive.writestr(f"archive/{name}", content)
    return stream.getvalue()


def weights_seeds() -> list[bytes]:
    state = {"module.a": torch.zeros(2, 3), "module.b": torch.ones(1, dtype=torch.float16)}
    found = [save(state)]
    for content, options in (
        (state, {}),
        ({"state_dict": state, "epoch": 3}, {}),
        ({"state_dict": state, "epoch": 3}, {"_use_new_zipfile_serialization": False}),
    ):
        stream = BytesIO()
        torch.save(content, stream, **options)
        found.append(stream.getvalue())
        if not options:
            with ZipFile(stream) as archive:
                found.append(PICKLED + archive.read("archive/data.pkl"))
    return found


# --- boxes and maps ------------------------------------------------------------------------------


def read_given(data: bytes, folder: Path) -> None:
    for suffix in (".json", ".csv"):
        with refusing():
            given = read_boxes(place(folder, f"boxes{suffix}", data))
            for boxes in given.boxes.values():
                assert boxes.dtype == np.float32
                assert np.isfinite(boxes).all()
                assert (boxes[:, 2:] > boxes[:, :2]).all()
            given.of("a.jpg")


def given_seeds() -> list[bytes]:
    return [
        b'{"a.jpg": [[0, 0, 5, 5], [1.5, 2, 3, 4e0]], "b": []}',
        b'{"a.jpg": {"boxes": [[0, 0, 5, 5]], "scores": [0.5]}}',
        b"image,x0,y0,x1,y1,score\na.jpg,0,0,5,5,0.5\na.jpg,1,2,3,4,-1\n",
        b'"x,y/a.jpg",0,0,5,5\nb.jpg,,,,\n',
        b'{"a.jpg": [[0, 0, 1e400, 5]], "a.jpg": {}}',
    ]


MAPS = FeatureMaps.of_one_tap(
    (6, 9), ((12, 18),), (torch.ones(2, 3, 4).half(),), CellGrid(stride=4, center0=-0.5, receptive_field=9)
)


def read_maps(data: bytes, folder: Path) -> None:
    """A damaged entry of the cache is made again, so nothing is refused."""
    MapCache("r", folder).get(b"image", lambda: MAPS)
    (entry,) = folder.glob("r/*.safetensors")
    entry.write_bytes(sealed(data))
    maps = MapCache("r", folder).get(b"image", lambda: MAPS)
    maps.pool(np.array([[0, 0, 5, 5]], np.float32), (1, 2))
    entry.unlink(missing_ok=True)


def sealed(data: bytes) -> bytes:
    """An entry with the checksum that it should have, where it is whole enough for one."""
    with suppress(Exception):
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        described, tensors = json.loads(header["__metadata__"]["maps"]), load(data)
        numbers = b"".join(tensors[str(index)].numpy().tobytes() for index in range(len(tensors)))
        described["crc32"] = crc32(json.dumps(described).encode() + numbers)
        return save(tensors, {"maps": json.dumps(described)})
    return data


def maps_seeds() -> list[bytes]:
    described = {"size_hw": [6, 9], "sizes_hw": [[12, 18]], "grid": [4, -0.5, 9]}
    return [
        save({"0": MAPS.maps[0]}, {"maps": json.dumps(described)}),
        save({"0": MAPS.maps[0]}, {"maps": json.dumps({**described, "size_hw": [-1, 10**9]})}),
        save({"1": MAPS.maps[0]}, {"maps": "{}"}),
    ]


READERS = {
    "image": Reader(read_one_image, small_pictures),
    "voc": Reader(read_voc, voc_seeds),
    "coco": Reader(read_coco, coco_seeds),
    "yolo": Reader(read_yolo, yolo_seeds),
    "model": Reader(read_model, model_seeds),
    "weights": Reader(read_foreign_weights, weights_seeds),
    "boxes": Reader(read_given, given_seeds),
    "maps": Reader(read_maps, maps_seeds),
}
