"""Detectors of others, from an image file to boxes: torchvision's, and ONNX files like YOLOX."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor, nn

from sppnet.boxes import clip_boxes
from sppnet.data.detection_dataset import AnnotatedImages
from sppnet.data.image import read_image
from sppnet.data.transforms import resize_to
from sppnet.errors import ConfigError, ImageError
from sppnet.metrics.detection import DetectionResult, evaluate_detections
from sppnet.nn.coco_classes import known_class
from sppnet.nn.engines import make_engine
from sppnet.nn.fusion import fuse_conv_bn
from sppnet.nn.onnx_head_outputs import sigmoid
from sppnet.nn.onnx_trunk import OnnxTrunk
from sppnet.ops.nms import nms
from sppnet.progress import Progress, track
from sppnet.structures import Detections
from sppnet.threads import ordered_attempts

TORCHVISION = (
    "fasterrcnn_mobilenet_v3_large_fpn",
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "ssdlite320_mobilenet_v3_large",
)
TUNED, IN_ONNX = "+tuned", "+onnx"
"""Endings of names: with what our trunk gets in torch (batch norms folded, channels last); and with its
convolutions in onnxruntime, which SSDlite's can be."""

SSDLITE = TORCHVISION[-1]
PEERS = (*TORCHVISION, *(f"{name}{TUNED}" for name in TORCHVISION if "resnet" not in name), SSDLITE + IN_ONNX)

ONNX_SUFFIX = ".onnx"
MIN_SCORE, NMS_IOU, MAX_BOXES = 0.05, 0.65, 100
"""Of the ONNX file's boxes."""
MIN_EVALUATED_SCORE = 0.01
"""The same where average precision is measured, as in YOLOX's own evaluation."""

Find = Callable[[Path], object]


def check_peers(names: Sequence[str]) -> None:
    """Raises ConfigError for what is no peer, or no file."""
    strange = sorted(set(names) - set(PEERS))
    if (strange and not all(name.endswith(ONNX_SUFFIX) for name in strange)) or not names:
        raise ConfigError(f"peers are one or more of {', '.join(PEERS)}; got {strange}")


def find_by_peer(name: str, seed: int = 0) -> Find:
    """What finds objects in a file: one of `PEERS` with random weights, or an ONNX file."""
    if name.endswith(ONNX_SUFFIX):
        return OnnxDetector(Path(name))
    torch.manual_seed(seed)
    plain = name.removesuffix(TUNED).removesuffix(IN_ONNX)
    network = torchvision.models.get_model(plain, weights=None, weights_backbone=None).eval()
    if name != plain:
        network = fuse_conv_bn(network)
    if name.endswith(TUNED):
        network = network.to(memory_format=torch.channels_last)
    if name.endswith(IN_ONNX):
        _run_in_onnx(network)

    @torch.inference_mode()
    def find(path: Path) -> object:
        pixels = torch.from_numpy(read_image(path)).permute(2, 0, 1).float().div_(255)
        return network([pixels])

    return find


class OnnxDetector:
    """A one-stage detector as its own demo runs it: class times objectness, if it has that; NMS a class."""

    def __init__(self, path: Path) -> None:
        """Raises ModelError for what is no such file, ConfigError where its head is not understood."""
        self.trunk = OnnxTrunk.from_file(path)
        _ = self.trunk.layout
        self.classes = self.trunk.known_classes

    def __call__(self, photo: Path, min_score: float = MIN_SCORE) -> Detections:
        """Objects in a file. min_score: a probability."""
        image, trunk = read_image(photo), self.trunk
        size_hw = image.shape[0], image.shape[1]
        fit_hw = trunk.fit_size(size_hw, trunk.size_px)
        levels = trunk.run(trunk.prepare(resize_to(image, fit_hw)))
        logits = np.concatenate([level[3].reshape(len(level[3]), -1).T for level in levels])
        scores = sigmoid(logits.max(axis=1))
        if trunk.graph.has_objectness:
            scores = scores * sigmoid(np.concatenate([level[5].ravel() for level in levels]))
        kept = np.flatnonzero(scores >= min_score)
        boxes, labels = trunk.decode(levels)[kept], logits[kept].argmax(axis=1)
        found = [np.empty(0, np.int64)]
        for label in np.unique(labels):
            own = np.flatnonzero(labels == label)
            found.append(own[nms(boxes[own], scores[kept][own], NMS_IOU, MAX_BOXES)])
        shown = np.concatenate(found)
        ratio = np.array([fit_hw[1] / size_hw[1], fit_hw[0] / size_hw[0]] * 2, np.float32)
        placed = clip_boxes((boxes[shown] / ratio).astype(np.float32), size_hw)
        return Detections(placed, scores[kept][shown], labels[shown], self.classes)

    def known_among(self, classes: Sequence[str]) -> tuple[str, ...]:
        """Those that the network tells apart, by whatever name."""
        return tuple(name for name in classes if known_class(name, self.classes) is not None)


