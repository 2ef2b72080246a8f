"""Model files: readable without this package, whole or not there, refused by name when damaged."""

import ast
import json
import os
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import sppnet
from sppnet.classify.classifier import Classifier, Testing
from sppnet.errors import ModelError
from sppnet.nn.model_file import FORMAT, load_model, read_header, save_model, write_file
from sppnet.nn.network import SPPNet
from sppnet.nn.trunks import load_trunk

SOURCE = Path(sppnet.__file__).parent


def tensors() -> dict[str, Tensor]:
    return {
        "weight": torch.arange(6.0).reshape(2, 3),
        "counter": torch.tensor(7),
        "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        "turned": torch.arange(6.0).reshape(2, 3).T,  # not contiguous
        "empty": torch.zeros(0, 4),
    }


def classifier() -> Classifier:
    torch.manual_seed(0)
    network = SPPNet(load_trunk("zf5", width=0.0625), (1, 2), num_classes=2, hidden=8).eval()
    return Classifier(network, ("Katze", "Hund 🐕"), Testing("crop", 240, 64), {"epochs": 3})


def by_hand(path: Path, metadata: Any, *, data: bytes = b"") -> Path:
    """A safetensors file as its format description says: length, JSON, bytes."""
    header = json.dumps({"__metadata__": metadata}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    return path


# --- what is written comes back ------------------------------------------------------------------


def test_round_trip(tmp_path):
    path = tmp_path / "deep" / "folder" / "model.safetensors"
    save_model(path, "thing", {"classes": ["ä", "b"], "nested": {"x": [1, None]}}, tensors())
    header, found = load_model(path, "thing")
    assert header["kind"] == "thing"
    assert (header["classes"], header["nested"]) == (["ä", "b"], {"x": [1, None]})
    assert header["sppnet"] == sppnet.__version__
    assert found.keys() == tensors().keys()
    for name, tensor in tensors().items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_the_file_is_read_without_this_package(tmp_path):
    path = tmp_path / "model.safetensors"
    original = classifier()
    original.save(path)
    with safe_open(path, "pt") as file:
        (text,) = file.metadata().values()
    header = json.loads(text)
    assert header["kind"] == "classifier"
    assert header["format"] == 1
    assert header["classes"] == ["Katze", "Hund 🐕"]
    assert "Hund 🐕" in text  # written out, for people who look into the file
    assert header["testing"] == {"views": "crop", "scale_px": 240, "size_px": 64, "scale_full_px": 0}
    assert header["network"]["levels"] == [1, 2]
    assert header["network"]["trunk"]["name"] == "zf5"
    assert header["normalisation"] == {"mean": [128 / 255] * 3, "std": [0.25] * 3}
    assert header["training"] == {"epochs": 3}
    assert load_file(path).keys() == original.network.state_dict().keys()


def test_a_classifier_comes_back_whole(tmp_path):
    original = classifier()
    original.save(tmp_path / "model.safetensors")
    again = Classifier.load(tmp_path / "model.safetensors")
    assert (again.classes, again.testing, again.training) == (
        original.classes,
        original.testing,
        original.training,
    )
    assert not again.network.training
    image = torch.rand(3, 70, 90, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again.scores(image), original.scores(image))


def test_weights_of_another_precision_are_brought_to_the_networks(tmp_path):
    original = classifier()
    original.save(tmp_path / "model.safetensors")
    header, found = load_model(tmp_path / "model.safetensors", "classifier")
    halves = {name: tensor.double() for name, tensor in found.items()}
    save_model(tmp_path / "double.safetensors", "classifier", header, halves)
    image = torch.rand(3, 70, 90, generator=torch.Generator().manual_seed(0))
    again = Classifier.load(tmp_path / "double.safetensors")
    assert torch.equal(again.scores(image), original.scores(image))


# --- damaged, foreign and hostile files ----------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "model.safetensors"
    classifier().save(path)
    return path.read_bytes()


def header_end(content: bytes) -> int:
    return 8 + struct.unpack("<Q", content[:8])[0]


@pytest.mark.parametrize(
    "cut",
    [
        pytest.param(lambda content: 0, id="empty"),
        pytest.param(lambda content: 4, id="within the length"),
        pytest.param(lambda content: 8, id="after the length"),
        pytest.param(lambda content: header_end(content) // 2, id="within the header"),
        pytest.param(header_end, id="after the header"),
        pytest.param(lambda content: (header_end(content) + len(content)) // 2, id="within the weights"),
        pytest.param(lambda content: len(content) - 1, id="one byte short"),
    ],
)
def test_truncated_files_are_named(tmp_path, whole, cut):
    path = tmp_path / "cut.safetensors"
    path.write_bytes(whole[: cut(whole)])
    with pytest.raises(ModelError, match=r"cut\.safetensors"):
        Classifier.load(path)


def with_header(**changes) -> dict[str, str]:
    return {"sppnet": json.dumps({"kind": "classifier", "format": FORMAT, **changes})}


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        pytest.param({}, "without sppnet's header; pass it as --weights", id="no header of ours"),
        pytest.param({"format": "pt"}, "without sppnet's header", id="another program's header"),
        pytest.param(with_header(kind="checkpoint"), "holds a checkpoint; expected a classifier", id="kind"),
        pytest.param(
            with_header(format=2), "header format 2; this version .* reads format 1", id="newer format"
        ),
        pytest.param(with_header(format=None), "header format None", id="no format"),
        pytest.param({"sppnet": "{not JSON"}, "damaged header", id="not JSON"),
        pytest.param({"sppnet": ""}, "damaged header", id="nothing"),
        pytest.param({"sppnet": "[1, 2]"}, "header format list", id="JSON of another kind"),
        pytest.param({"sppnet": "[" * 200_000}, "damaged header", id="nested without end"),
        pytest.param({"sppnet": "9" * 10_000}, "damaged header", id="a number of 10,000 digits"),
        pytest.param({"sppnet": 5}, "not a readable safetensors file", id="metadata that is no text"),
        pytest.param("text", "not a readable safetensors file", id="metadata that is no object"),
    ],
)
def test_headers_that_are_not_ours(tmp_path, metadata, message):
    path = by_hand(tmp_path / "odd.safetensors", metadata)
    with pytest.raises(ModelError, match=f"odd.safetensors.*{message}"):
        Classifier.load(path)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(struct.pack("<Q", 2**63) + b"{}", id="a header of 2^63 bytes"),
        pytest.param(struct.pack("<Q", 200_000_000) + b"{}", id="a header of 200 MB that is not there"),
        pytest.param(b"\x80\x04\x95" + b"\0" * 100, id="a pickle"),
        pytest.param(b"PK\x03\x04" + b"\0" * 100, id="a zip, as torch.save writes"),
    ],
)
def test_files_that_are_no_safetensors(tmp_path, content):
    path = tmp_path / "odd.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"odd\.safetensors is not a readable safetensors file"):
        read_header(path)


