"""A trained detector: one value that finds objects in images of any size, and one file it lives in."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from sppnet.arrays import Floats, Ints
from sppnet.boxes import clip_boxes, decode_boxes
from sppnet.data.detection_dataset import AnnotatedImages
from sppnet.data.image import ImageSource
from sppnet.detect.components import DetectorComponents, read_components
from sppnet.detect.config import DetectorConfig
from sppnet.detect.postprocess import VOTE_MARGIN, ScoredBoxes, select_detections, without_copies
from sppnet.detect.probabilities import kept_probabilities
from sppnet.detect.roi_features import (
    CachedRoIFeatureExtractor,
    HeadRoIFeatureExtractor,
    RcnnRoIFeatureExtractor,
    RoIFeatureExtractor,
    RoIFeatures,
    SppRoIFeatureExtractor,
    layers_up_to,
)
from sppnet.errors import ConfigError, MissingExtraError, ModelError
from sppnet.features.detector_extractor import AnyExtractor, DetectorExtractor, make_extractor
from sppnet.features.extractor import FeatureExtractor
from sppnet.features.lazy_image import LazyImage
from sppnet.heads.svd_compression import compress_head, ranks_of
from sppnet.nn.detector_trunk import DetectorTrunk
from sppnet.nn.engines import Engine
from sppnet.nn.model_file import load_model, save_model
from sppnet.progress import Progress
from sppnet.proposals.proposers import Proposer, TrunkProposer, learned_proposer, make_proposer
from sppnet.structures import Detections
from sppnet.torch_defaults import own_defaults

KIND = "detector"

MIN_SCORE = -1.5
"""Below this a window is no candidate even for evaluation (spp_test.m of the released code)."""

MIN_HEAD_SCORE = -8.0
"""The same for the boxes of a detector's own head, of which there are few: all that may ever be shown."""

MAX_CORRECTED = 1000
"""Windows of a class in an image whose boxes are corrected."""


