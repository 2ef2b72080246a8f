"""Weights files of every kind, good and bad, and state dicts of a whole network put into its front."""

import hashlib
import pickle
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import models

from sppnet.errors import ModelError
from sppnet.nn.model_file import read_header
from sppnet.nn.pretrained import published_weights
from sppnet.nn.trunks import load_trunk
from sppnet.nn.weights import current_names, load_weights, read_weights, under_prefix

SHARED = Path(__file__).parents[2] / "shared" / "data" / "weights"
needs_shared = pytest.mark.skipif(
    not SHARED.is_dir(), reason="no ../shared/data/weights beside the repository"
)


def state() -> dict[str, Tensor]:
    return {"conv.weight": torch.arange(6.0).reshape(2, 3, 1, 1), "conv.bias": torch.ones(2)}


def network() -> nn.Sequential:
    net = nn.Sequential()
    net.add_module("conv", nn.Conv2d(3, 2, 1))
    return net


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


# --- reading -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrap",
    [
        lambda tensors: tensors,
        lambda tensors: {"state_dict": tensors, "epoch": 3},
        lambda tensors: {"model": tensors},
        lambda tensors: {"module." + name: tensor for name, tensor in tensors.items()},
        lambda tensors: {"state_dict": {"module." + name: tensor for name, tensor in tensors.items()}},
        lambda tensors: {"_orig_mod." + name: tensor for name, tensor in tensors.items()},
        lambda tensors: {"module._orig_mod." + name: tensor for name, tensor in tensors.items()},
        lambda tensors: {"model._orig_mod.module." + name: tensor for name, tensor in tensors.items()},
        lambda tensors: {name.replace(".", "._orig_mod."): tensor for name, tensor in tensors.items()},
        lambda tensors: {"model_state_dict": tensors, "optimizer_state_dict": {"lr": 0.1}},
        lambda tensors: {"model": {"state_dict": tensors}, "ema": {"decay": 0.9}},
        lambda tensors: {"ema": {"module": tensors}, "step": torch.tensor(7)},
        lambda tensors: {"params_ema": tensors},
    ],
    ids=[
        "plain",
        "in state_dict",
        "in model",
        "from DataParallel",
        "both",
        "compiled",
        "compiled, in parallel",
        "three deep",
        "parts compiled",
        "in model_state_dict",
        "nested twice",
        "a moving average",
        "as BasicSR",
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".pt"])
def test_torch_files_are_unwrapped(tmp_path: Path, wrap: Any, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    torch.save(wrap(state()), path)
    assert same(read_weights(path), state())
    assert same(read_weights(str(path)), state())


@pytest.mark.parametrize("suffix", [".ckpt", ".bin", ".pth.tar"])
def test_torch_files_of_other_names_are_read(tmp_path: Path, suffix: str) -> None:
    torch.save(state(), tmp_path / f"weights{suffix}")
    assert same(read_weights(tmp_path / f"weights{suffix}"), state())


@pytest.mark.parametrize("prefix", ["backbone.", "student.encoder.", "model.0."])
def test_a_network_within_a_training_module_is_found(prefix: str) -> None:
    known = set(state()) | {"head.weight"}
    wrapped = {prefix + name: tensor for name, tensor in state().items()}
    wrapped["loss.weight"] = torch.ones(1)
    assert same(under_prefix(wrapped, known), state())
    assert same(under_prefix(state(), known), state())
    twice = wrapped | {"teacher." + name: tensor for name, tensor in state().items()}
    assert twice == under_prefix(twice, known), "which of the two is meant cannot be known"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty \\(0 bytes\\): download"),
        (b"\n<!DOCTYPE html><title>log in</title>", "a web page.*download the file again"),
        (b"\xef\xbb\xbf<html>", "a web page"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7\n",
            "a Git LFS pointer.*git lfs",
        ),
        (b"Not found", "text that begins with 'Not found'"),
        (b'{"error": "gone"}', "text that begins with"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5.*Keras"),
        (b"\x1f\x8b\x08\0", "a gzip.*unpack"),
        (bytes(257) + b"ustar" + bytes(300), "a tar.*unpack"),
        (bytes(5000), "nothing but zeros.*download"),
    ],
    ids=[
        "nothing",
        "a page",
        "a page with a mark",
        "a pointer",
        "words",
        "JSON",
        "Keras",
        "an archive",
        "a tar",
        "zeros",
    ],
)
def test_what_came_instead_of_weights_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    for name, read in (
        ("w.pth", read_weights),
        ("w.safetensors", read_weights),
        ("m.safetensors", read_header),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ModelError, match=rf"(?s){name}.*it is {message}"):
            read(tmp_path / name)
        assert (tmp_path / name).read_bytes() == content


