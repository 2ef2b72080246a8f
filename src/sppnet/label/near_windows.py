"""Windows drawn close about confirmed objects, and the box refinement that is learned from them.

As in `detect.box_refinement`, from the first photograph on: a photograph that is confirmed gives some
windows, whose inner products are kept.
"""

import numpy as np

from sppnet.detect.box_refinement import EVERY, BoxRefiner, draw_windows, pool_windows
from sppnet.features.maps import FeatureMaps
from sppnet.geometry.grid import BoxMapping, ScaleRule
from sppnet.heads.ridge import BoxRegressor
from sppnet.label.examples import Examples, LabelledWindows, regression_targets
from sppnet.label.fitting import FitConfig, solve_regression
from sppnet.structures import GroundTruth

LEVELS = (1, 2, 3, 6)
RULE: BoxMapping = "paper"
SCALE_RULE: ScaleRule = "log"

MAX_WINDOWS = 1000
"""That are kept, the newest."""
OF_PHOTO = 24
"""That a photograph gives, about; each object gives one at least."""


class NearWindows:
    """Of a session."""

    def __init__(self, config: FitConfig | None = None) -> None:
        self.config = config or FitConfig()
        self.examples: Examples | None = None
        self.refiner: BoxRefiner | None = None

    def learn(self, photo: int, maps: FeatureMaps, truth: GroundTruth) -> None:
        """From a confirmed photograph; one that was confirmed before is learned anew."""
        if self.examples is not None:
            self.examples.drop(self.examples.photos[: len(self.examples)] == photo)
        if len(truth):
            self._add(photo, maps, truth)
        if self.examples is None or not len(self.examples):
            self.refiner = None
            return
        weight, bias = solve_regression(self.examples, np.arange(len(self.examples)), self.config)
        regressor = BoxRegressor(weight[None, :4] * self.examples.scale, bias[None, :4], EVERY)
        self.refiner = BoxRefiner(regressor, LEVELS, RULE, SCALE_RULE)

    def _add(self, photo: int, maps: FeatureMaps, truth: GroundTruth) -> None:
        targets = np.repeat(truth.boxes, max(1, OF_PHOTO // len(truth)), axis=0)[:MAX_WINDOWS]
        boxes = draw_windows(targets, maps.size_hw, np.random.default_rng((photo, 3)))
        vectors = pool_windows(maps, boxes, LEVELS, RULE, SCALE_RULE)
        if self.examples is None:
            self.examples = Examples(vectors.shape[1], MAX_WINDOWS)
        count = len(boxes)
        deltas = regression_targets(boxes, targets, np.arange(count))
        windows = LabelledWindows(vectors, np.zeros((count, 0), np.int8), np.zeros(count, np.int64), deltas)
        self.examples.add(photo, windows)