def test_a_folder_in_place_of_a_model_names_its_files(tmp_path):
    with pytest.raises(ModelError, match=r"a folder; name a file in it \(it holds no \.safetensors\)"):
        read_header(tmp_path)
    for name in ("last.safetensors", "best.safetensors", "config.json"):
        (tmp_path / name).touch()
    with pytest.raises(ModelError, match=r"name a file in it \(best\.safetensors, last\.safetensors\)"):
        read_header(tmp_path)


@pytest.mark.parametrize("path", ["missing.safetensors", "."])
def test_there_is_no_file(tmp_path, path):
    with pytest.raises(ModelError, match="no model file at"):
        read_header(tmp_path / path)


def renamed(header, found):
    found["head.fc9.weight"] = found.pop("head.fc8.weight")


def reshaped(header, found):
    found["head.fc8.weight"] = torch.zeros(3, 8)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(renamed, id="a weight of another name"),
        pytest.param(reshaped, id="a weight of another shape"),
        pytest.param(lambda header, found: found.popitem(), id="a weight missing"),
        pytest.param(lambda header, found: found.update(more=torch.ones(1)), id="a weight too many"),
        pytest.param(lambda header, found: found.clear(), id="no weights"),
        pytest.param(lambda header, found: header.pop("network"), id="no network"),
        pytest.param(lambda header, found: header.pop("classes"), id="no classes"),
        pytest.param(lambda header, found: header.update(network="zf5"), id="a network that is text"),
        pytest.param(lambda header, found: header["network"].pop("trunk"), id="no trunk"),
        pytest.param(lambda header, found: header["network"]["trunk"].update(name="zf6"), id="unknown trunk"),
        pytest.param(lambda header, found: header["network"]["trunk"].update(name=5), id="a trunk called 5"),
        pytest.param(lambda header, found: header["network"]["trunk"].update(stride=7), id="another stride"),
        pytest.param(lambda header, found: header["network"].update(levels=[0]), id="a level of 0"),
        pytest.param(lambda header, found: header["network"].update(levels="all"), id="levels that are text"),
        pytest.param(lambda header, found: header["network"].update(levels=[10**9]), id="a level of 10^9"),
        pytest.param(lambda header, found: header["network"].update(hidden=-8), id="hidden below 0"),
        pytest.param(lambda header, found: header["network"].update(hidden=10**30), id="hidden beyond int64"),
        pytest.param(lambda header, found: header["network"].update(hidden="8"), id="hidden that is text"),
        pytest.param(lambda header, found: header["network"].update(num_classes=3), id="a class more"),
        pytest.param(lambda header, found: header["network"].update(head="mlp"), id="an unknown head"),
        pytest.param(lambda header, found: header["network"].update(colour="red"), id="an unknown option"),
        pytest.param(lambda header, found: header.update(classes=["one"]), id="too few class names"),
        pytest.param(lambda header, found: header.update(classes=7), id="classes that are a number"),
        pytest.param(lambda header, found: header.update(testing={"views": "all"}), id="unknown views"),
        pytest.param(lambda header, found: header.update(testing=None), id="no testing"),
    ],
)
def test_headers_that_do_not_describe_the_weights(tmp_path, whole, change):
    (tmp_path / "good.safetensors").write_bytes(whole)
    header, found = load_model(tmp_path / "good.safetensors", "classifier")
    change(header, found)
    path = tmp_path / "odd.safetensors"
    save_model(path, "classifier", header, found)
    with pytest.raises(ModelError, match=r"odd\.safetensors") as caught:
        Classifier.load(path)
    assert "\n" not in str(caught.value)