def test_weights_in_a_zip_archive_are_to_be_unpacked(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(2)}, tmp_path / "inner.pth")
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
        archive.write(tmp_path / "inner.pth", "release/inner.pth")
    with pytest.raises(ModelError, match=r"w\.pth .*it is a zip archive: unpack it first"):
        read_weights(tmp_path / "w.pth")


def test_weights_are_not_fetched_from_an_address() -> None:
    with pytest.raises(ModelError, match=r"not from the network: download https://example\.com/w\.pth first"):
        read_weights("https://example.com/w.pth")


@pytest.mark.parametrize("kept", [0.02, 0.5, 0.99])
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_files_that_were_cut_off_are_named(tmp_path: Path, name: str, kept: float) -> None:
    path = tmp_path / name
    if name == "w.pth":
        torch.save(state(), path)
    else:
        save_file(state(), path)
    assert same(read_weights(path), state())
    content = path.read_bytes()
    path.write_bytes(content[: max(64, int(kept * len(content)))])
    with pytest.raises(ModelError, match=rf"(?s){name}.*it is the beginning of one, whose end is missing: d"):
        read_weights(path)


# --- published weights ---------------------------------------------------------------------------


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """A server on this machine that hands out a weights file, its URL with the hash, and torch's cache."""
    torch.save(state(), tmp_path / "served")
    content = (tmp_path / "served").read_bytes()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b"<html>log in</html>" if "page" in self.path else content
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None: ...

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("no_proxy", "*")
    digest = hashlib.sha256(content).hexdigest()[:8]
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/net-{digest}.pth"
        yield url, tmp_path / "torch" / "hub" / "checkpoints" / f"net-{digest}.pth"
        server.shutdown()


def test_published_weights_are_downloaded_once(published: tuple[str, Path], capfd: Any) -> None:
    url, path = published
    assert same(published_weights(url), state())
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert same(published_weights("http://nowhere.invalid/" + path.name), state())
    assert capfd.readouterr() == ("", "")


def test_a_page_in_place_of_a_download_is_not_kept(published: tuple[str, Path]) -> None:
    url, path = published
    with pytest.raises(ModelError, match=r"SHA-256.*proxy.*copy it to"):
        published_weights(url.replace("/net-", "/page/net-"))
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("content", [b"<html>log in</html>", b"", b"PK\x03\x04 cut"])
def test_a_damaged_cache_is_named_and_left_alone(published: tuple[str, Path], content: bytes) -> None:
    url, path = published
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(ModelError, match=f"delete {path} and run this again"):
        published_weights(url)
    assert path.read_bytes() == content


def test_without_network_one_is_told_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", "*")
    url = "http://127.0.0.1:9/net-01234567.pth"
    with pytest.raises(ModelError, match=r"cannot be reached.*Connection refused.*https_proxy.*weights file"):
        published_weights(url)
    monkeypatch.setattr("sppnet.nn.connection.ANSWER_SECONDS", 0.05)
    monkeypatch.setattr("urllib.request.urlopen", lambda *args, **options: time.sleep(1))
    with pytest.raises(ModelError, match="no answer within"):
        published_weights(url)


