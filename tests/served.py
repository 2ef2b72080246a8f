"""Small models of random weights, and a server for them."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from browser import until
from sppnet.classify.classifier import Classifier, Testing
from sppnet.detect.components import DetectorComponents
from sppnet.detect.config import DetectorConfig
from sppnet.detect.detector import Detector
from sppnet.heads.ridge import BoxRegressor
from sppnet.nn.network import SPPNet
from sppnet.nn.trunks import load_trunk
from sppnet.proposals.dense_windows import WindowConfig
from sppnet.proposals.proposal_head import ProposalHead
from sppnet.serve.limits import Limits
from sppnet.serve.server import open_server
from sppnet.svm.linear_svm import LinearSVM

CLASSES = ("cat", "dog")


@contextmanager
def serving(model: Any, limits: Limits | None = None) -> Iterator[str]:
    """The URL of a server in a thread."""
    server, place = open_server(model, "127.0.0.1", 0, limits or Limits())
    thread = threading.Thread(target=server.run, kwargs={"sockets": [place]})
    thread.start()
    try:
        until(lambda: server.started)
        yield f"http://127.0.0.1:{place.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        place.close()


def make_detector() -> Detector:
    """Says yes to about half of all windows."""
    torch.manual_seed(0)
    config = DetectorConfig(
        trunk="zf5",
        stride=None,
        width=0.1,
        scales=(160,),
        levels=(1, 2, 3),
        max_proposals=60,
        finetune="none",
    )
    trunk = load_trunk("zf5", width=0.1).eval()
    length = trunk.channels * 14
    windows = ProposalHead(
        trunk.channels, WindowConfig(sizes=(2, 4), shapes=(0.5, 1.0, 2.0), hidden=8)
    ).eval()
    svm = LinearSVM(torch.randn(2, length) / 10, torch.zeros(2), CLASSES)
    regressor = BoxRegressor(torch.randn(2, 4, length) / 500, torch.zeros(2, 4), CLASSES)
    return Detector(DetectorComponents(CLASSES, config, trunk, windows, None, svm, regressor))


def make_classifier() -> Classifier:
    torch.manual_seed(0)
    network = SPPNet(load_trunk("zf5", width=0.0625), (1, 2, 3), 2, hidden=16).eval()
    nn.init.normal_(network.head.fc8.weight)
    return Classifier(network, CLASSES, Testing(scale_px=160), {})
