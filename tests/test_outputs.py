"""What commands write and say: places refused before the work, names that can be written, all counted."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models import small_classifier, small_detector
from sppnet.classify.config import TrainingConfig
from sppnet.classify.train import train
from sppnet.cli.destinations import check_file, check_folder, write_csv
from sppnet.data.files import name_from_text
from sppnet.errors import ConfigError, DataError
from sppnet.nn.model_file import load_model
from sppnet.nn.network import SPPNet
from sppnet.nn.trunks import load_trunk
from sppnet.proposals.precomputed import read_boxes

LATIN = os.fsdecode(b"caf\xe9.png")
WRITTEN = r"caf\xe9.png"


def draw(path: Path, seed: int = 0, side: int = 70) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side + 10, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    small_classifier().save(folder / "classifier.safetensors")
    small_detector().save(folder / "detector.safetensors")
    return {kind: folder / f"{kind}.safetensors" for kind in ("classifier", "detector")}


@pytest.fixture
def run(inside, monkeypatch, tmp_path):
    """A command in this process, in its own folder: (code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    return inside


@pytest.fixture
def photos(tmp_path) -> Path:
    """Two images, one of a name that is not UTF-8; one in a format that is never read; a damaged one."""
    draw(tmp_path / "photos" / "1.png")
    draw(tmp_path / "photos" / LATIN, 1)
    (tmp_path / "photos/x.cr2").write_bytes(b"raw")
    (tmp_path / "photos/y.png").write_bytes(b"no image")
    return tmp_path / "photos"


# --- what is left out, and names -----------------------------------------------------------------


COMMANDS = {
    "classify": "classify predict photos --model {classifier} --json --csv new/found.csv",
    "detect": "detect predict photos --model {detector} --json --csv new/found.csv --min-score -9",
    "features": "features photos --model {classifier} --out new/v.safetensors",
    "parquet": "features photos --model {classifier} --out new/v.parquet",
    "found": "detect predict photos --model {detector} --parquet new/found.parquet",
    "proposals": "proposals photos --out new/boxes.json --max-proposals 3",
    "filters": "visualize filters photos --model {classifier} --out new --filters 1",
}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_says_what_it_left_out(run, models, photos, name):
    code, _, said = run(*COMMANDS[name].format(**models).split())
    assert code == (0 if name == "filters" else 1)
    assert "left out: 1 .cr2 file is not read, such as photos/x.cr2; raw camera files" in said
    assert "left out: photos/y.png is not an image" in said
    assert said.count("left out: ") == 2
    assert "used 2 of 4 images" in said


@pytest.mark.parametrize("name", ["classify", "detect"])
def test_json_and_csv_are_both_written(run, models, photos, name):
    _, printed, _ = run(*COMMANDS[name].format(**models).split())
    result = json.loads(printed)
    assert [one["image"] for one in result["predictions"]] == ["photos/1.png", f"photos/{WRITTEN}"]
    assert [reason.split(" is ")[0] for reason in result["skipped"]] == ["1 .cr2 file", "photos/y.png"]
    with open("new/found.csv", encoding="utf-8", newline="") as file:
        named = list(dict.fromkeys(row["image"] for row in csv.DictReader(file)))
    assert named == ["photos/1.png", f"photos/{WRITTEN}"]
    assert Path(name_from_text(named[1])).is_file()


def test_names_that_are_not_text_are_written_to_every_file(run, models, photos):
    from pyarrow import parquet

    for name in ("features", "parquet", "found", "proposals"):
        run(*COMMANDS[name].format(**models).split())
    header, _ = load_model("new/v.safetensors", "vectors")
    assert header["names"] == ["photos/1.png", f"photos/{WRITTEN}"]
    for table in ("new/v.parquet", "new/found.parquet"):
        rows = parquet.read_table(table).to_pylist()
        assert [row["image"] for row in rows] == ["photos/1.png", f"photos/{WRITTEN}", "photos/y.png"]
        assert [row["reason"] is None for row in rows] == [True, True, False]
    boxes = read_boxes("new/boxes.json")
    assert list(boxes.boxes) == ["photos/1.png", f"photos/{WRITTEN}"]
    np.testing.assert_array_equal(boxes.of(photos / LATIN, photos.parent), boxes.boxes[f"photos/{WRITTEN}"])
    assert len(boxes.of(photos / LATIN)) == 3  # by its name alone


def test_evaluation_counts_what_it_left_out(run, models, tmp_path):
    for label in ("cat", "dog"):
        draw(tmp_path / f"data/{label}/1.png")
    (tmp_path / "data/cat/2.png").write_bytes(b"")
    (tmp_path / "data/dog/x.nef").write_bytes(b"raw")
    words = f"classify evaluate data --model {models['classifier']} --report new/page.html".split()
    _, printed, said = run(*words)
    assert "of 2 images; 1 could not be read; 1 left out before" in printed
    assert "used 2 of 4 images" in said
    page = (tmp_path / "new/page.html").read_text()
    assert "2 of 4" in page
    assert "1 .nef file is not read" in page
    _, printed, _ = run(*words, "--json")
    result = json.loads(printed)
    assert (result["images"], result["found"], len(result["skipped"])) == (2, 4, 2)


def test_a_class_without_images_has_no_accuracy(run, models, tmp_path):
    draw(tmp_path / "data/cat/1.png")
    draw(tmp_path / "data/cat/2.png")
    draw(tmp_path / "data/dog/1.png")
    code, printed, _ = run("classify", "evaluate", "data", "--model", models["classifier"], "--split", "val")
    assert code == 0
    assert printed.splitlines()[-1].split() == ["dog", "–"]


def test_detection_tells_what_was_odd_in_annotations(run, models, tmp_path):
    draw(tmp_path / "data/1.png")
    corners = "<xmin>1</xmin><ymin>1</ymin><xmax>60</xmax><ymax>60</ymax>"
    marked = f"<annotation><object><name>cat</name><bndbox>{corners}</bndbox></object></annotation>"
    (tmp_path / "data/1.xml").write_text(marked)
    (tmp_path / "data/gone.xml").write_text(marked)
    code, _, said = run("detect", "evaluate", "data", "--model", models["detector"], "--report", "page.html")
    assert code == 0
    assert "annotations: " in said
    assert "gone.xml" in said
    assert "gone.xml" in (tmp_path / "page.html").read_text()


# --- where things are written --------------------------------------------------------------------


WRITERS = {
    "--csv": "classify predict photos --model {classifier}",
    "--report": "classify evaluate photos --model {classifier}",
    "--out v.safetensors": "features photos --model {classifier}",
    "--out v.parquet": "features photos --model {classifier}",
    "--out boxes.json": "proposals photos",
    "--csv found.csv": "detect predict photos --model {detector}",
    "--parquet": "detect predict photos --model {detector}",
    "--out model.onnx": "export onnx --model {classifier}",
    "--out bins.png": "visualize bins",
    "--out small.safetensors": "detect compress --model {detector}",
}


@pytest.mark.parametrize("option", WRITERS)
def test_a_folder_in_the_place_of_a_file_is_refused_before_the_work(run, models, photos, option, monkeypatch):
    monkeypatch.setattr("sppnet.cli.images.ordered_attempts", lambda *_: pytest.fail("the work has begun"))
    flag, _, name = option.partition(" ")
    place = Path("taken") / (name or "x.csv")
    place.mkdir(parents=True)
    code, _, said = run(*WRITERS[option].format(**models).split(), flag, place)
    assert code == 1
    assert f"{flag} needs the name of a file to write; {place} is a folder" in said


@pytest.mark.parametrize("option", WRITERS)
def test_a_folder_that_cannot_be_made_is_refused_before_the_work(run, models, photos, option, monkeypatch):
    monkeypatch.setattr("sppnet.cli.images.ordered_attempts", lambda *_: pytest.fail("the work has begun"))
    flag, _, name = option.partition(" ")
    Path("taken").write_text("a file")
    code, _, said = run(*WRITERS[option].format(**models).split(), flag, Path("taken") / (name or "x.csv"))
    assert code == 1
    assert "the folder taken cannot be made: taken is a file; choose another place" in said


def test_an_image_is_never_written_over(run, models, photos):
    before = (photos / "1.png").read_bytes()
    code, _, said = run(
        "classify", "predict", photos, "--model", models["classifier"], "--csv", photos / "1.png"
    )
    assert code == 1
    assert "is one of the images; nothing is written over them" in said
    assert (photos / "1.png").read_bytes() == before


def test_places_that_may_not_be_written_are_refused(tmp_path, monkeypatch):
    (tmp_path / "file.csv").write_text("")
    check_file(None, "--csv")
    check_folder(None, "--out")
    check_file(tmp_path / "new" / "deep" / "file.csv", "--csv")
    assert not (tmp_path / "new").exists()  # it is made when there is something to write
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).suffix != ".csv")
    with pytest.raises(ConfigError, match="is there and may not be written"):
        check_file(tmp_path / "file.csv", "--csv")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ConfigError, match="nothing may be written to the folder"):
        check_folder(tmp_path, "--out")


