"""The stages of a detector's training; each is read from the run folder if it ended before."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sppnet.arrays import Floats, Ints
from sppnet.data.detection_dataset import AnnotatedImages
from sppnet.detect.box_regression import learn_boxes
from sppnet.detect.calibration import choose_thresholds
from sppnet.detect.components import DetectorComponents, tensors_of, vector_length
from sppnet.detect.config import JOINT, DetectorConfig
from sppnet.detect.cross_validation import Fold, count_svm_folds, layer_folds, mine_detector_svms, svm_folds
from sppnet.detect.detector import Detector, make_roi_extractor
from sppnet.detect.joint.held_out import hold_out
from sppnet.detect.joint.stage import train_jointly
from sppnet.detect.joint.training import JointStart
from sppnet.detect.known_classes import check_kept, empty_svms, known_to_rescore, rescore_known
from sppnet.detect.label_assignment import TrainingImages, joined_boxes, split_boxes
from sppnet.detect.probabilities import ScoreProbabilities
from sppnet.detect.roi_features import (
    CachedRoIFeatureExtractor,
    HeadRoIFeatureExtractor,
    RcnnRoIFeatureExtractor,
    RoIFeatureExtractor,
    StandardisedRoIFeatureExtractor,
)
from sppnet.detect.run_folder import DetectorRun, StageStore
from sppnet.detect.standardise import sample_vectors
from sppnet.detect.time_plan import plan_stage
from sppnet.detect.training_proposals import choose_proposals, convolve_images, learn_windows, propose_windows
from sppnet.detect.tuning_stages import TuningStages
from sppnet.errors import ConfigError, DataError
from sppnet.features.cache import MapCache, recipe_of
from sppnet.features.detector_extractor import AnyExtractor, make_extractor
from sppnet.heads.ridge import BoxRegressor
from sppnet.heads.standardisation import Standardisation
from sppnet.nn.any_trunk import AnyTrunk, is_detector, open_trunk
from sppnet.nn.detector_trunk import DetectorTrunk
from sppnet.nn.device import find_device
from sppnet.progress import Progress
from sppnet.proposals.dense_windows import WindowConfig
from sppnet.proposals.proposal_head import ProposalHead
from sppnet.proposals.proposers import LEARNED
from sppnet.svm.cross_validation import deal_folds
from sppnet.svm.linear_svm import LinearSVM
from sppnet.svm.mining import MinedSVMs, MiningRound


class TrainingStages:
    """One training; every stage is read from the run folder if it ended before."""

    def __init__(
        self,
        images: AnnotatedImages,
        config: DetectorConfig,
        run: DetectorRun,
        cache: Path | None,
        progress: Progress,
        base: DetectorComponents | None = None,
    ) -> None:
        """base: a detector whose trunk, proposals and fc layers are used as they are, for other classes."""
        self.run, self.progress, self.cache, self.base = run, progress, cache, base
        self.trunk = _frozen_trunk(config) if base is None else base.trunk
        check_kept(config.keep, self.trunk)
        extractor = make_extractor(self.trunk, config.scales, config.engine)
        self.known = known_to_rescore(config, images.classes, self.trunk)
        self.config = replace(config, scales=extractor.scales)
        if config.vectors == "auto":
            every = len(self.known) == len(images.classes)
            self.config = replace(self.config, vectors="head" if every else "both")
        maps = MapCache(recipe_of(extractor), cache)
        self.photos = TrainingImages(images, extractor, maps, config.mirror)
        self.skipped: tuple[str, ...] = ()
        self.store = StageStore(run)

    @property
    def _frozen(self) -> bool:
        """Whether the vectors are not learned from these photographs."""
        return self.base is not None or self.config.finetune == "none"

    @property
    def _joint(self) -> bool:
        """Whether trunk and heads are to learn together."""
        return self.base is None and self.config.method in JOINT

    def train(self) -> tuple[DetectorComponents, list[Floats]]:
        """The detector's parts, and the windows that were proposed on the photographs."""
        self.store.seconds = self.run.read_times()
        if self.config.time is not None and self.base is None:
            self._fit_to_time()
        windows = self._learn_windows()
        proposals = self._propose(windows)
        head = None if self.base is None else self.base.head
        if not self._frozen:
            tuning = TuningStages(self.store, self.config, self.progress)
            head = tuning.tune_layers(self.photos, proposals)
            if self.config.finetune == "all":  # another trunk has other maps
                tuning.tune_trunk(self.photos, head, proposals)
                self._use(make_extractor(self.trunk, self.config.scales, self.config.engine))
                windows = self._learn_windows(" again")
                proposals = self._propose(windows, " again")
        roi_extractor = make_roi_extractor(self.config, self.photos.extractor, head)
        if isinstance(roi_extractor, RcnnRoIFeatureExtractor):
            roi_extractor = CachedRoIFeatureExtractor(roi_extractor, self.run.vectors)
        standard = None
        if isinstance(roi_extractor, HeadRoIFeatureExtractor):
            standard = self._standardise(roi_extractor, proposals)
            roi_extractor = StandardisedRoIFeatureExtractor(roi_extractor, standard)
        mined = self._train_svms(roi_extractor, proposals, standard)
        held_out = hold_out(mined, self.photos, self.config.seed) if self._joint else np.empty(0, np.int64)
        regressor, judged = self._regress_boxes(roi_extractor, proposals, held_out)
        parts = DetectorComponents(
            self.photos.classes, self.config, self.trunk, windows, head, mined.svm, regressor
        )
        if self._joint:
            start = JointStart(parts, mined.folds[:1], judged, held_out, self.photos, proposals)
            joint = train_jointly(start, self.store, self.progress)
            if joint is not None:
                return joint, proposals
        svm, probabilities = self._calibrate(parts, mined, roi_extractor, proposals)
        if standard is not None:
            svm, regressor = standard.unfold_svm(svm), standard.unfold_regressor(regressor)
        return replace(parts, svm=svm, regressor=regressor, probabilities=probabilities), proposals

    def _fit_to_time(self) -> None:
        """Scales, and whether mirror images are learned on, as the time allows."""
        self.config = plan_stage(self.store, self.photos, self.config, self.progress)
        self._use(self.photos.extractor.at(self.config.scales))

    def _learn_windows(self, again: str = "") -> ProposalHead | None:
        """Feature maps of all photographs, and the head of the learned windows if those are asked for."""
        stage = self.store.ended(f"windows{again}")
        if stage is not None:
            self._leave_out(stage.header["skipped"])
            self.config = replace(self.config, proposals=stage.header.get("proposals", self.config.proposals))
            return stage.windows_head(self.trunk.channels) if stage.tensors else self._windows_of_base()
        config = WindowConfig(seed=self.config.seed)
        cells, skipped = convolve_images(self.photos, config.seed, self.progress)
        self._leave_out(skipped)
        if self.config.proposals == "auto":
            chosen = choose_proposals(self.photos, self.config, self.progress)
            self.config = replace(self.config, proposals=chosen)
        learned = self.base is None and self.config.proposals in LEARNED
        head = learn_windows(self.photos, cells, config, self.progress) if learned else None
        header = {"skipped": skipped, "windows": config.to_json(), "proposals": self.config.proposals}
        self.store.keep(f"windows{again}", header, {} if head is None else head.state_dict())
        return head or self._windows_of_base()

    def _windows_of_base(self) -> ProposalHead | None:
        return None if self.base is None else self.base.windows

    def _propose(self, windows: ProposalHead | None, again: str = "") -> list[Floats]:
        stage = self.store.ended(f"proposals{again}")
        if stage is not None:
            return split_boxes(stage.tensors["boxes"].numpy(), stage.tensors["counts"].numpy())
        found = propose_windows(self.photos, windows, self.config, self.progress)
        boxes, counts = joined_boxes(found)
        tensors = {"boxes": torch.from_numpy(boxes), "counts": torch.from_numpy(counts)}
        self.store.keep(f"proposals{again}", {}, tensors)
        return found

    def _use(self, extractor: AnyExtractor) -> None:
        """Go on with maps of another trunk, or of other scales."""
        maps = MapCache(recipe_of(extractor), self.cache)
        self.photos = replace(self.photos, extractor=extractor, cache=maps, mirrored=self.config.mirror)

    def _standardise(
        self, roi_extractor: HeadRoIFeatureExtractor, proposals: list[Floats]
    ) -> Standardisation:
        """What brings the numbers of vectors to the same spread, from those of some photographs."""
        stage = self.store.ended("vectors")
        if stage is not None:
            return Standardisation(stage.tensors["mean"], stage.tensors["factor"])
        sample = sample_vectors(self.photos, roi_extractor, proposals, self.config.seed, self.progress)
        assert isinstance(self.trunk, DetectorTrunk)
        length = self.trunk.layout.length
        standard = Standardisation.of(sample, [one for one in (length, sample.shape[1] - length) if one])
        self.store.keep("vectors", {}, {"mean": standard.mean, "factor": standard.factor})
        return standard

    def _train_svms(
        self,
        roi_extractor: RoIFeatureExtractor,
        proposals: list[Floats],
        standard: Standardisation | None,
    ) -> MinedSVMs:
        classes, images = self.photos.classes, len(self.photos.images)
        folds = count_svm_folds(images) if self._frozen else 0
        stage = self.store.ended("svm")
        if stage is not None:
            weights, biases = stage.tensors["fold_weights"], stage.tensors["fold_biases"]
            return MinedSVMs(
                LinearSVM(stage.tensors["weight"], stage.tensors["bias"], classes),
                tuple(LinearSVM(w, b, classes) for w, b in zip(weights, biases, strict=True)),
                deal_folds(images, folds, self.config.seed),
            )
        rounds: list[MiningRound] = []
        if standard is None or len(self.known) < len(classes):
            mined = mine_detector_svms(
                self.photos, roi_extractor, proposals, self.config, self.progress, folds, rounds.append
            )
        else:
            mined = empty_svms(self.photos, len(standard.mean), folds, self.config.seed)
        if standard is not None and self.known:
            mined = rescore_known(self.photos, self.known, standard, mined, self.progress)
        tensors = {
            "weight": mined.svm.weight,
            "bias": mined.svm.bias,
            "fold_weights": torch.stack([mined.svm.weight, *(svm.weight for svm in mined.folds)])[1:],
            "fold_biases": torch.stack([mined.svm.bias, *(svm.bias for svm in mined.folds)])[1:],
        }
        self.store.keep("svm", {"rounds": [asdict(one) for one in rounds]}, tensors)
        return mined

    def _regress_boxes(
        self, roi_extractor: RoIFeatureExtractor, proposals: list[Floats], held_out: Ints
    ) -> tuple[BoxRegressor, BoxRegressor]:
        """Box regression, and the one that did not see the photographs held out, if there are any."""
        stage = self.store.ended("boxes")
        if stage is not None:
            regressor = _regressor(stage.tensors, self.photos.classes)
            others = tensors_of(stage.tensors, "judged")
            return regressor, _regressor(others, self.photos.classes) if others else regressor
        if len(self.known) < len(self.photos.classes):
            regressor, judged = learn_boxes(
                self.photos, proposals, roi_extractor, self.config, self.progress, held_out
            )
        else:
            length = vector_length(self.config, self.trunk)
            regressor = judged = BoxRegressor(
                torch.zeros(len(self.known), 4, length), torch.zeros(len(self.known), 4), self.photos.classes
            )
        for one in self.known:  # the network was trained for their boxes on more photographs than these
            regressor.weight[one.label], regressor.bias[one.label] = 0, 0
        tensors = {"weight": regressor.weight, "bias": regressor.bias}
        if judged is not regressor:
            tensors |= {"judged.weight": judged.weight, "judged.bias": judged.bias}
        self.store.keep("boxes", {}, tensors)
        return regressor, judged

    def _calibrate(
        self,
        parts: DetectorComponents,
        mined: MinedSVMs,
        roi_extractor: RoIFeatureExtractor,
        proposals: list[Floats],
    ) -> tuple[LinearSVM, ScoreProbabilities | None]:
        """The SVMs with 0 at the best F1 on photographs they were not fitted to, and probabilities there."""
        svm, stage = parts.svm, self.store.ended("scores")
        if stage is not None:
            known = ScoreProbabilities.read(stage.tensors, len(svm.classes))
            return replace(svm, bias=stage.tensors["bias"]), known
        if self._frozen:
            folds = svm_folds(parts, mined, roi_extractor, self.photos)
        else:
            folds = layer_folds(parts, self.photos, proposals, self.progress)
        detector = Detector(parts, extractor=self.photos.extractor)
        # Where nothing can be held out, all are judged by SVMs that know them.
        everything = Fold(detector, roi_extractor, np.arange(len(self.photos.images)))
        found = choose_thresholds(folds or [everything], self.photos, proposals, self.progress)
        # SVMs are too sure of their own photographs: a threshold above 0 would hide too much.
        thresholds = found.thresholds if folds else np.minimum(found.thresholds, 0)
        svm = replace(svm, bias=svm.bias - torch.from_numpy(thresholds).to(svm.bias))
        known = found.probabilities if folds else None
        tensors = {"bias": svm.bias} | ({} if known is None else known.tensors())
        self.store.keep("scores", {"f1": found.f1 if folds else {}}, tensors)
        return svm, known

    def _leave_out(self, skipped: dict[str, str]) -> None:
        """Damaged images, by their index; from here on the others are all there are."""
        count = len(self.photos.images)
        self.skipped += tuple(reason for index, reason in skipped.items() if int(index) < count)
        good = [index for index in range(count) if str(index) not in skipped]
        if not good:
            raise DataError("none of the images could be read")
        self.photos = self.photos.take(good)


def _regressor(tensors: Mapping[str, Tensor], classes: tuple[str, ...]) -> BoxRegressor:
    return BoxRegressor(tensors["weight"], tensors["bias"], classes)


def _frozen_trunk(config: DetectorConfig) -> AnyTrunk:
    if config.weights is None and not is_detector(config.trunk) and config.finetune != "all":
        raise ConfigError(
            "a trunk that stays as it is needs trained weights: give --weights imagenet (downloads them) or "
            "a file, such as a classifier's best.safetensors; or train it (--finetune all)"
        )
    trunk = open_trunk(
        config.trunk, stride=config.stride, width=config.width, weights=config.weights,
        convention=config.trunk_input,
    )  # fmt: skip
    if isinstance(trunk, DetectorTrunk) and (config.proposals != "learned" or config.vectors != "pyramid"):
        _ = trunk.layout  # raises where it has none
    return trunk.to(find_device(config.device)).eval()
