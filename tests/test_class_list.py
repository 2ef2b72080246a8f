"""Lists of class names as tools and people write them: read right, or refused by name."""

from pathlib import Path

import pytest

from sppnet.data.class_list import read_class_list
from sppnet.data.detection_dataset import open_annotated
from sppnet.errors import DataError
from sppnet.label.voc_files import VocFiles
from test_detection_layouts import LINE, lay, xml

BOTH = {0: "cat", 1: "stop sign"}

LISTS = {
    "plain": "cat\nstop sign\n",
    "Windows": "cat\r\nstop sign",
    "empty lines": "\n cat \n\n\tstop sign\n\n",
    "id name": "0 cat\n1 stop sign\n",
    "tabs": "0\tcat\n1\tstop sign\n",
    "id: name": "0: cat\n1: stop sign\n",
    "id=name": "0=cat\n1=stop sign\n",
    "id,name": "0,cat\n1,stop sign\n",
    "id. name": "0. cat\n1. stop sign\n",
    "name id": "cat 0\nstop sign 1\n",
    "name,id": "cat,0\nstop sign,1\n",
    "not in order": "1 stop sign\n0 cat\n",
    "a line of names over it": "id,name\n0,cat\n1,stop sign\n",
    "remarks": "# classes of 2024\ncat # a pet\nstop sign\n",
    "commas at the ends": "cat,\nstop sign,\n",
    "semicolons at the ends": "cat;\nstop sign;\n",
    "quotes": "\"cat\",\n'stop sign',\n",
    "bullets": "- cat\n- stop sign\n",
    "one line": "cat, stop sign\n",
}


def written(tmp_path: Path, text: str, encoding: str = "utf-8") -> Path:
    file = tmp_path / "classes.txt"
    file.write_bytes(text.encode(encoding))
    return file


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("text", LISTS.values(), ids=LISTS.keys())
def test_names_without_what_is_no_part_of_them(text, encoding, tmp_path):
    listed = read_class_list(written(tmp_path, text, encoding))
    assert listed.names == BOTH
    plain = [line.strip() for line in text.splitlines() if line.strip()] == list(BOTH.values())
    assert listed.problems == (() if plain else listed.problems)
    assert all("0 is cat, 1 is stop sign" in sentence for sentence in listed.problems)
    assert bool(listed.problems) != plain


@pytest.mark.parametrize(
    "names",
    [
        ["7 up", "3 musketeers"], ["4:3", "16:9"], ["12:30", "13:30"], ["0.5 l", "1.0 l", "2.5 cl"],
        ["boeing 747", "airbus 320"], ["C#", "#1 fan"], ["person 1", "person 2"], ["1 euro", "2 euro"],
        ["0", "1", "2"], ["1,000 rupees", "2,000 yen"], ["3d printer", "2d plot"], ["cat's", "dog's"],
        ["rock 'n' roll"], ["12th", "13th"], ["route 66"], ["train", "bus"],
    ],
    ids=" and ".join,
)  # fmt: skip
def test_names_that_look_like_more_stay_as_they_are(names, tmp_path):
    listed = read_class_list(written(tmp_path, "\n".join(names)))
    assert (list(listed.names.values()), listed.problems) == (names, ())


def test_numbers_with_gaps_are_kept(tmp_path):
    assert read_class_list(written(tmp_path, "0: cat\n5: dog\n2: hen\n")).names == {
        0: "cat",
        2: "hen",
        5: "dog",
    }


@pytest.mark.parametrize(
    "text",
    [
        '["cat", "dog"]',
        "{0: cat, 1: dog}",
        "names:\n- cat\n",
        "nc: 1\nnames: [cat]",
        "item {\n  id: 1\n}",
        "<a/>",
    ],
)
def test_files_of_another_kind_are_refused(text, tmp_path):
    with pytest.raises(DataError, match=r"classes\.txt is no list of class names.*one name a line"):
        read_class_list(written(tmp_path, text))


@pytest.mark.parametrize("text", ["", " \n\n", "# nothing yet\n"])
@pytest.mark.parametrize("name", ["classes.txt", "obj.names"])
def test_lists_without_a_name_are_refused(name, text, tmp_path):
    lay(tmp_path, "images/a.jpg", **{"labels/a.txt": LINE, name: text})
    with pytest.raises(DataError, match=f"{name} names no class; write one class a line"):
        open_annotated(tmp_path)


@pytest.mark.parametrize("name", ["classes.txt", "obj.names", "labels.txt"])
def test_a_numbered_list_of_yolo(name, tmp_path):
    lay(tmp_path, "images/a.jpg", **{"labels/a.txt": f"1{LINE[1:]}", name: "0 cat\n1 stop sign\n"})
    opened = open_annotated(tmp_path)
    assert (opened.classes, opened.truths[0].labels.tolist()) == (("cat", "stop sign"), [1])
    assert [name in sentence for sentence in opened.problems] == [True]
    (tmp_path / name).write_text("1 cat\n2 stop sign\n")
    with pytest.raises(DataError, match=f"{name} numbers its classes from 1.*count from 0"):
        open_annotated(tmp_path)


def test_a_numbered_list_of_voc_and_names_that_are_numbered(tmp_path):
    lay(tmp_path, "a.jpg", **{"a.xml": xml(name="stop sign"), "classes.txt": "1: stop sign\n2: cat\n"})
    opened = open_annotated(tmp_path)
    assert (opened.classes, len(opened.truths[0])) == (("stop sign", "cat"), 1)
    assert VocFiles(tmp_path).classes == ("stop sign", "cat")
    lay(tmp_path, **{"a.xml": xml(name="1 cat"), "classes.txt": "1 cat\n2 dogs\n"})
    opened = open_annotated(tmp_path)
    assert (opened.classes, len(opened.truths[0]), opened.problems) == (("1 cat", "2 dogs"), 1, ())
    assert VocFiles(tmp_path).classes == ("1 cat", "2 dogs")


@pytest.mark.parametrize(
    "names",
    [
        "names: cat, stop sign", "names: [cat, stop sign]", "names:\n- 0: cat\n- 1: stop sign",
        "names:\n- {id: 0, name: cat}\n- {id: 1, name: stop sign}", "names: {cat: 0, stop sign: 1}",
        "names: {1: stop sign, 0: cat}", "names: labels.txt",
    ],
)  # fmt: skip
def test_names_in_data_yaml(names, tmp_path):
    lay(
        tmp_path, "images/a.jpg", **{"labels/a.txt": f"1{LINE[1:]}", "data.yaml": f"train: images\n{names}\n"}
    )
    lay(tmp_path, **{"labels.txt": "0 cat\n1 stop sign\n"} if "labels.txt" in names else {})
    opened = open_annotated(tmp_path)
    assert opened.truths[0].labels.tolist() == [opened.classes.index("stop sign")]
    assert set(opened.classes) == set(BOTH.values())


@pytest.mark.parametrize(
    "names", ["names: [[cat], [dog]]", "names: {cat: 0, dog: 0}", "names: [0: cat, dog]", "names: {0: [cat]}"]
)
def test_names_in_data_yaml_that_are_none(names, tmp_path):
    lay(tmp_path, "images/a.jpg", **{"labels/a.txt": LINE, "data.yaml": f"train: images\n{names}\n"})
    with pytest.raises(DataError, match=r"data\.yaml has no names: expected a list of class names"):
        open_annotated(tmp_path)