def evaluate_peer(peer: OnnxDetector, images: AnnotatedImages, progress: Progress) -> DetectionResult:
    """Average precision by VOC 2007's eleven points, of images with classes that the peer knows."""
    found = ordered_attempts(partial(peer, min_score=MIN_EVALUATED_SCORE), images.paths)
    every = track(found, "detecting", len(images), progress)
    pairs = [
        (_renamed(one, images.classes), truth)
        for one, truth in zip(every, images.truths, strict=True)
        if not isinstance(one, ImageError)
    ]
    return evaluate_detections([one for one, _ in pairs], [truth for _, truth in pairs], images.classes)


def _renamed(found: Detections, classes: tuple[str, ...]) -> Detections:
    """What was found of these classes, which the peer may call otherwise."""
    of_class = [np.flatnonzero(found.labels == known_class(name, found.classes)) for name in classes]
    own = np.concatenate(of_class)
    labels = np.repeat(np.arange(len(classes)), list(map(len, of_class)))
    return Detections(found.boxes[own], found.scores[own], labels, classes)


class _Convolutions(nn.Module):
    """All convolutions of an SSD: the maps, then what each part of the head makes of each map."""

    def __init__(self, backbone: nn.Module, parts: Sequence[nn.ModuleList]) -> None:
        super().__init__()
        self.backbone, self.parts = backbone, parts
        self.registered = nn.ModuleList(parts)  # so that torch.fx finds them

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        maps = tuple(self.backbone(images).values())
        judged = [layers(one) for part in self.parts for layers, one in zip(part, maps, strict=True)]
        return (*maps, *judged)


class _OnnxBackbone(nn.Module):
    """In place of a backbone; what the head needs is computed with it."""

    def __init__(self, convolutions: nn.Module, maps: int) -> None:
        super().__init__()
        self.engine, self.maps = make_engine(convolutions.eval(), torch.device("cpu"), "onnx"), maps
        self.judged: tuple[Tensor, ...] = ()

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        outputs = self.engine(images)
        self.judged = outputs[self.maps :]
        return OrderedDict((str(index), one) for index, one in enumerate(outputs[: self.maps]))


class _Computed(nn.Module):
    """In place of a layer of the head: what the backbone computed."""

    def __init__(self, backbone: _OnnxBackbone, index: int) -> None:
        super().__init__()
        self.source, self.index = (backbone,), index  # in a tuple, so that it is no part of this

    def forward(self, maps: Tensor) -> Tensor:
        return self.source[0].judged[self.index]


def _run_in_onnx(network: Any) -> None:
    """The convolutions of an SSD in onnxruntime; the rest stays as it is."""
    heads = [network.head.classification_head, network.head.regression_head]
    parts = [head.module_list for head in heads]
    maps = len(parts[0])
    backbone = _OnnxBackbone(_Convolutions(network.backbone, parts), maps)
    network.backbone = backbone
    for place, head in enumerate(heads):
        head.module_list = nn.ModuleList(_Computed(backbone, place * maps + index) for index in range(maps))
