"""VOC files as they are in the wild: what is put right, what is left out, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sppnet.data.detection_dataset import find_annotated_splits, open_annotated
from sppnet.data.voc_xml import read_xml
from sppnet.errors import DataError

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
WIDTH, HEIGHT = 80, 60


def save_image(path: Path, width: int = WIDTH, height: int = HEIGHT, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height)).save(path, **options)


def thing(name: str, corners: str, more: str = "") -> str:
    values = zip(("xmin", "ymin", "xmax", "ymax"), corners.split(), strict=True)
    box = "".join(f"<{tag}>{value}</{tag}>" for tag, value in values)
    return f"<object><name>{name}</name>{more}<bndbox>{box}</bndbox></object>"


def write_xml(path: Path, *things: str, more: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"<annotation>{more}{''.join(things)}</annotation>", encoding="utf-8")


def make_voc(root: Path, **images: list[str]) -> Path:
    """A data set with an image and its objects for each name."""
    for name, things in images.items():
        save_image(root / f"JPEGImages/{name}.jpg")
        write_xml(root / f"Annotations/{name}.xml", *things)
    return root


def write_sets(root: Path, **sets: str) -> None:
    (root / "ImageSets/Main").mkdir(parents=True, exist_ok=True)
    for name, text in sets.items():
        (root / f"ImageSets/Main/{name}.txt").write_text(text, encoding="utf-8")


def names_in(root: Path, split: str | None = None) -> list[str]:
    return [path.stem for path in open_annotated(root, split).paths]


@pytest.mark.parametrize(
    ("corners", "box", "problem"),
    [
        pytest.param("11 21 30 40", [10, 20, 30, 40], None, id="from 1 and inclusive"),
        pytest.param("1 1 80 60", [0, 0, 80, 60], None, id="the whole image"),
        pytest.param("5 5 5 5", [4, 4, 5, 5], None, id="one pixel"),
        pytest.param("11.5 21.25 30.5 40", [10.5, 20.25, 30.5, 40], None, id="fractions"),
        pytest.param("  11\n 21 30 4e1 ", [10, 20, 30, 40], None, id="spaces and exponents"),
        pytest.param("30 40 11 21", [10, 20, 30, 40], "wrong order; they are exchanged", id="inverted"),
        pytest.param("30 21 11 40", [10, 20, 30, 40], "wrong order", id="inverted from left to right"),
        pytest.param("-9 21 99 40", [0, 20, 80, 40], "beyond the image; it is clipped", id="over the border"),
        pytest.param("0 0 30 40", [0, 0, 30, 40], "it is clipped", id="counted from 0"),
        pytest.param("30 40 90 -5", [29, 0, 80, 40], "exchanged, and reaches beyond", id="both"),
        pytest.param("90 10 95 20", None, "lies beyond the image; it is left out", id="beyond the border"),
        pytest.param("1 10 0 20", [0, 9, 1, 20], "wrong order", id="inverted by one"),
        pytest.param("nan 1 2 3", None, "is not finite; it is left out", id="not a number"),
        pytest.param("1 1 inf 3", None, "is not finite", id="without end"),
        pytest.param("1 1 x 3", None, "four numbers, xmin ymin xmax ymax; got 1 1 x 3;", id="a letter"),
        pytest.param("1,5 1 2 3", None, "object 1 has no box of four numbers", id="a decimal comma"),
    ],
)
def test_what_becomes_of_a_box(tmp_path, corners, box, problem):
    images = open_annotated(make_voc(tmp_path, a=[thing("cat", " ".join(corners.split()))]))
    truth = images.truths[0]
    assert truth.boxes.tolist() == ([] if box is None else [box])
    assert truth.boxes.dtype == np.float32
    if problem is None:
        assert images.problems == ()
    else:
        (sentence,) = images.problems
        assert problem in sentence
        assert sentence.startswith("Annotations/a.xml")


def test_objects_deeper_in_the_file_count(tmp_path):
    images = open_annotated(make_voc(tmp_path, a=[f"<objects>{thing('cat', '1 1 9 9')}</objects>"]))
    assert (images.counts(), images.problems) == ({"cat": 1}, ())


def test_of_several_boxes_of_an_object_the_first_is_read(tmp_path):
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox>"
    twice = thing("cat", "1 1 9 9").replace("</object>", f"{box}</object>")
    images = open_annotated(make_voc(tmp_path, a=[twice]))
    assert images.truths[0].boxes.tolist() == [[0, 0, 9, 9]]
    assert images.problems == ("Annotations/a.xml: object 1 has several boxes; the first is read",)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        pytest.param("", False, id="missing"),
        pytest.param("<difficult>0</difficult>", False, id="0"),
        pytest.param("<difficult> 1 </difficult>", True, id="1"),
        pytest.param("<difficult/>", False, id="empty"),
        pytest.param("<difficult>Unspecified</difficult>", False, id="a word"),
    ],
)
def test_difficult(tmp_path, more, expected):
    images = open_annotated(make_voc(tmp_path, a=[thing("cat", "1 1 9 9", more)]))
    assert images.truths[0].difficult.tolist() == [expected]
    assert images.truths[0].crowd.tolist() == [False]


def test_parts_of_an_object_are_no_objects(tmp_path):
    part = "<part><name>head</name><bndbox><xmin>2</xmin></bndbox></part>"
    images = open_annotated(make_voc(tmp_path, a=[thing("person", "1 1 9 9", part)]))
    assert (images.classes, len(images.truths[0]), images.problems) == (("person",), 1, ())


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        pytest.param("<size><width>80</width><height>60</height></size>", None, id="right"),
        pytest.param("", None, id="missing"),
        pytest.param(
            "<size><width>0</width><height>0</height></size>", None, id="nothing, as some tools write"
        ),
        pytest.param("<size><width>x</width></size>", None, id="nonsense"),
        pytest.param("<size><width>60</width><height>80</height></size>", "says 60×80", id="lying"),
    ],
)
def test_the_size_in_the_file_is_not_believed(tmp_path, more, problem):
    save_image(tmp_path / "JPEGImages/a.jpg")
    write_xml(tmp_path / "Annotations/a.xml", thing("cat", "1 1 80 60"), more=more)
    images = open_annotated(tmp_path)
    assert images.truths[0].boxes.tolist() == [[0, 0, 80, 60]]
    assert [problem in sentence for sentence in images.problems] == ([True] if problem else [])


def test_boxes_are_clipped_to_the_upright_image(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    save_image(tmp_path / "JPEGImages/a.jpg", 80, 60, exif=exif)
    write_xml(tmp_path / "Annotations/a.xml", thing("cat", "1 1 99 99"))
    assert open_annotated(tmp_path).truths[0].boxes.tolist() == [[0, 0, 60, 80]]


def test_a_damaged_image_keeps_its_boxes(tmp_path):
    make_voc(tmp_path, a=[thing("cat", "5 5 900 900")])
    (tmp_path / "JPEGImages/a.jpg").write_bytes(b"no image")
    images = open_annotated(tmp_path)
    assert images.truths[0].boxes.tolist() == [[4, 4, 900, 900]]
    assert "not an image of a known format" in images.problems[0]
    assert "not checked against its size" in images.problems[0]


# --- which image is meant ------------------------------------------------------------------------


def test_images_without_objects_are_kept(tmp_path):
    images = open_annotated(make_voc(tmp_path, a=[], b=[thing("cat", "1 1 9 9")]))
    assert [len(truth) for truth in images.truths] == [0, 1]
    assert images.truths[0].boxes.shape == (0, 4)


def test_files_stand_in_natural_order_and_have_any_suffix(tmp_path):
    for name in ("img10.png", "img9.JPEG", "img.9.b.webp", "deep/1.bmp"):
        save_image(tmp_path / "JPEGImages" / name)
        write_xml((tmp_path / "Annotations" / name).with_suffix(".xml"), thing("cat", "1 1 9 9"))
    (tmp_path / "Annotations/._img9.xml").write_bytes(b"\0")
    names = [path.relative_to(tmp_path / "JPEGImages").as_posix() for path in open_annotated(tmp_path).paths]
    assert names == ["deep/1.bmp", "img9.JPEG", "img10.png", "img.9.b.webp"]


def test_an_image_may_be_named_by_the_file_alone(tmp_path):
    save_image(tmp_path / "JPEGImages/photo 1.jpg")
    write_xml(
        tmp_path / "Annotations/0001.xml",
        thing("cat", "1 1 9 9"),
        more=r"<filename>C:\Users\me\photo 1.jpg</filename>",
    )
    assert names_in(tmp_path) == ["photo 1"]


def test_no_file_outside_the_data_set_is_named(tmp_path):
    root = make_voc(tmp_path / "data", a=[])
    save_image(tmp_path / "secret.jpg")
    write_xml(root / "Annotations/b.xml", more="<filename>../../secret.jpg</filename>")
    write_xml(root / "Annotations/c.xml", more=f"<filename>{tmp_path / 'secret.jpg'}</filename>")
    write_sets(root, train="a\n../../secret\n")
    images = open_annotated(root)
    assert [path.name for path in images.paths] == ["a.jpg"]
    assert images.problems == (
        "2 XML files have no image, such as Annotations/b.xml, Annotations/c.xml; they are left out",
    )
    assert names_in(root, "train") == ["a"]


def test_images_without_a_file_are_left_out_and_counted(tmp_path):
    make_voc(tmp_path, a=[])
    for name in ("x10", "x9"):
        save_image(tmp_path / f"JPEGImages/{name}.jpg")
    images = open_annotated(tmp_path)
    assert len(images) == 1
    assert images.problems == (
        "2 images have no XML file, such as JPEGImages/x9.jpg, JPEGImages/x10.jpg; they are left out",
    )


@pytest.mark.parametrize(
    ("notes", "pictures"),
    [
        pytest.param("", "", id="side by side"),
        pytest.param("annotations/", "images/", id="other folder names"),
        pytest.param("Annotations/", "Images/", id="and other letters"),
    ],
)
def test_other_places(tmp_path, notes, pictures):
    for name in ("2", "10"):
        save_image(tmp_path / f"{pictures}{name}.jpg")
        write_xml(tmp_path / f"{notes}{name}.xml", thing("cat", "1 1 9 9"))
    assert names_in(tmp_path) == ["2", "10"]
    assert find_annotated_splits(tmp_path) == ()


def test_pairs_in_a_folder_for_each_split(tmp_path):
    for place in ("train/a", "valid/b", "test/c"):
        save_image(tmp_path / f"{place}.jpg")
        write_xml(tmp_path / f"{place}.xml", thing("cat", "1 1 9 9"))
    assert find_annotated_splits(tmp_path) == ("train", "val", "trainval", "test")
    assert (names_in(tmp_path, "val"), names_in(tmp_path, "trainval")) == (["b"], ["a", "b"])
    assert names_in(tmp_path) == ["c", "a", "b"]


# --- splits --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("a\nb\n", ["a", "b"], id="a name a line"),
        pytest.param("b\r\n\r\n  a  \r\nb", ["a", "b"], id="Windows lines, empty lines, spaces, repeats"),
        pytest.param("\ufeffa\nb", ["a", "b"], id="a byte order mark"),
        pytest.param("a -1\nb  1\nc\t0\n", ["a", "b", "c"], id="a second column"),
        pytest.param("a.jpg\nJPEGImages/b.jpg\n", ["a", "b"], id="suffixes and folders"),
        pytest.param("a.xml\nAnnotations/b.xml\n", ["a", "b"], id="XML files"),
        pytest.param("d 1\nc", ["c", "d 1"], id="a name that ends like a second column"),
        pytest.param("a b\na", ["a"], id="a name with a space that is not there"),
    ],
)
def test_lines_of_a_split(tmp_path, text, expected):
    make_voc(tmp_path, a=[], b=[], c=[], **{"d 1": []})
    write_sets(tmp_path, train=text)
    assert names_in(tmp_path, "train") == expected


def test_names_without_files_are_told(tmp_path):
    make_voc(tmp_path, a=[])
    write_xml(tmp_path / "Annotations/b.xml")
    write_sets(tmp_path, train="a\nb\nc\n")
    assert open_annotated(tmp_path, "train").problems == (
        "1 names of the train split have no XML file, such as c; they are left out",
        "1 XML files have no image, such as Annotations/b.xml; they are left out",
    )


def test_files_of_single_classes_make_a_split(tmp_path):
    make_voc(tmp_path, a=[], b=[], c=[], d=[])
    write_sets(tmp_path, cat_train="a -1\nb 1\n", dog_train="b -1\nc 0\n", cat_val="d 1\n", test="d\n")
    assert find_annotated_splits(tmp_path) == ("train", "val", "trainval", "test")
    assert names_in(tmp_path, "train") == ["a", "b", "c"]
    assert names_in(tmp_path, "trainval") == ["a", "b", "c", "d"]


def test_a_whole_split_file_is_preferred(tmp_path):
    # "train_test" is the class train in the test split.
    make_voc(tmp_path, a=[], b=[])
    write_sets(tmp_path, train="a\n", test="b\n", train_test="a 1\nb -1\n", cat_train="b 1\n")
    assert (names_in(tmp_path, "train"), names_in(tmp_path, "test")) == (["a"], ["b"])


def test_classes_do_not_depend_on_the_split(tmp_path):
    make_voc(tmp_path, a=[thing("dog", "1 1 9 9")], b=[thing(" cat ", "1 1 9 9"), thing("dog", "1 1 9 9")])
    write_sets(tmp_path, train="a\n", val="b\n")
    train, val = open_annotated(tmp_path, "train"), open_annotated(tmp_path, "val")
    assert train.classes == val.classes == ("cat", "dog")
    assert (train.truths[0].labels.tolist(), val.truths[0].labels.tolist()) == ([1], [0, 1])


# --- hostile and odd files -----------------------------------------------------------------------

BOMB = """<?xml version="1.0"?>
<!DOCTYPE lolz [<!ENTITY lol "lol"><!ENTITY lol2 "&lol;&lol;&lol;&lol;&lol;&lol;&lol;&lol;">]>
<annotation><object><name>&lol2;</name></object></annotation>"""
OUTSIDE = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]><annotation><b>&x;</b></annotation>'


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(BOMB.encode(), "declares a DTD, which is refused", id="a bomb"),
        pytest.param(BOMB.encode("utf-16"), "declares a DTD", id="a bomb in UTF-16"),
        pytest.param(OUTSIDE.encode(), "declares a DTD", id="another file"),
        pytest.param(
            b'<!DOCTYPE a SYSTEM "x.dtd"><annotation/>', "declares a DTD", id="types of another file"
        ),
        pytest.param(b"", "is empty", id="nothing"),
        pytest.param(b"<annotation><object>", "is not XML", id="cut short"),
        pytest.param(b"\x89PNG", "is not XML", id="not text"),
        pytest.param(b"<annotation>&unknown;</annotation>", "is not XML", id="an unknown entity"),
    ],
)
def test_files_that_are_refused(tmp_path, data, message):
    make_voc(tmp_path, a=[], b=[thing("cat", "1 1 9 9")])
    file = tmp_path / "Annotations/a.xml"
    file.write_bytes(data)
    with pytest.raises(DataError, match=message):
        read_xml(file)
    images = open_annotated(tmp_path)
    assert [path.stem for path in images.paths] == ["b"]
    assert [sentence.endswith("its image is left out") for sentence in images.problems] == [True]


def test_a_deep_file_is_read(tmp_path):
    file = tmp_path / "deep.xml"
    file.write_text("<a>" * 20_000 + "</a>" * 20_000)
    assert read_xml(file).tag == "a"


@pytest.mark.parametrize(
    ("data", "name"),
    [
        pytest.param(b"\xef\xbb\xbf<a><name>Kt\xc3\xa4</name></a>", "Ktä", id="UTF-8 with a mark"),
        pytest.param("<?xml version='1.0'?><a><name>Ktä</name></a>".encode("utf-16"), "Ktä", id="UTF-16"),
        pytest.param(
            b'<?xml version="1.0" encoding="latin-1"?><a><name>Kt\xe4</name></a>', "Ktä", id="Latin, declared"
        ),
        pytest.param(
            b'<?xml version="1.0" encoding="gbk"?><a><name>\xc3\xa8</name></a>', "猫", id="GBK, declared"
        ),
        pytest.param(
            b'<?xml version="1.0" encoding="utf-8"?><a><name>Kt\xe4</name></a>', "Ktä", id="Latin as UTF-8"
        ),
        pytest.param(
            b'<?xml version="1.0" encoding="nonsense"?><a><name>cat</name></a>',
            "cat",
            id="an unknown encoding",
        ),
        pytest.param(b"\n\n <?xml version='1.0'?><a><name>cat</name></a>", "cat", id="empty lines before it"),
        pytest.param(
            b'<?xml version="1.0" encoding="utf-16"?><a><name>Kt\xc3\xa4</name></a>',
            "Ktä",
            id="UTF-8 as UTF-16",
        ),
        pytest.param(b'<a xmlns="http://voc.example"><name>cat</name></a>', "cat", id="a namespace"),
        pytest.param(b'<v:a xmlns:v="http://voc.example"><v:name>cat</v:name></v:a>', "cat", id="a prefix"),
        pytest.param(b"<A><Name>Cat</Name></A>", "Cat", id="tags in other letters"),
    ],
)
def test_encodings(tmp_path, data, name):
    file = tmp_path / "a.xml"
    file.write_bytes(data)
    assert read_xml(file).findtext("name") == name


# --- real data -----------------------------------------------------------------------------------


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "splits", "images", "objects"),
    [
        pytest.param(
            "voc2007_5cls", {"train": 469, "val": 466, "trainval": 935, "test": 478}, 1413, 3653, id="VOC"
        ),
        pytest.param("raccoon", {"trainval": 137, "test": 59}, 196, 213, id="raccoons"),
        pytest.param(
            "bccd", {"train": 205, "val": 87, "trainval": 292, "test": 72}, 364, 4886, id="blood cells"
        ),
    ],
)
def test_real_data_sets(name, splits, images, objects):
    root = SHARED / name
    if not root.is_dir():
        pytest.skip(f"{root} is not there")
    assert find_annotated_splits(root) == tuple(splits)
    assert len(open_annotated(root, "test")) == splits["test"]
    whole = open_annotated(root)
    assert (len(whole), sum(whole.counts().values())) == (images, objects)
    if name == "voc2007_5cls":
        (problem,) = whole.problems
        assert problem.startswith("252 objects are of other classes than classes.txt lists")
        assert sum(int(truth.difficult.sum()) for truth in whole.truths) > 100
    else:
        assert whole.problems == ()
