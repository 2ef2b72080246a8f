"""Fine-tuning on windows of the training photographs: the fc layers, or the trunk as well."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from sppnet.data.transforms import resize_shorter, to_tensor
from sppnet.detect.config import DetectorConfig
from sppnet.detect.examples import TrainingPhotos, match_boxes, training_boxes
from sppnet.features.maps import FeatureMaps
from sppnet.geometry.grid import count_bins
from sppnet.learn.finetune import Standardise, TuningState, best_row, detection_head, finetune
from sppnet.learn.sampling import ImageWindows, WindowSampler
from sppnet.progress import Progress
from sppnet.structures import Floats, GroundTruth
from sppnet.threads import in_order

HELD_OUT = 0.1
"""Share of the photographs on whose windows the best weights are chosen."""

BATCH = 512
"""Windows of a step, from IMAGES photographs: a quarter positive, as in the paper's 128."""

IMAGES = 16
IMAGES_WITH_TRUNK = 2
"""Convolving with gradients takes seconds and gigabytes a photograph."""

NEGATIVE = (0.0, 0.5)
"""The paper draws its negatives from overlaps of 0.1 on; windows of nothing at all are needed too where no
SVM with mined negatives comes after."""

VALIDATIONS = 10
SAMPLED = 64
"""Photographs that the scale of the vectors is measured on."""

SCALE_STREAM, SPLIT_STREAM = 11, 12


@dataclass(frozen=True, eq=False)
class WindowsToTune:
    """The windows of all photographs, and who is drawn when."""

    photos: TrainingPhotos
    proposals: Sequence[Floats]
    config: DetectorConfig
    train: WindowSampler = field(init=False)
    held_out: WindowSampler | None = field(init=False)

    def __post_init__(self) -> None:
        matched = [
            match_boxes(self.boxes(index), self.photos.truth(index)) for index in range(len(self.photos))
        ]
        labels = [_labels_of(nearest, self.photos.truth(index)) for index, (_, nearest) in enumerate(matched)]
        kept = _kept_for_training(len(self.photos), self.config.seed)
        overlaps = [overlap for overlap, _ in matched]
        object.__setattr__(self, "train", self._sampler(overlaps, labels, kept))
        held = self._sampler(overlaps, labels, ~kept) if not kept.all() else None
        object.__setattr__(self, "held_out", held)

    def boxes(self, index: int) -> Floats:
        return training_boxes(self.photos.truth(index), self.proposals[index])

    def _sampler(
        self, overlaps: list[Floats], labels: list[npt.NDArray[np.int64]], kept: npt.NDArray[np.bool_]
    ) -> WindowSampler:
        """Of the kept photographs; the others have no windows in it."""
        with_trunk = self.config.finetune == "all"
        return WindowSampler(
            [overlap if keep else overlap[:0] for overlap, keep in zip(overlaps, kept, strict=True)],
            [label if keep else label[:0] for label, keep in zip(labels, kept, strict=True)],
            len(self.photos.classes),
            negative=NEGATIVE,
            batch_size=BATCH * (IMAGES_WITH_TRUNK if with_trunk else IMAGES) // IMAGES,
            images_per_batch=IMAGES_WITH_TRUNK if with_trunk else IMAGES,
            seed=self.config.seed,
        )

    def pool(self, part: ImageWindows, maps: FeatureMaps, rng: np.random.Generator) -> Tensor:
        """Vectors of the drawn windows, each at a scale of its own drawn at random (paper section 4.1)."""
        at = rng.integers(len(maps.maps), size=len(part.windows))
        boxes = self.boxes(part.image)[part.windows]
        return maps.pool(boxes, self.config.levels, self.config.rule, at).float()

    def draw(self, sampler: WindowSampler, step: int, maps_of: "MapsOf") -> tuple[Tensor, Tensor]:
        """Vectors and labels of a step."""
        rng = np.random.default_rng(np.random.SeedSequence(self.config.seed, spawn_key=(SCALE_STREAM, step)))
        parts = sampler.draw(step)
        vectors = torch.cat([self.pool(part, maps_of(part.image), rng) for part in parts])
        return vectors, torch.from_numpy(np.concatenate([part.labels for part in parts]))


MapsOf = Callable[[int], FeatureMaps]


