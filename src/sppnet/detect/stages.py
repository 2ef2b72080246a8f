"""The stages of a detector's training; each is read from the run folder if it ended before."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from sppnet.arrays import Floats
from sppnet.data.detection_dataset import AnnotatedImages
from sppnet.detect.box_stages import BoxStages
from sppnet.detect.calibration import choose_thresholds
from sppnet.detect.components import DetectorComponents
from sppnet.detect.config import JOINT, DetectorConfig, VectorKind
from sppnet.detect.cross_validation import (
    Fold,
    count_svm_folds,
    layer_folds,
    mine_detector_svms,
    mined_tensors,
    read_mined,
    svm_folds,
)
from sppnet.detect.detector import Detector, make_roi_extractor
from sppnet.detect.frozen_trunk import prepare_trunk
from sppnet.detect.joint.held_out import hold_out
from sppnet.detect.joint.stage import train_jointly
from sppnet.detect.joint.training import JointStart
from sppnet.detect.known_classes import check_kept, empty_svms, known_to_rescore, rescore_known
from sppnet.detect.label_assignment import TrainingImages, joined_boxes, split_boxes
from sppnet.detect.probabilities import ScoreProbabilities
from sppnet.detect.roi_features import (
    HeadRoIFeatureExtractor,
    RoIFeatureExtractor,
    StandardisedRoIFeatureExtractor,
)
from sppnet.detect.run_folder import DetectorRun, StageStore
from sppnet.detect.standardise import measure_spread
from sppnet.detect.time_plan import plan_stage
from sppnet.detect.training_proposals import choose_proposals, convolve_images, learn_windows, propose_windows
from sppnet.detect.tuning_stages import TuningStages
from sppnet.detect.vector_choice import VectorTrial, narrowed, take_best, try_vectors, vector_blocks
from sppnet.errors import DataError
from sppnet.features.cache import MapCache, recipe_of
from sppnet.features.detector_extractor import AnyExtractor, make_extractor
from sppnet.heads.standardisation import Standardisation
from sppnet.nn.detector_trunk import DetectorTrunk
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
        self.store = StageStore(run)
        self.trunk = base.trunk if base else prepare_trunk(config, images.paths, self.store, progress)
        check_kept(config.keep, self.trunk)
        extractor = make_extractor(self.trunk, config.scales, config.engine)
        self.known = known_to_rescore(config, images.classes, self.trunk)
        self.config = replace(config, scales=extractor.scales)
        self.choose_vectors = False
        """Whether cross-validation says which vectors are taken."""
        if config.vectors == "auto":
            every = len(self.known) == len(images.classes)
            self.config = replace(self.config, vectors="head" if every else "both")
            self.choose_vectors = not every and base is None
        maps = MapCache(recipe_of(extractor), cache)
        self.photos = TrainingImages(images, extractor, maps, config.mirror, run.vectors)
        self.skipped: tuple[str, ...] = ()

    @property
    def _frozen(self) -> bool:
        """Whether the vectors are not learned from these photographs."""
        return self.base is not None or self.config.finetune == "none"

    @property
    def _head_length(self) -> int:
        """Numbers of a vector of the trunk's head."""
        assert isinstance(self.trunk, DetectorTrunk)
        return self.trunk.layout.length

    @property
    def _needs_head(self) -> bool:
        """Whether scores of the trunk's own network are used, which stand in its head's vectors."""
        return bool(self.known or self.config.keep)

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
        roi_extractor = make_roi_extractor(self.config, self.photos.extractor, head, self.photos.vectors)
        standard = None
        if isinstance(roi_extractor, HeadRoIFeatureExtractor):
            standard = self._standardise(roi_extractor, proposals)
            roi_extractor = StandardisedRoIFeatureExtractor(roi_extractor, standard)
        mined = self._train_svms(roi_extractor, proposals, standard)
        if standard is not None and mined.svm.weight.shape[1] < len(standard.mean):  # a part was chosen
            standard = narrowed(standard, self.config.vectors, self._head_length)
            roi_extractor = make_roi_extractor(self.config, self.photos.extractor, None)
            roi_extractor = StandardisedRoIFeatureExtractor(roi_extractor, standard)
        held_out = hold_out(mined, self.photos, self.config.seed) if self._joint else np.empty(0, np.int64)
        boxes = BoxStages(self.store, self.photos, self.config, self.known, self.progress)
        regressor, judged = boxes.regress(self.trunk, roi_extractor, proposals, held_out)
        parts = DetectorComponents(
            self.photos.classes, self.config, self.trunk, windows, head, mined.svm, regressor
        )
        if self._joint:
            start = JointStart(parts, mined.folds[:1], judged, held_out, self.photos, proposals)
            joint = train_jointly(start, self.store, self.progress)
            if joint is not None:
                return self._refine_joint(joint), proposals
        svm, probabilities = self._calibrate(parts, mined, roi_extractor, proposals)
        if standard is not None:
            svm, regressor = standard.unfold_svm(svm), standard.unfold_regressor(regressor)
        refiner = boxes.refine() if self.base is None else None
        parts = replace(parts, svm=svm, regressor=regressor, probabilities=probabilities, refiner=refiner)
        return parts, proposals

    def _refine_joint(self, joint: DetectorComponents) -> DetectorComponents:
        """With a second correction of boxes, learned on the maps of the trunk that learned."""
        self._use(make_extractor(joint.trunk, joint.config.scales, self.config.engine))
        boxes = BoxStages(self.store, self.photos, joint.config, (), self.progress)
        return replace(joint, refiner=boxes.refine())

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
        head, seed = self._head_length, self.config.seed
        standard = measure_spread(self.photos, roi_extractor, proposals, head, seed, self.progress)
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
            self.config = replace(self.config, vectors=stage.header.get("vectors", self.config.vectors))
            return read_mined(stage.tensors, classes, deal_folds(images, folds, self.config.seed))
        rounds, trials = list[MiningRound](), list[VectorTrial]()
        if standard is None or len(self.known) < len(classes):
            blocks: dict[VectorKind, slice] = {}
            if standard is not None and self.choose_vectors:
                blocks = vector_blocks(self._head_length, len(standard.mean), self._needs_head)
            mined = mine_detector_svms(
                self.photos, roi_extractor, proposals, self.config, self.progress, folds, rounds.append,
                tuple(blocks.values()),
            )  # fmt: skip
            if blocks:
                labels = np.array([one.label for one in self.known], np.int64)
                trials = try_vectors(
                    self.photos, roi_extractor, proposals, mined, blocks, labels, self.config, self.progress
                )
                mined, chosen = take_best(mined, blocks, trials)
                self.config = replace(self.config, vectors=chosen)
        else:
            mined = empty_svms(self.photos, len(standard.mean), folds, self.config.seed)
        if standard is not None and self.known:
            mined = rescore_known(self.photos, self.known, standard, mined, self.progress)
        header = {"rounds": list(map(asdict, rounds)), "vectors": self.config.vectors}
        self.store.keep("svm", header | {"tried": list(map(asdict, trials))}, mined_tensors(mined))
        return mined

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