def test_without_a_home_no_folder_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.hub.get_dir", lambda: "~/.cache/torch/hub")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="set TORCH_HOME"):
        published_weights("http://127.0.0.1:9/net-01234567.pth")
    assert list(tmp_path.iterdir()) == []


def test_safetensors_are_read(tmp_path: Path) -> None:
    save_file(state(), tmp_path / "weights.safetensors")
    assert same(read_weights(tmp_path / "weights.safetensors"), state())


class Boobytrap:
    """A pickle that would write a file on being loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_pickled_objects_are_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({"state_dict": Boobytrap(tmp_path / "ran")}, tmp_path / "bad.pth")
    with pytest.raises(ModelError, match=r"bad\.pth .*safetensors"):
        read_weights(tmp_path / "bad.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Boobytrap(tmp_path / "ran")))
    with pytest.raises(ModelError, match=r"plain\.pth"):
        read_weights(tmp_path / "plain.pth")
    torch.save(network(), tmp_path / "network.pth")
    with pytest.raises(ModelError, match=r"network\.pth .*safetensors"):
        read_weights(tmp_path / "network.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    "content", [b"", b"no weights", b"PK\x03\x04 cut short"], ids=["empty", "text", "cut"]
)
def test_damaged_files_are_named(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"damaged{suffix}"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="damaged"):
        read_weights(path)


def test_a_file_cut_short_is_named(tmp_path: Path) -> None:
    for suffix in (".pth", ".safetensors"):
        whole, cut = tmp_path / f"whole{suffix}", tmp_path / f"short{suffix}"
        if suffix == ".pth":
            torch.save(state(), whole)
        else:
            save_file(state(), whole)
        cut.write_bytes(whole.read_bytes()[:-40])
        with pytest.raises(ModelError, match="short"):
            read_weights(cut)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list; expected a state dict"),
        ({}, "nothing in it"),
        ({"epoch": 3, "lr": 0.1}, "epoch, lr in it instead of tensors"),
    ],
    ids=["a list", "an empty dict", "numbers"],
)
def test_files_without_tensors_are_refused(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(ModelError, match=message):
        read_weights(tmp_path / "odd.pth")


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no weights file at"):
        read_weights(tmp_path / "absent.pth")
    (tmp_path / "weights.h5").touch()
    with pytest.raises(ModelError, match=r"\.safetensors, \.pth, \.pt.*got .*weights\.h5"):
        read_weights(tmp_path / "weights.h5")


# --- fitting -------------------------------------------------------------------------------------


def test_the_part_cut_away_is_passed_over() -> None:
    net = network()
    load_weights(net, state() | {"fc.weight": torch.ones(5)}, known=[*state(), "fc.weight", "fc.bias"])
    assert same(net.state_dict(), state())


def test_parameters_without_memory_take_the_tensors_themselves() -> None:
    net, tensors = network().to("meta"), state()
    load_weights(net, tensors)
    assert net.conv.weight.data_ptr() == tensors["conv.weight"].data_ptr()
    assert net.conv.weight.requires_grad


def test_half_precision_becomes_the_precision_of_the_network() -> None:
    net = network().to("meta")
    load_weights(net, {name: tensor.half() for name, tensor in state().items()})
    assert net.conv.weight.dtype == torch.float32


MISFITS = {
    "a name is missing": ({"conv.weight": state()["conv.weight"]}, "lack conv.bias"),
    "a name is unknown": (state() | {"fc.bias": torch.ones(1)}, "network does not have: fc.bias"),
    "a shape differs": (
        state() | {"conv.bias": torch.ones(7)},
        r"another shape at conv.bias \(expected \(2,\), got \(7,\)\)",
    ),
    "a value is NaN": (
        state() | {"conv.bias": torch.tensor([1, torch.nan])},
        r"NaN or infinity in conv.bias \(1 of 2 values\).*diverged.*earlier checkpoint",
    ),
    "a value is infinite": (
        state() | {"conv.weight": state()["conv.weight"].half() / 0},
        r"NaN or infinity in conv.weight",
    ),
    "many names are unknown": (
        state() | {f"x{number}": torch.ones(1) for number in range(9)},
        "x0, x1, x2, x3, x4 and 4 more",
    ),
}


@pytest.mark.parametrize(("tensors", "message"), MISFITS.values(), ids=MISFITS.keys())
def test_misfits_are_named_and_nothing_is_set(tensors: dict[str, Tensor], message: str) -> None:
    net = network()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(ModelError, match=message):
        load_weights(net, tensors)
    assert same(net.state_dict(), before)


def test_old_densenet_names_become_those_of_today() -> None:
    old = {
        "features.denseblock1.denselayer2.norm.1.weight": 0,
        "features.denseblock1.denselayer2.conv.2.weight": 1,
    }
    found = current_names({name: torch.tensor(value) for name, value in old.items()})
    assert list(found) == [
        "features.denseblock1.denselayer2.norm1.weight",
        "features.denseblock1.denselayer2.conv2.weight",
    ]


# --- a whole network's weights in a trunk --------------------------------------------------------


def test_a_trunk_takes_a_whole_networks_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = models.squeezenet1_1().eval()
    save_file(whole.state_dict(), tmp_path / "squeezenet.safetensors")
    trunk = load_trunk("squeezenet1_1", stride=8, weights=tmp_path / "squeezenet.safetensors").eval()
    images = torch.rand(1, 3, 65, 97)
    with torch.no_grad():
        assert torch.equal(trunk(images), whole.features[: len(trunk.body.features)](images))


def test_tensors_given_by_name_are_copied() -> None:
    tensors = models.squeezenet1_1().state_dict()
    trunk = load_trunk("squeezenet1_1", weights=tensors)
    before = tensors["features.0.bias"].clone()
    with torch.no_grad():
        trunk.body.features[0].bias += 1
    assert torch.equal(tensors["features.0.bias"], before)


def test_another_networks_weights_are_refused() -> None:
    with pytest.raises(ModelError, match=r"lack features\..*are they for another network"):
        load_trunk("squeezenet1_1", weights=models.squeezenet1_0().state_dict())
    with pytest.raises(ModelError, match=r"lack bn1\.bias, .* more"):
        load_trunk("resnet18", weights=models.squeezenet1_0().state_dict())


def test_imagenet_weights_come_from_torchs_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = models.SqueezeNet1_1_Weights.DEFAULT.url
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    whole = models.squeezenet1_1()
    torch.save(whole.state_dict(), folder / url.rpartition("/")[2])
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    trunk = load_trunk("squeezenet1_1", weights="imagenet")
    assert same(trunk.body.state_dict(), {f"features.{n}": t for n, t in whole.features.state_dict().items()})


def test_the_papers_trunks_have_no_imagenet_weights() -> None:
    with pytest.raises(ModelError, match="no ImageNet weights are published for zf5"):
        load_trunk("zf5", weights="imagenet")


@pytest.mark.shared
@needs_shared
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("mobilenet_v2", "mobilenet_v2_imagenet.pth"),
        ("squeezenet1_0", "squeezenet1_0_imagenet.pth"),
        ("squeezenet1_1", "squeezenet1_1_imagenet_features.pth"),
    ],
)
@pytest.mark.parametrize("stride", [16, None], ids=["at stride 16", "whole"])
def test_real_weights_give_torchvisions_features(name: str, file: str, stride: int | None) -> None:
    tensors = torch.load(SHARED / file, weights_only=True)
    whole = models.get_model(name)
    whole.load_state_dict(tensors, strict="features" not in file)
    trunk = load_trunk(name, stride=stride, weights=SHARED / file).eval()
    front = whole.eval().features[: len(trunk.body.features)]
    images = torch.randn(1, 3, 96, 130)
    with torch.no_grad():
        assert torch.equal(trunk(images), front(images))
