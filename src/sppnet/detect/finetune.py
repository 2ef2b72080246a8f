"""Fine-tuning on windows of the training photographs: new fc layers, and then the trunk with them."""

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from sppnet.arrays import Flags, Floats, Ints
from sppnet.detect.config import DetectorConfig
from sppnet.detect.detector import make_roi_extractor
from sppnet.detect.label_assignment import TrainingImages, match_objects, training_boxes
from sppnet.detect.roi_features import RoIVectors
from sppnet.features.maps import FeatureMaps
from sppnet.geometry.grid import count_bins
from sppnet.heads.fc_layers import FinetuneState, Measured, Standardise, best_row, detection_head, finetune
from sppnet.heads.roi_sampler import RoISampler, SampledRoIs
from sppnet.nn.trunks import Trunk
from sppnet.progress import Progress, track
from sppnet.structures import GroundTruth
from sppnet.threads import ordered_map

HELD_OUT = 0.1
"""Share of the photographs on whose windows the best weights are chosen."""

BATCH, IMAGES = 512, 16
"""Windows of a step, and the photographs they are of: a quarter positive, as in the paper's 128."""

BATCH_WITH_TRUNK, IMAGES_WITH_TRUNK = 128, 2
"""Convolving with gradients takes seconds and gigabytes a photograph."""

RATE_WITH_TRUNK = 0.1
"""Share of the learning rate of new layers: the head is already trained, so it gets a lower rate."""

NEGATIVE = (0.0, 0.5)
"""The paper draws its negatives from overlaps of 0.1 on; background windows below 0.1 are needed too where
no SVM with mined negatives follows."""

VALIDATIONS = 10
VALIDATED = 4
"""Steps' worth of held-out windows that the error is measured on."""

NEAREST_SCALES = 3
"""The scales nearest to 224×224 pixels that a window is met at; the paper draws from all."""

SAMPLED = 64
"""Photographs that the scale of the vectors is measured on."""

SCALE_STREAM, SPLIT_STREAM = 11, 12


@dataclass(frozen=True, eq=False)
class FinetuneSamples:
    """The windows of all photographs, and their samplers."""

    photos: TrainingImages
    proposals: Sequence[Floats]
    config: DetectorConfig
    train: RoISampler = field(init=False)
    train_trunk: RoISampler = field(init=False)
    """For steps in which the trunk learns too: of fewer photographs, and more windows of each."""
    held_out: RoISampler | None = field(init=False)

    def __post_init__(self) -> None:
        matched = [
            match_objects(self.boxes(index), self.photos.truth(index)) for index in range(len(self.photos))
        ]
        labels = [_labels_of(nearest, self.photos.truth(index)) for index, (_, nearest) in enumerate(matched)]
        kept = _kept_for_training(len(self.photos.images), self.config.seed)[self.photos.photograph_of]
        ious = [iou for iou, _ in matched]
        held = self._sampler(ious, labels, ~kept, BATCH, IMAGES) if not kept.all() else None
        few = self._sampler(ious, labels, kept, BATCH_WITH_TRUNK, IMAGES_WITH_TRUNK)
        object.__setattr__(self, "train", self._sampler(ious, labels, kept, BATCH, IMAGES))
        object.__setattr__(self, "train_trunk", few)
        object.__setattr__(self, "held_out", held)

    def boxes(self, index: int) -> Floats:
        return training_boxes(self.photos.truth(index), self.proposals[index])

    def _sampler(
        self,
        ious: list[Floats],
        labels: list[Ints],
        kept: Flags,
        batch: int,
        images: int,
    ) -> RoISampler:
        """Of the kept photographs; the others have no windows in it."""
        return RoISampler(
            [iou if keep else iou[:0] for iou, keep in zip(ious, kept, strict=True)],
            [label if keep else label[:0] for label, keep in zip(labels, kept, strict=True)],
            len(self.photos.classes),
            negative=NEGATIVE,
            batch_size=batch,
            images_per_batch=images,
            seed=self.config.seed,
        )

    def pool(self, part: SampledRoIs, maps: FeatureMaps, rng: np.random.Generator) -> Tensor:
        """Vectors of the drawn windows, each at a scale drawn from its best ones (paper section 4.1)."""
        boxes = self.boxes(part.image)[part.windows]
        nearest = maps.nearest_scales(boxes, NEAREST_SCALES, self.config.scale_rule)
        at = nearest[np.arange(len(boxes)), rng.integers(nearest.shape[1], size=len(boxes))]
        return maps.pool(boxes, self.config.levels, self.config.box_mapping, at).float()

    def of_frozen_trunk(self) -> "VectorsOf":
        """Vectors made as the method makes them: windows of the maps, or for R-CNN crops."""
        if self.config.method != "rcnn":
            return lambda part, rng: self.pool(part, self.photos.photo(part.image).maps, rng)

        def of_crops(part: SampledRoIs, _: np.random.Generator) -> Tensor:
            made = self.crops(part.image)
            return made.take(made.roi_of_box[part.windows])

        return of_crops

    def crops(self, index: int) -> RoIVectors:
        """R-CNN's vectors of all windows of a photograph, before fc layers."""
        extractor = make_roi_extractor(self.config, self.photos.extractor, None, self.photos.vectors)
        return extractor.on_demand(self.photos.photo(index), self.boxes(index))

    def keep_crops(self, progress: Progress) -> None:
        """Convolve all windows once and keep their vectors, where the method is R-CNN's."""
        if self.config.method == "rcnn":
            every = ordered_map(self.crops, range(len(self.photos)))
            deque(track(every, "convolving windows", len(self.photos), progress), maxlen=0)

    def draw(self, sampler: RoISampler, step: int, vectors_of: "VectorsOf") -> tuple[Tensor, Tensor]:
        """Vectors and labels of a step."""
        rng = np.random.default_rng(np.random.SeedSequence(self.config.seed, spawn_key=(SCALE_STREAM, step)))
        parts = sampler.draw(step)
        vectors = torch.cat([vectors_of(part, rng) for part in parts])
        return vectors, torch.from_numpy(np.concatenate([part.labels for part in parts]))


