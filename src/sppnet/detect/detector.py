"""A trained detector: one value that finds objects in images of any size, and one file it lives in."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sppnet.arrays import Floats, Ints
from sppnet.data.annotated import AnnotatedImages
from sppnet.data.image import ImageSource
from sppnet.detect.config import DetectorConfig
from sppnet.detect.vectors import BoxVectors, RcnnVectors, SppVectors, Vectoriser, layers_up_to
from sppnet.errors import ConfigError, MissingExtraError, ModelError
from sppnet.features.convolve import Convolver
from sppnet.features.photo import Photo
from sppnet.geometry.grid import count_bins
from sppnet.learn.finetune import detection_head
from sppnet.learn.lowrank import compress_head, ranks_of, split_head
from sppnet.learn.ridge import BoxRegressor
from sppnet.learn.svm import LinearSVM
from sppnet.nn.model_file import check_settings, load_model, save_model
from sppnet.nn.trunks import Trunk, empty_trunk
from sppnet.nn.weights import load_weights
from sppnet.ops.suppression import suppress
from sppnet.progress import Progress
from sppnet.proposals.learned import WindowHead
from sppnet.proposals.proposers import LearnedWindows, Proposer, in_header, make_proposer
from sppnet.proposals.windows import WindowConfig
from sppnet.structures import Detections

KIND = "detector"

LEAST_SCORE = -1.5
"""Below this a window is no candidate even for evaluation (spp_test.m of the released code)."""

MOST_CORRECTED = 300
"""Windows of a class in an image whose boxes are corrected."""

MOST_PER_CLASS = 100


@dataclass(frozen=True, eq=False)
class Parts:
    """What training makes, and a model file holds."""

    classes: tuple[str, ...]
    config: DetectorConfig
    trunk: Trunk
    windows: WindowHead | None
    """Of learned proposals."""
    head: nn.Sequential | None
    """Fine-tuned fc layers."""
    svm: LinearSVM
    regressor: BoxRegressor


class Detector:
    """Image → Detections.

    Detector.load(path)("photo.jpg") finds objects; `found.draw("photo.jpg").save("drawn.jpg")` shows them.
    """

    def __init__(self, parts: Parts, device: str = "cpu", *, proposals: str | None = None) -> None:
        """proposals: selective-search, opencv or a file of boxes, in place of how it was trained."""
        self.parts, self.config, self.classes = parts, parts.config, parts.classes
        self.convolver = Convolver(parts.trunk.to(device), self.config.scales)
        self.proposer: Proposer = (
            make_proposer(proposals or self.config.proposals, self.config.most)
            if parts.windows is None or proposals is not None
            else LearnedWindows(parts.windows, self.config.most)
        )
        self.vectoriser = make_vectoriser(self.config, self.convolver, parts.head)

    def __repr__(self) -> str:
        return f"Detector({', '.join(self.classes)}; {self.parts.trunk.name})"

    def __call__(self, image: ImageSource, *, min_score: float = 0.0) -> Detections:
        """Objects in an image: a path, a PIL image, an array or a tensor, of any size; the surest first.

        min_score: an SVM's margin, whose 0 training has set (`detect.balance`). Raises ImageError.
        """
        return self.detect(Photo(image, self.convolver), min_score)

    def detect(self, photo: Photo, min_score: float = LEAST_SCORE) -> Detections:
        """Objects in a photograph whose maps may be there already."""
        return self.select([self.candidates(photo, min_score)])

    def candidates(self, photo: Photo, min_score: float = LEAST_SCORE) -> "Candidates":
        """The windows that score best, and at least `min_score`, for each class, corrected."""
        boxes = self.proposer(photo).boxes
        vectors = self.vectoriser(photo, boxes)
        return self.judge(boxes, vectors, photo.size_hw, min_score)

    def judge(
        self, boxes: Floats, vectors: BoxVectors, size_hw: tuple[int, int], min_score: float
    ) -> "Candidates":
        """Scores for every class, and box regression of the best (paper section 4.1).

        The released code suppresses neighbours before it corrects boxes, here that comes after: corrected
        boxes agree on an object better. Of eleven comparisons nine were for it, by 0.8 points on average.
        """
        scores = self.parts.svm.scores(vectors.distinct).numpy()[vectors.of_box]
        found = []
        for label in range(len(self.classes)):
            own = np.flatnonzero(scores[:, label] >= min_score)
            own = own[np.argsort(-scores[own, label], kind="stable")[:MOST_CORRECTED]]
            labels = np.full(len(own), label)
            moved = self.parts.regressor.apply(vectors.take_pooled(own), boxes[own], labels, size_hw)
            found.append(Candidates(moved, scores[own, label], labels))
        return Candidates.joined(found)

    def select(self, several: Sequence["Candidates"], overlap: float | None = None) -> Detections:
        """Detections out of the candidates of one detector, or of several for the same classes.

        overlap: above which, of two of a class, the surer one stays; None for the configuration's.
        """
        overlap = self.config.nms if overlap is None else overlap
        every = Candidates.joined(several)
        kept = []
        for label in range(len(self.classes)):
            own = np.flatnonzero(every.labels == label)
            kept.append(own[suppress(every.boxes[own], every.scores[own], overlap, MOST_PER_CLASS)])
        index = np.concatenate(kept) if kept else np.empty(0, np.int64)
        index = index[np.argsort(-every.scores[index], kind="stable")]
        return Detections(every.boxes[index], every.scores[index], every.labels[index], self.classes)

    @classmethod
    def train(
        cls,
        data: str | Path | AnnotatedImages,
        out: str | Path,
        *,
        split: str | None = None,
        resume: bool = False,
        progress: Progress | None = None,
        report: bool = True,
        **options: Any,
    ) -> "Detector":
        """Train on a VOC, COCO or YOLO data set; the model lies in `out` then, as detector.safetensors.

        split: by default trainval, else train, else everything.
        resume: go on with the run begun there, at the stage it was in.
        report: whether report.html is written beside it.
        options: fields of `DetectorConfig`, as weights="imagenet".
        Raises as `train_detector`, which also tells the times of the stages and which images were left out.
        """
        from sppnet import train_detector  # by its public name: that file stands on this one

        config = DetectorConfig(**options)
        return train_detector(
            data, out, config, split=split, resume=resume, progress=progress, report=report
        ).detector

    def compress(self, ranks: Sequence[int]) -> "Detector":
        """A faster detector that judges nearly the same: fc6 and fc7 of these ranks, 0 for one left whole.

        Truncated SVD (Fast R-CNN, section 3.1); measure what it costs. Raises ConfigError where there are
        no fc layers, or a rank would save nothing.
        """
        if self.parts.head is None:
            raise ConfigError("this detector has no fc layers to compress (finetune: none)")
        if any(ranks_of(self.parts.head)):
            raise ConfigError("this detector is compressed already; begin with the one it was made from")
        head = compress_head(self.parts.head, ranks)
        return Detector(replace(self.parts, head=head), str(self.convolver.device))

    # --- the file --------------------------------------------------------------------------------

    def save(self, path: str | Path, trained: dict[str, Any] | None = None) -> None:
        """trained: what else the header should say."""
        parts = self.parts
        header = {
            "classes": list(parts.classes),
            "config": _portable(parts.config),
            "trunk": parts.trunk.spec,
            "windows": None if parts.windows is None else parts.windows.config.to_json(),
            "ranks": None if parts.head is None else ranks_of(parts.head),
            "trained": trained or {},
        }
        save_model(path, KIND, header, _tensors(parts))

    @staticmethod
    def load(path: str | Path, device: str = "cpu", *, proposals: str | None = None) -> "Detector":
        """A trained detector from its file.

        proposals: selective-search, opencv or a file of boxes, in place of how it was trained.
        Raises ModelError naming what is wrong with the file.
        """
        header, tensors = load_model(path, KIND)
        try:
            parts = _parts(header, tensors)
            detector = Detector(parts, device)
        except (MissingExtraError, MemoryError):
            raise
        except Exception as error:  # a header can say anything, and torch has many words for no
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ModelError(f"{path} does not hold what its header describes: {reason}") from error
        return detector if proposals is None else Detector(parts, device, proposals=proposals)


def _portable(config: DetectorConfig) -> dict[str, Any]:
    """The configuration without what only the machine that trained knows: its paths and its device."""
    weights = config.weights if config.weights in (None, "imagenet") else Path(config.weights).name
    proposals = in_header(config.proposals)
    return {**config.to_json(), "weights": weights, "proposals": proposals, "device": "auto"}


def _tensors(parts: Parts) -> dict[str, Tensor]:
    modules = {"trunk": parts.trunk, "windows": parts.windows, "head": parts.head}
    tensors = {
        f"{name}.{key}": tensor
        for name, module in modules.items()
        if module is not None
        for key, tensor in module.state_dict().items()
    }
    svm, regressor = parts.svm, parts.regressor
    return tensors | {
        "svm.weight": svm.weight,
        "svm.bias": svm.bias,
        "regressor.weight": regressor.weight,
        "regressor.bias": regressor.bias,
    }


def _parts(header: dict[str, Any], tensors: dict[str, Tensor]) -> Parts:
    config, classes = DetectorConfig.from_json(header["config"]), tuple(map(str, header["classes"]))
    check_settings(config)
    config = replace(config, proposals=in_header(config.proposals))  # version 0.1.0 wrote a path
    trunk = empty_trunk(**header["trunk"])
    load_weights(trunk, own_tensors(tensors, "trunk"))
    windows = None
    if header["windows"] is not None:
        looks = WindowConfig.from_json(header["windows"])
        check_settings(looks)
        with torch.device("meta"):
            windows = WindowHead(trunk.channels, looks)
        load_weights(windows, own_tensors(tensors, "windows"))
    head = None
    if config.finetune != "none":
        length = trunk.channels * count_bins(config.levels)
        with torch.device("meta"):
            head = detection_head(length, config.hidden, len(classes))
            if ranks := header.get("ranks"):
                head = split_head(head, ranks)
        load_weights(head, own_tensors(tensors, "head"))
    svm = LinearSVM(_floats(tensors, "svm.weight"), _floats(tensors, "svm.bias"), classes)
    regressor = BoxRegressor(
        _floats(tensors, "regressor.weight"), _floats(tensors, "regressor.bias"), classes
    )
    pooled = trunk.channels * count_bins(config.levels)
    expected = (pooled if config.layer == "pool" else config.hidden, pooled)
    if (lengths := (svm.weight.shape[1], regressor.weight.shape[2])) != expected:
        raise ModelError(f"SVMs and box regression must take vectors of {expected} numbers; got {lengths}")
    return Parts(
        classes,
        config,
        trunk.eval(),
        windows if windows is None else windows.eval(),
        head if head is None else head.eval(),
        svm,
        regressor,
    )


def _floats(tensors: dict[str, Tensor], name: str) -> Tensor:
    if not tensors[name].is_floating_point():
        raise ModelError(f"{name} must hold floats; got {tensors[name].dtype}")
    return tensors[name].float()


def own_tensors(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """Those of one part, under the names it gives them."""
    return {key.removeprefix(f"{name}."): t for key, t in tensors.items() if key.startswith(f"{name}.")}


# --- candidates ----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Candidates:
    """Scored windows of one image, before the last suppression."""

    boxes: Floats
    """(n, 4)"""
    scores: Floats
    """(n,)"""
    labels: Ints
    """(n,)"""

    @staticmethod
    def joined(several: Sequence["Candidates"]) -> "Candidates":
        return Candidates(
            np.concatenate([np.empty((0, 4), np.float32), *(one.boxes for one in several)]),
            np.concatenate([np.empty(0, np.float32), *(one.scores for one in several)]),
            np.concatenate([np.empty(0, np.int64), *(one.labels for one in several)]),
        )


def make_vectoriser(config: DetectorConfig, convolver: Convolver, head: nn.Sequential | None) -> Vectoriser:
    """What turns boxes into vectors, as the configuration asks."""
    if config.method == "rcnn":
        return RcnnVectors(convolver, config.levels)
    layers = layers_up_to(head, config.layer) if head is not None and config.layer != "pool" else None
    return SppVectors(config.levels, config.rule, layers)