def tune(
    windows: WindowsToTune,
    start: TuningState | None,
    save: Callable[[TuningState], None],
    progress: Progress,
) -> nn.Sequential:
    """A head fine-tuned on windows, chosen by held-out photographs; with "all" the trunk learns too."""
    config, photos = windows.config, windows.photos
    body = photos.convolver.trunk.body
    with_trunk = config.finetune == "all"

    def frozen(index: int) -> FeatureMaps:
        return photos.photo(index).maps

    def learning(index: int) -> FeatureMaps:
        return _maps_with_gradients(photos, index)

    maps_of = learning if with_trunk else frozen
    extra = list(body.parameters()) if with_trunk else []
    for parameter in extra:
        parameter.requires_grad_(True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        length = photos.convolver.trunk.channels * count_bins(config.levels)
        head = detection_head(length, config.hidden, len(photos.classes))
        _measure_scale(head, windows, frozen)
        every = max(1, math.ceil(config.steps / VALIDATIONS))
        progress.begin("fine-tuning", config.steps)
        first = 0 if start is None else start.step
        progress.advance(first)
        # Ahead on a thread of its own; not where the trunk learns, whose next maps wait for this step's.
        drawn = in_order(
            lambda step: windows.draw(windows.train, step, maps_of),
            range(first, config.steps),
            workers=0 if with_trunk else 1,
            ahead=1,
        )
        rows = finetune(
            head,
            lambda step: next(drawn),
            steps=config.steps,
            learning_rate=config.learning_rate,
            extra_parameters=extra,
            validate=_validation(windows, head, maps_of),
            validate_every=every,
            seed=config.seed,
            start=start,
            save=save,
            progress=lambda done, _: progress.advance(),
        )
    best = best_row(rows)
    if best is not None:
        progress.advance(0, note=f"held-out error {best.error:.3f}")
    for parameter in extra:
        parameter.requires_grad_(False)
    return head


# --- pieces --------------------------------------------------------------------------------------


def _labels_of(nearest: npt.NDArray[np.int64], truth: GroundTruth) -> npt.NDArray[np.int64]:
    """(n,) the class of the object at each index; 0, which nobody reads, for −1."""
    labels = np.zeros(len(nearest), np.int64)
    labels[nearest >= 0] = truth.labels[nearest[nearest >= 0]]
    return labels


def _kept_for_training(count: int, seed: int) -> npt.NDArray[np.bool_]:
    """(count,) False for the photographs held out; none of fewer than ten."""
    kept = np.ones(count, np.bool_)
    if count >= 1 / HELD_OUT:
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(SPLIT_STREAM,)))
        kept[rng.permutation(count)[: round(HELD_OUT * count)]] = False
    return kept


def _measure_scale(head: nn.Sequential, windows: WindowsToTune, maps_of: MapsOf) -> None:
    """Give the head the mean and deviation of the vectors of the first batches."""
    steps = -(-SAMPLED // IMAGES)
    sample = torch.cat([windows.draw(windows.train, step, maps_of)[0] for step in range(steps)])
    standardise = head.get_submodule("standardise")
    assert isinstance(standardise, Standardise)
    standardise.measure(sample)


def _validation(windows: WindowsToTune, head: nn.Module, maps_of: MapsOf) -> Callable[[], float] | None:
    """The share of held-out windows that the head gets wrong, positives and negatives weighing the same."""
    sampler = windows.held_out
    if sampler is None:
        return None

    @torch.no_grad()
    def error() -> float:
        right, total = np.zeros(2), np.zeros(2)
        for step in range(min(4, sampler.steps_per_epoch)):
            vectors, labels = windows.draw(sampler, step, maps_of)
            hits = (head(vectors).argmax(1) == labels).numpy()
            background = labels.numpy() == sampler.num_classes
            for side in (0, 1):
                chosen = background == bool(side)
                right[side] += hits[chosen].sum()
                total[side] += chosen.sum()
        return float(1 - (right / np.maximum(total, 1)).mean())

    return error


def _maps_with_gradients(photos: TrainingPhotos, index: int) -> FeatureMaps:
    """The maps of a photograph convolved now; batch norms keep their statistics."""
    convolver, pixels = photos.convolver, photos.photo(index).pixels
    trunk = convolver.trunk.eval()
    resized = resize_shorter(pixels, convolver.scales[0])
    image = to_tensor(resized, trunk.mean, trunk.std)[None].to(convolver.device)
    features: Tensor = trunk(image.to(memory_format=torch.channels_last))[0].cpu()
    height, width = resized.shape[:2]
    return FeatureMaps(pixels.shape[:2], ((height, width),), (features,), trunk.grid)
