"""fc layers as two thin ones: against the whole layer, against another SVD, and through a detector's file."""

import json

import pytest
import torch
from sklearn.decomposition import TruncatedSVD
from torch import nn

from sppnet.benchmark.detect import random_detector
from sppnet.cli import main
from sppnet.detect.config import DetectorConfig
from sppnet.detect.detector import Detector
from sppnet.errors import ConfigError
from sppnet.heads.fc_layers import detection_head
from sppnet.heads.svd_compression import compress_head, nearest_factors, ranks_of, split_head
from sppnet.nn.model_file import read_header

SMALL = DetectorConfig(
    trunk="squeezenet1_1", scales=(64,), levels=(1, 2), hidden=24, max_proposals=20, finetune="fc"
)


def layer(inputs: int, outputs: int, rank: int) -> nn.Linear:
    """Of weights that have this rank."""
    torch.manual_seed(0)
    made = nn.Linear(inputs, outputs)
    with torch.no_grad():
        made.weight.copy_(torch.randn(outputs, rank) @ torch.randn(rank, inputs))
    return made


@pytest.mark.parametrize(("inputs", "outputs"), [(40, 12), (12, 40), (20, 20)])
@pytest.mark.parametrize("rank", [1, 3])
def test_weights_of_that_rank_lose_nothing(inputs, outputs, rank):
    whole = layer(inputs, outputs, rank)
    vectors = torch.randn(7, inputs)
    with torch.inference_mode():
        torch.testing.assert_close(
            nearest_factors(whole, rank)(vectors), whole(vectors), rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("rank", [1, 4, 9])
def test_no_product_of_that_rank_is_nearer(rank):
    """scikit-learn's truncated SVD, by ARPACK, is as near."""
    whole = layer(30, 18, 18)
    first, second = nearest_factors(whole, rank)
    weights = whole.weight.detach().double()
    ours = torch.linalg.norm(weights - (second.weight @ first.weight).detach())
    peer = TruncatedSVD(rank, algorithm="arpack", random_state=0).fit(weights.numpy())
    nearest = peer.inverse_transform(peer.transform(weights.numpy()))
    assert float(ours) == pytest.approx(
        float(torch.linalg.norm(weights - torch.from_numpy(nearest))), rel=1e-5
    )
    assert first.bias is None
    assert torch.equal(second.bias, whole.bias)


@pytest.mark.parametrize(("ranks", "names"), [((5, 0), ["fc6"]), ((0, 5), ["fc7"]), ((5, 4), ["fc6", "fc7"])])
@pytest.mark.parametrize("make", [compress_head, split_head])
def test_the_layers_asked_for_are_split_and_the_rest_stays(ranks, names, make):
    head = detection_head(60, 24, 3).eval()
    before = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    small = make(head, ranks)
    split = [name for name, part in small.named_children() if isinstance(part, nn.Sequential)]
    assert split == names
    assert ranks_of(small) == list(ranks)
    assert ranks_of(head) == [0, 0]
    assert not small.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in head.state_dict().items())
    assert small(torch.randn(2, 60)).shape == (2, 4)


@pytest.mark.parametrize(
    ("ranks", "words"),
    [
        pytest.param((5,), "two ranks", id="one"),
        pytest.param((), "two ranks", id="none"),
        pytest.param((5, -1), "0 or more", id="below 0"),
        pytest.param((18, 0), "a rank above 17 makes it larger; got 18", id="no gain in fc6"),
        pytest.param((0, 13), "fc7 has 24 × 24 weights", id="no gain in fc7"),
    ],
)
def test_ranks_that_make_no_sense_are_refused(ranks, words):
    with pytest.raises(ConfigError, match=words):
        compress_head(detection_head(60, 24, 3), ranks)


# --- a detector ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def detector():
    return random_detector(SMALL)


def test_a_compressed_detector_is_the_same_after_its_file(tmp_path, detector):
    small = detector.compress((8, 6))
    small.save(tmp_path / "small.safetensors")
    detector.save(tmp_path / "whole.safetensors")
    loaded = Detector.load(tmp_path / "small.safetensors")
    assert read_header(tmp_path / "small.safetensors")["ranks"] == [8, 6]
    assert (tmp_path / "small.safetensors").stat().st_size < (tmp_path / "whole.safetensors").stat().st_size
    pooled = torch.randn(5, small.parts.head.get_submodule("standardise").mean.numel())
    with torch.inference_mode():
        assert torch.equal(loaded.roi_extractor.layers(pooled), small.roi_extractor.layers(pooled))
        assert not torch.equal(small.roi_extractor.layers(pooled), detector.roi_extractor.layers(pooled))


def test_a_detector_is_compressed_once_and_needs_layers(detector):
    with pytest.raises(ConfigError, match="compressed already"):
        detector.compress((8, 0)).compress((4, 0))
    with pytest.raises(ConfigError, match="no fc layers"):
        random_detector(
            DetectorConfig(**{**SMALL.to_json(), "finetune": "none", "svm_layer": "pool"})
        ).compress((8, 0))


@pytest.mark.parametrize("ranks", [[8], [8, 0, 0], ["8", 0], [8, 10**9], [-8, 0], "80", 7, [True, None]])
def test_a_header_with_strange_ranks_is_a_damaged_model(tmp_path, detector, ranks, monkeypatch):
    monkeypatch.setattr("sppnet.detect.components.ranks_of", lambda head: ranks)
    detector.save(tmp_path / "odd.safetensors")
    monkeypatch.undo()
    with pytest.raises(Exception, match=r"odd\.safetensors does not hold what its header describes"):
        Detector.load(tmp_path / "odd.safetensors")


def test_the_command_writes_a_detector_that_evaluates(tmp_path, detector, capsys, monkeypatch):
    detector.save(tmp_path / "whole.safetensors")
    words = ["detect", "compress", "--model", str(tmp_path / "whole.safetensors"), "--ranks", "8,0"]
    monkeypatch.setattr("sys.argv", ["sppnet", *words, "--out", str(tmp_path / "small.safetensors")])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    told = capsys.readouterr()
    assert told.out.strip() == str(tmp_path / "small.safetensors")
    assert "weights before" in told.err
    header = read_header(tmp_path / "small.safetensors")
    assert header["ranks"] == [8, 0]
    assert json.dumps(header["trained"]) == json.dumps({"compressed": str(tmp_path / "whole.safetensors")})
    assert Detector.load(tmp_path / "small.safetensors").classes == detector.classes
