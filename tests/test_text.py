"""Text files of every encoding that tools write, in each of the files a data set is made of."""

import json

import pytest
from PIL import Image

from sppnet.data.detection_dataset import open_annotated
from sppnet.data.text import decode, read_lines

ENCODINGS = {
    "utf-8": b"",
    "utf-8-sig": b"",
    "utf-16": b"",
    "utf-16-le": b"",
    "utf-16-be": b"",
    "utf-16-be with a mark": b"\xfe\xff",
    "utf-32": b"",
    "cp1252": b"",
}
NAME = "Kätzchen"


def encode(text: str, encoding: str) -> bytes:
    return ENCODINGS[encoding] + text.encode(encoding.partition(" ")[0])


EVERY = pytest.mark.parametrize("encoding", ENCODINGS)


@EVERY
@pytest.mark.parametrize(
    "text", ["0 0.5 0.5 0.4 0.4\r\n", f"{NAME}\nhen\n", f'{{"a": "{NAME}"}}', "é" * 3000]
)
def test_text_is_decoded(encoding, text):
    assert decode(encode(text, encoding)) == text


@pytest.mark.parametrize(
    "data", [b"", b"\xff", b"\xff\xfe", b"\xff\xfe\x00", b"\0", b"\0" * 99, bytes(range(256))]
)
def test_what_is_no_text_is_decoded_all_the_same(data):
    assert isinstance(decode(data), str)


def test_lines_are_stripped_and_empty_ones_left_out(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeff a \r\n\r\n b\n".encode("utf-16-le"))
    assert read_lines(tmp_path / "a.txt") == ("a", "b")


@EVERY
def test_every_file_of_yolo(tmp_path, encoding):
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (100, 80)).save(tmp_path / f"images/{NAME}.png")
    (tmp_path / f"labels/{NAME}.txt").write_bytes(encode("1 0.5 0.5 0.5 0.5\n", encoding))
    (tmp_path / "list.txt").write_bytes(encode(f"images/{NAME}.png\n", encoding))
    yaml = f"# every class of this set\ntrain: list.txt\nnames: [hen, {NAME}]\n"
    (tmp_path / "data.yaml").write_bytes(encode(yaml, encoding))
    images = open_annotated(tmp_path, "train")
    assert (images.classes, images.problems) == (("hen", NAME), ())
    assert images.truths[0].boxes.tolist() == [[25, 20, 75, 60]]
    assert images.truths[0].labels.tolist() == [1]


@EVERY
def test_a_list_of_classes(tmp_path, encoding):
    Image.new("RGB", (100, 80)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("1 0.5 0.5 0.5 0.5\n")
    (tmp_path / "classes.txt").write_bytes(encode(f"hen\n{NAME}\n", encoding))
    assert open_annotated(tmp_path).counts() == {"hen": 0, NAME: 1}


@EVERY
def test_coco(tmp_path, encoding):
    data = {
        "images": [{"id": 1, "file_name": f"{NAME}.png"}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}],
        "categories": [{"id": 1, "name": NAME}],
    }
    Image.new("RGB", (100, 80)).save(tmp_path / f"{NAME}.png")
    (tmp_path / "a.json").write_bytes(encode(json.dumps(data, ensure_ascii=False), encoding))
    images = open_annotated(tmp_path)
    assert (images.counts(), images.problems) == ({NAME: 1}, ())


@EVERY
@pytest.mark.parametrize("declared", ["", '<?xml version="1.0" encoding="utf-8"?>', '<?xml version="1.0"?>'])
def test_voc(tmp_path, encoding, declared):
    box = "<bndbox><xmin>5</xmin><ymin>5</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    xml = f"{declared}<annotation><object><name>{NAME}</name>{box}</object></annotation>"
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)
    Image.new("RGB", (100, 80)).save(tmp_path / f"JPEGImages/{NAME}.png")
    (tmp_path / f"Annotations/{NAME}.xml").write_bytes(encode(xml, encoding))
    (tmp_path / "ImageSets/Main/train.txt").write_bytes(encode(f"{NAME}\n", encoding))
    images = open_annotated(tmp_path, "train")
    assert (images.counts(), images.problems) == ({NAME: 1}, ())