class Detector:
    """Image → Detections.

    Detector.load(path)("photo.jpg") finds objects; `found.draw("photo.jpg").save("drawn.jpg")` shows them.
    """

    def __init__(
        self,
        parts: DetectorComponents,
        device: str = "cpu",
        *,
        proposals: str | None = None,
        extractor: AnyExtractor | None = None,
    ) -> None:
        """proposals: selective-search, opencv or a file of boxes, in place of how it was trained.

        extractor: the trunk at its scales, where it has been made ready before: that takes a second or two.
        """
        self.parts, self.config, self.classes = parts, parts.config, parts.classes
        if extractor is None:
            # A model trained with onnxruntime must load without it.
            engine: Engine = "torch" if self.config.engine == "torch" else "auto"
            extractor = make_extractor(parts.trunk.to(device), self.config.scales, engine)
        self.extractor = extractor
        self.proposer: Proposer = (
            make_proposer(proposals or self.config.proposals, self.config.max_proposals)
            if parts.windows is None or proposals is not None
            else learned_proposer(self.config.proposals, parts.windows, self.config.max_proposals)
        )
        self.roi_extractor = make_roi_extractor(self.config, self.extractor, parts.head)
        self.kept = parts.kept

    def __repr__(self) -> str:
        return f"Detector({', '.join(self.classes)}; {self.parts.trunk.name})"

    @own_defaults()
    def __call__(self, image: ImageSource, *, min_score: float = 0.0) -> Detections:
        """Objects in an image: a path, a PIL image, an array or a tensor, of any size; the surest first.

        min_score: an SVM's margin, whose 0 training has set (`detect.calibration`). Raises ImageError.
        """
        return self.detect(LazyImage(image, self.extractor), min_score)

    @property
    def least_score(self) -> float:
        """Below which a window is no candidate, even for evaluation."""
        return MIN_HEAD_SCORE if isinstance(self.proposer, TrunkProposer) else MIN_SCORE

    def detect(self, photo: LazyImage, min_score: float | None = None) -> Detections:
        """Objects in a photograph whose maps may be there already; min_score: None for `least_score`."""
        min_score = self.least_score if min_score is None else min_score
        found = self.postprocess(photo, [self.candidates(photo, min_score)], min_score=min_score)
        return self.add_probabilities(found)

    def candidates(self, photo: LazyImage, min_score: float | None = None) -> ScoredBoxes:
        """The windows that score best for each class, corrected: all that detections may need."""
        min_score = self.least_score if min_score is None else min_score
        boxes = self.proposer(photo).boxes
        vectors = self.roi_extractor(photo, boxes)
        return self.score_and_refine(boxes, vectors, photo.size_hw, min_score)

    def score_and_refine(
        self, boxes: Floats, vectors: RoIFeatures, size_hw: tuple[int, int], min_score: float
    ) -> ScoredBoxes:
        """Scores for every class, and box regression of the best (paper section 4.1).

        min_score: of detections; windows a little below it vote on their boxes (`vote_boxes`). The released
        code suppresses neighbours before it corrects boxes, here that comes after: corrected boxes agree on
        an object better. Of eleven comparisons nine were for it, by 0.8 points on average.
        """
        scores = self.parts.svm.scores(vectors.distinct).numpy()[vectors.roi_of_box]
        for label, column in self.kept.items():
            scores[self._likeliest(vectors) != column, label] = -np.inf
        if self.config.voting_iou < 1:
            min_score -= VOTE_MARGIN
        chosen = [_best(scores[:, label], min_score) for label in range(len(self.classes))]
        labels = np.repeat(np.arange(len(chosen)), list(map(len, chosen)))
        own = np.concatenate([np.empty(0, np.int64), *chosen])
        moved = boxes[own]
        learned = ~np.isin(labels, list(self.kept))
        deltas = self.parts.regressor.deltas_among(
            vectors.pooled, vectors.roi_of_box[own[learned]], labels[learned]
        )
        moved[learned] = clip_boxes(decode_boxes(moved[learned], deltas), size_hw)
        return ScoredBoxes(moved, scores[own, labels], labels)

    def _likeliest(self, vectors: RoIFeatures) -> Ints:
        """(n,) the class of the trunk's own network that each box most likely is."""
        assert isinstance(self.parts.trunk, DetectorTrunk)  # the configuration refuses others
        layout = self.parts.trunk.layout
        return layout.likeliest(vectors.distinct.numpy())[vectors.roi_of_box]

    def postprocess(
        self,
        photo: LazyImage,
        several: Sequence[ScoredBoxes],
        iou_threshold: float | None = None,
        min_score: float | None = None,
    ) -> Detections:
        """Detections, without probabilities, out of a photograph's candidates; as `select`, and refined."""
        found = self.select(several, iou_threshold, min_score)
        return without_copies(replace(found, boxes=self.refine(photo, found)), self.parts.refined)

    def select(
        self,
        several: Sequence[ScoredBoxes],
        iou_threshold: float | None = None,
        min_score: float | None = None,
    ) -> Detections:
        """What stays of the candidates of one detector or of several.

        iou_threshold: above which, of two of a class, the surer one stays; None for the configuration's.
        """
        iou_threshold = self.config.nms_iou if iou_threshold is None else iou_threshold
        min_score = self.least_score if min_score is None else min_score
        found = select_detections(
            ScoredBoxes.joined(several), iou_threshold, self.config.voting_iou, min_score, self.kept
        )
        return Detections(found.boxes, found.scores, found.labels, self.classes)

    def refine(self, photo: LazyImage, found: Detections) -> Floats:
        """(n, 4) the boxes that are found, corrected once more (`BoxRefiner`)."""
        boxes, refiner = found.boxes.copy(), self.parts.refiner
        moved = np.flatnonzero(np.isin(found.labels, self.parts.refined))
        if refiner is not None and len(moved):
            boxes[moved] = refiner(photo.maps, boxes[moved])
        return boxes

    def add_probabilities(self, found: Detections) -> Detections:
        """Detections of this detector alone, with the probability that each is right."""
        odds = np.where(
            np.isin(found.labels, list(self.kept)),
            kept_probabilities(found.scores),
            self.parts.score_probabilities(found.scores, found.labels),
        )
        return replace(found, probabilities=odds)

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
        return Detector(replace(self.parts, head=head), str(self.extractor.device))

    # --- the file --------------------------------------------------------------------------------

    def save(self, path: str | Path, trained: dict[str, Any] | None = None) -> None:
        """trained: what else the header should say."""
        save_model(path, KIND, self.parts.header(trained or {}), self.parts.tensors())

    @staticmethod
    @own_defaults()
    def load(path: str | Path, device: str = "cpu", *, proposals: str | None = None) -> "Detector":
        """A trained detector from its file.

        proposals: selective-search, opencv or a file of boxes, in place of how it was trained.
        Raises ModelError naming what is wrong with the file.
        """
        header, tensors = load_model(path, KIND)
        try:
            parts = read_components(header, tensors)
            detector = Detector(parts, device)
        except (MissingExtraError, MemoryError):
            raise
        except Exception as error:  # a header can say anything, and torch has many words for no
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ModelError(f"{path} does not hold what its header describes: {reason}") from error
        return detector if proposals is None else Detector(parts, device, proposals=proposals)


def _best(scores: Floats, min_score: float) -> Ints:
    """Windows of a class that score enough, the best first, MAX_CORRECTED at most."""
    own = np.flatnonzero(scores >= min_score)
    best: Ints = own[np.argsort(-scores[own], kind="stable")[:MAX_CORRECTED]]
    return best


def make_roi_extractor(
    config: DetectorConfig, extractor: AnyExtractor, head: nn.Sequential | None, kept: Path | None = None
) -> RoIFeatureExtractor:
    """What turns boxes into vectors, as the configuration asks; kept: folder for R-CNN's vectors, if any."""
    if isinstance(extractor, DetectorExtractor) and config.vectors != "pyramid":
        levels = config.levels if config.vectors == "both" else ()
        return HeadRoIFeatureExtractor(levels, config.box_mapping, config.scale_rule)
    layers = layers_up_to(head, config.svm_layer) if head is not None and config.svm_layer != "pool" else None
    if config.method == "rcnn":
        assert isinstance(extractor, FeatureExtractor)  # the configuration refuses others
        crops = RcnnRoIFeatureExtractor(extractor, config.levels, layers)
        return crops if kept is None else CachedRoIFeatureExtractor(crops, kept)
    return SppRoIFeatureExtractor(config.levels, config.box_mapping, config.scale_rule, layers)