VectorsOf = Callable[[SampledRoIs, np.random.Generator], Tensor]
"""(m, c × bins) float32 of what a step draws from a photograph; the generator is the step's."""

Save = Callable[[FinetuneState], None]


def finetune_layers(
    windows: FinetuneSamples, start: FinetuneState | None, save: Save, progress: Progress
) -> nn.Sequential:
    """New fc layers, learnt on windows of a frozen trunk and chosen by held-out photographs."""
    config, photos, vectors_of = windows.config, windows.photos, windows.of_frozen_trunk()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        length = photos.extractor.trunk.channels * count_bins(config.levels)
        head = detection_head(length, config.hidden, len(photos.classes))
        _measure_scale(head, windows, vectors_of)
        first = _begin("fine-tuning", config.steps, start, progress)
        drawn = ordered_map(  # ahead, on a thread of its own
            lambda step: windows.draw(windows.train, step, vectors_of), range(first, config.steps), 1, ahead=1
        )
        rows = finetune(
            head,
            lambda step: next(drawn),
            steps=config.steps,
            learning_rate=config.learning_rate,
            validate=_validation(windows, head, vectors_of),
            validate_every=math.ceil(config.steps / VALIDATIONS),
            seed=config.seed,
            start=start,
            save=save,
            progress=progress,
        )
    _tell_best(rows, progress)
    return head


def finetune_trunk(
    windows: FinetuneSamples, head: nn.Sequential, start: FinetuneState | None, save: Save, progress: Progress
) -> None:
    """Trunk and fc layers together, through the pooling; in place, and no worse on held-out photographs."""
    config, photos = windows.config, windows.photos

    def vectors_of(part: SampledRoIs, rng: np.random.Generator) -> Tensor:
        maps = photos.extractor.with_gradients(photos.photo(part.image).pixels)
        return windows.pool(part, maps, rng)

    trunk = photos.extractor.trunk
    assert isinstance(trunk, Trunk)  # the configuration refuses others
    body = trunk.body.requires_grad_(True)
    _begin("fine-tuning the trunk", config.trunk_steps, start, progress)
    with torch.random.fork_rng(devices=[]):
        rows = finetune(
            head,
            lambda step: windows.draw(windows.train_trunk, step, vectors_of),
            steps=config.trunk_steps,
            learning_rate=RATE_WITH_TRUNK * config.learning_rate,
            extra_parameters=body.parameters(),
            validate=_validation(windows, head, vectors_of),
            validate_every=math.ceil(config.trunk_steps / VALIDATIONS),
            validate_first=True,
            seed=config.seed,
            start=start,
            save=save,
            progress=progress,
        )
    body.requires_grad_(False)
    _tell_best(rows, progress)


def _begin(stage: str, steps: int, start: FinetuneState | None, progress: Progress) -> int:
    """Steps done already."""
    done = 0 if start is None else start.step
    progress.begin(stage, steps)
    progress.advance(done)
    return done


def _tell_best(rows: Sequence[Measured], progress: Progress) -> None:
    best = best_row(rows)
    if best is not None:
        progress.advance(0, note=f"held-out error {best.error:.3f}")


# --- pieces --------------------------------------------------------------------------------------


def _labels_of(nearest: Ints, truth: GroundTruth) -> Ints:
    """(n,) the class of the object at each index; 0, which nobody reads, for −1."""
    labels = np.zeros(len(nearest), np.int64)
    labels[nearest >= 0] = truth.labels[nearest[nearest >= 0]]
    return labels


def _kept_for_training(count: int, seed: int) -> Flags:
    """(count,) False for the photographs held out; none of fewer than ten."""
    kept = np.ones(count, np.bool_)
    if count >= 1 / HELD_OUT:
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(SPLIT_STREAM,)))
        kept[rng.permutation(count)[: round(HELD_OUT * count)]] = False
    return kept


def _measure_scale(head: nn.Sequential, windows: FinetuneSamples, vectors_of: VectorsOf) -> None:
    """Give the head the mean and deviation of the vectors of the first batches."""
    steps = -(-SAMPLED // IMAGES)
    sample = torch.cat([windows.draw(windows.train, step, vectors_of)[0] for step in range(steps)])
    standardise = head.get_submodule("standardise")
    assert isinstance(standardise, Standardise)
    standardise.measure(sample)


def _validation(
    windows: FinetuneSamples, head: nn.Module, vectors_of: VectorsOf
) -> Callable[[], float] | None:
    """The share of held-out windows that the head gets wrong, positives and negatives weighing the same."""
    sampler = windows.held_out
    if sampler is None:
        return None

    @torch.no_grad()
    def error() -> float:
        right, total = np.zeros(2), np.zeros(2)
        for step in range(min(VALIDATED, sampler.steps_per_epoch)):
            vectors, labels = windows.draw(sampler, step, vectors_of)
            hits = (head(vectors).argmax(1) == labels).numpy()
            background = labels.numpy() == sampler.num_classes
            for side in (0, 1):
                chosen = background == bool(side)
                right[side] += hits[chosen].sum()
                total[side] += chosen.sum()
        return float(1 - (right / np.maximum(total, 1)).mean())

    return error