def test_a_table_is_written_through_a_link(tmp_path):
    (tmp_path / "there.csv").write_text("")
    (tmp_path / "link.csv").symlink_to(tmp_path / "there.csv")
    write_csv(tmp_path / "link.csv", ["image", "label"], [["a,b.png", "cat"]])
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "there.csv").read_bytes() == b'image,label\r\n"a,b.png",cat\r\n'


# --- training ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trunk(tmp_path_factory) -> Path:
    import torch

    path = tmp_path_factory.mktemp("trunk") / "trunk.pth"
    torch.manual_seed(0)
    torch.save(load_trunk("zf5", width=0.0625).body.state_dict(), path)
    return path


def make_classes(root: Path, *counts: int) -> Path:
    for label, count in enumerate(counts):
        for number in range(count):
            draw(root / f"c{label}" / f"{number}.png", 10 * label + number)
    return root


def settings(trunk: Path, **options) -> TrainingConfig:
    return TrainingConfig(
        **{"width": 0.0625, "weights": str(trunk), "head": "svm", "scale_px": 64, **options}
    )


@pytest.mark.parametrize(
    ("counts", "trained_on", "held_out"),
    [
        pytest.param((3, 3), 4, True, id="three a class"),
        pytest.param((2, 2), 2, True, id="two a class"),
        pytest.param((2, 2, 2), 3, True, id="two of each of three"),
        pytest.param((1, 1), 2, False, id="one a class"),
        pytest.param((1, 5), 5, True, id="one of one"),
    ],
)
@pytest.mark.parametrize("head", ["svm", "fc"])
def test_few_photographs_are_enough(tmp_path, trunk, caplog, counts, trained_on, held_out, head):
    config = settings(
        trunk,
        head=head,
        **({"sizes": "64", "scale_px": 224, "epochs": 1, "hidden": 8} if head == "fc" else {}),
    )
    result = train(make_classes(tmp_path / "data", *counts), tmp_path / "run", config)
    assert (result.images, result.held_out) == (trained_on, held_out)
    assert result.validation.images == sum(counts) - trained_on * held_out
    assert ("none is held out" in caplog.text) == (not held_out)
    chosen = head == "fc" or trained_on > len(counts)
    assert ("C is not chosen but 1" in caplog.text) == (not chosen)


