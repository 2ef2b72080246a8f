"""The stages of a training that are about boxes."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from sppnet.arrays import Floats, Ints
from sppnet.detect.box_refinement import BoxRefiner, learn_refinement
from sppnet.detect.box_regression import learn_boxes, read_regressors, regressor_tensors
from sppnet.detect.components import vector_length
from sppnet.detect.config import DetectorConfig
from sppnet.detect.known_classes import KnownClass
from sppnet.detect.label_assignment import TrainingImages
from sppnet.detect.roi_features import RoIFeatureExtractor
from sppnet.detect.run_folder import StageStore
from sppnet.heads.ridge import BoxRegressor
from sppnet.nn.any_trunk import AnyTrunk
from sppnet.progress import Progress


@dataclass(frozen=True, eq=False)
class BoxStages:
    """Box regression and box refinement, each read from the run folder if it ended before."""

    store: StageStore
    photos: TrainingImages
    config: DetectorConfig
    known: Sequence[KnownClass]
    """Classes of the trunk's own network, which learned their boxes from more photographs than these."""
    progress: Progress

    @property
    def _all_known(self) -> bool:
        return len(self.known) == len(self.photos.classes)

    def regress(
        self, trunk: AnyTrunk, roi_extractor: RoIFeatureExtractor, proposals: list[Floats], held_out: Ints
    ) -> tuple[BoxRegressor, BoxRegressor]:
        """Box regression, and the one that did not see the photographs held out, if there are any."""
        stage = self.store.ended("boxes")
        if stage is not None:
            return read_regressors(stage.tensors, self.photos.classes)
        if self._all_known:
            count = len(self.known)
            weight, bias = torch.zeros(count, 4, vector_length(self.config, trunk)), torch.zeros(count, 4)
            regressor = judged = BoxRegressor(weight, bias, self.photos.classes)
        else:
            regressor, judged = learn_boxes(
                self.photos, proposals, roi_extractor, self.config, self.progress, held_out
            )
        for one in self.known:
            regressor.weight[one.label], regressor.bias[one.label] = 0, 0
        self.store.keep("boxes", {}, regressor_tensors(regressor, judged))
        return regressor, judged

    def refine(self) -> BoxRefiner | None:
        """What corrects the boxes that are found; None where they stay."""
        if self.config.refine_levels is None or self._all_known:
            return None
        stage = self.store.ended("refinement")
        if stage is not None:
            return BoxRefiner.read(stage.tensors, self.config)
        refiner = learn_refinement(self.photos, self.config, self.progress)
        self.store.keep("refinement", {}, {} if refiner is None else refiner.tensors())
        return refiner
