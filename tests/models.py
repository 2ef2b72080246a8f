"""Small models of random weights, as objects, as the bytes of their files, and as the parts of those."""

from functools import cache
from pathlib import Path
from typing import Any

import torch

from sppnet.classify.classifier import Classifier
from sppnet.detect.components import DetectorComponents
from sppnet.detect.config import DetectorConfig
from sppnet.detect.detector import Detector
from sppnet.heads.ridge import BoxRegressor
from sppnet.nn.model_file import load_model
from sppnet.nn.network import SPPNet
from sppnet.nn.trunks import load_trunk
from sppnet.proposals.dense_windows import WindowConfig
from sppnet.proposals.proposal_head import ProposalHead
from sppnet.svm.linear_svm import LinearSVM


@cache
def small_classifier() -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = SPPNet(load_trunk("zf5", width=1 / 96), (1, 2), num_classes=2, hidden=3)
    return Classifier(network.eval(), ("cat", "dog"))


@cache
def small_detector() -> Detector:
    config = DetectorConfig(trunk="zf5", width=1 / 96, scales=(64,), levels=(1, 2), finetune="none")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        trunk = load_trunk("zf5", width=1 / 96)
        length = trunk.channels * 5
        head = ProposalHead(trunk.channels, WindowConfig(hidden=4))
        svm = LinearSVM(torch.randn(2, length), torch.zeros(2), ("cat", "dog"))
        regressor = BoxRegressor(torch.zeros(2, 4, length), torch.zeros(2, 4), ("cat", "dog"))
    return Detector(
        DetectorComponents(("cat", "dog"), config, trunk.eval(), head.eval(), None, svm, regressor)
    )


@cache
def model_bytes(kind: str, folder: Path) -> bytes:
    path = folder / f"{kind}.safetensors"
    (small_classifier() if kind == "classifier" else small_detector()).save(path)
    return path.read_bytes()


@cache
def model_parts(kind: str, folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    model_bytes(kind, folder)
    return load_model(folder / f"{kind}.safetensors", kind)