@pytest.mark.parametrize("head", ["svm", "fc"])
@pytest.mark.parametrize(
    "counts", [pytest.param((1,), id="one photograph"), pytest.param((4,), id="one class")]
)
def test_one_class_is_refused_before_the_work(tmp_path, trunk, counts, head):
    with pytest.raises(DataError, match=r"has images of one class alone, c0; a classifier needs two"):
        train(
            make_classes(tmp_path / "data", *counts),
            tmp_path / "run",
            settings(trunk, head=head, scale_px=224),
        )
    assert not (tmp_path / "run").exists()


def test_a_class_of_damaged_images_is_named(tmp_path, trunk):
    make_classes(tmp_path / "data", 3, 3)
    for file in (tmp_path / "data/c1").iterdir():
        file.write_bytes(b"")
    with pytest.raises(
        DataError, match=r"of the images of c1 to train on none could be read; the first: .* is empty"
    ):
        train(tmp_path / "data", tmp_path / "run", settings(trunk))


def test_training_says_how_many_of_how_many(run, tmp_path, trunk):
    make_classes(tmp_path / "data", 5, 5)
    (tmp_path / "data/c0/x.arw").write_bytes(b"raw")
    (tmp_path / "data/c1/stray.png").write_bytes(b"")
    draw(tmp_path / "data/stray.png")
    latin = os.fsencode(tmp_path / "data") + b"/caf\xe9"
    os.rename(tmp_path / "data/c0", latin)
    words = f"classify train data --out run --width 0.0625 --weights {trunk} --head svm --scale 64".split()
    code, _, said = run(*words)
    assert code == 0
    assert "left out: 1 .arw file is not read" in said
    assert "left out: 1 image is beside the class folders, such as data/stray.png" in said
    assert "data/c1/stray.png is empty" in said
    assert "used 10 of 13 images" in said
    header, _ = load_model("run/best.safetensors", "classifier")
    assert header["classes"] == ["c1", r"caf\xe9"]
    page = Path("run/report.html").read_text()
    assert "1 .arw file is not read" in page
    code, _, said = run("classify", "evaluate", "data", "--model", "run/best.safetensors", "--split", "val")
    assert code == 0


def test_cosine_follows_half_a_cosine(tmp_path, trunk):
    from sppnet.classify.distributed import Workers
    from sppnet.classify.run_folder import RunFolder
    from sppnet.classify.sgd import Trainer
    from sppnet.data.folder import open_folder

    config = settings(trunk, head="fc", scale_px=224, schedule="cosine", epochs=4, learning_rate=0.1)
    network = SPPNet(load_trunk("zf5", width=0.0625), (1,), num_classes=2, hidden=4)
    images = open_folder(make_classes(tmp_path / "data", 1, 1))
    trainer = Trainer(network, images, config, RunFolder(tmp_path), Workers())
    rates = [trainer._set_rate(epoch) for epoch in range(5)]
    assert rates == pytest.approx([0.1, 0.1 * (2 + 2**0.5) / 4, 0.05, 0.1 * (2 - 2**0.5) / 4, 0.0])