def test_a_network_that_no_name_builds_again_is_not_saved(tmp_path):
    body = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, 2), torch.nn.ReLU())
    unnamed = Classifier(SPPNet(body, (1,), num_classes=2, hidden=8), ("a", "b"))
    with pytest.raises(ModelError, match="Sequential"):
        unnamed.save(tmp_path / "model.safetensors")
    assert list(tmp_path.iterdir()) == []


# --- whole or not at all -------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["replace", "fsync", "chmod"])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()], ids=["an error", "Ctrl-C"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, step, error):
    path = tmp_path / "model.safetensors"
    save_model(path, "thing", {}, tensors())
    before = path.read_bytes()

    def fail(*args, **options):
        raise error

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(type(error)):
        save_model(path, "other", {}, {"weight": torch.zeros(100)})
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_written_file_replaces_the_old_one_and_can_be_read_by_others(tmp_path):
    path = tmp_path / "a.json"
    write_file(path, b"one")
    write_file(str(path), b"two")
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(tmp_path.iterdir()) == [path]


def test_devices_are_written_into(tmp_path):
    """As root, /dev/null could be replaced; here a link to it stands in the way."""
    link = tmp_path / "nothing"
    link.symlink_to("/dev/null")
    write_file(link, b"one")
    assert link.is_symlink()
    assert Path("/dev/null").is_char_device()
    assert list(tmp_path.iterdir()) == [link]


def test_pipes_are_written_into(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(pipe.read_bytes)
        write_file(pipe, b"one")
        assert read.result(timeout=10) == b"one"
    assert pipe.is_fifo()


@pytest.mark.parametrize("folder", ["/dev/fd", "/proc/self/fd"])
def test_open_files_are_written_on(tmp_path, folder):
    """What `> table.csv` opened holds all that was written, in order."""
    if not Path(folder).is_dir():
        pytest.skip(f"no {folder} on this system")
    with (tmp_path / "table.csv").open("wb", buffering=0) as file:
        link = tmp_path / "stdout"
        link.symlink_to(f"{folder}/{file.fileno()}")
        file.write(b"one ")
        write_file(link, b"two ")
        write_file(f"{folder}/{file.fileno()}", b"three ")
        file.write(b"four")
    assert (tmp_path / "table.csv").read_bytes() == b"one two three four"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["stdout", "table.csv"]


def test_what_a_link_leads_to_is_replaced(tmp_path):
    (tmp_path / "disk").mkdir()
    link, target = tmp_path / "model", tmp_path / "disk" / "model"
    link.symlink_to("disk/model")
    for content in (b"one", b"two"):
        write_file(link, content)
        assert target.read_bytes() == content
    assert link.is_symlink()
    assert list((tmp_path / "disk").iterdir()) == [target]


def test_foreign_weights_are_told_from_a_model(tmp_path):
    save_file({"weight": torch.ones(1)}, tmp_path / "trunk.safetensors")
    with pytest.raises(ModelError, match=r"trunk\.safetensors holds weights without sppnet's header"):
        Classifier.load(tmp_path / "trunk.safetensors")


# --- nothing that is loaded can run --------------------------------------------------------------

RUNNERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def imports(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


def test_no_pickle_is_read_or_written_anywhere():
    sources = sorted(SOURCE.rglob("*.py"))
    assert len(sources) > 30
    with_pickle = []
    for path in sources:
        tree = ast.parse(path.read_text())
        if imports(tree) & RUNNERS:
            with_pickle.append(path.relative_to(SOURCE).as_posix())
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                called = f"{node.value.id}.{node.attr}"
                assert called not in ("torch.save", "joblib.load", "marshal.loads"), (path, node.lineno)
                if node.value.id == "pickle":  # to tell what torch refused, and for nothing else
                    assert node.attr == "UnpicklingError", (path, node.lineno)
            if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                "torch.load",
                "np.load",
                "numpy.load",
            ):
                options = {word.arg: ast.unparse(word.value) for word in node.keywords}
                safe = options.get("weights_only") == "True" or "torch" not in ast.unparse(node.func)
                assert safe, (path, node.lineno)
                assert "allow_pickle" not in options, (path, node.lineno)
    assert with_pickle == ["nn/weights.py"]
