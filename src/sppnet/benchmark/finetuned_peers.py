"""Fine-tuning torchvision's SSDlite or Faster R-CNN for some seconds, by a recipe for few photographs."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.transforms import v2

from sppnet.arrays import Flags, Floats
from sppnet.benchmark.peer_networks import RCNN_PX, SSD_PX, build_fasterrcnn, build_ssdlite
from sppnet.boxes import clip_boxes
from sppnet.data.detection_dataset import AnnotatedImages
from sppnet.data.image import ImageArray, read_image
from sppnet.detect.joint.augmentation import Sample, augment
from sppnet.detect.joint.photographs import shrink
from sppnet.detect.joint.sampler import BatchOrder
from sppnet.detect.joint.trainer import canvas_of
from sppnet.errors import ConfigError, ImageError
from sppnet.nn.fusion import fuse_conv_bn
from sppnet.nn.trunks import Trunk
from sppnet.progress import Progress
from sppnet.rng import Stream, generator, torch_seed
from sppnet.structures import Detections, GroundTruth

CLIP_NORM = 10.0
WARM_STEPS, WARM_SHARE = 100, 0.05
"""The rate rises for so many steps, or so long a share of the time if that is longer."""
DROP_AT, DROP = 0.7, 0.1
"""Faster R-CNN's rate is so much lower after this share of the time."""


# --- what they see -------------------------------------------------------------------------------


def _draw_zoomed(sample: Sample, flat: bool, fill: Floats, rng: np.random.Generator) -> Sample:
    """As in our joint training: zoom, cut or border, mirror image, light and colour."""
    return augment(sample, canvas_of(RCNN_PX, flat), fill * 255, rng)


def _draw_for_ssd(sample: Sample, flat: bool, fill: Floats, rng: np.random.Generator) -> Sample:
    """SSD's own: colours, borders of up to 2.5 times the side, crops by IoU, mirror image; stretched."""
    torch.manual_seed(int(rng.integers(1 << 62)))  # these draw from torch's own generator
    change = v2.Compose([
        v2.RandomPhotometricDistort(p=0.5),
        v2.RandomZoomOut(fill=[round(255 * one) for one in fill.tolist()], side_range=(1.0, 2.5), p=0.3),
        v2.RandomIoUCrop(), v2.RandomHorizontalFlip(), v2.Resize((SSD_PX, SSD_PX)),
        v2.SanitizeBoundingBoxes(min_size=4),
    ])  # fmt: skip
    plain = sample.truth[~sample.truth.difficult]
    boxes = tv_tensors.BoundingBoxes(plain.boxes.copy(), format="XYXY", canvas_size=sample.pixels.shape[:2])
    pixels = tv_tensors.Image(torch.from_numpy(sample.pixels).permute(2, 0, 1))
    given = {"image": pixels, "boxes": boxes, "labels": torch.tensor(plain.labels)}
    seen = change(given)
    count = len(seen["labels"])
    truth = GroundTruth(
        seen["boxes"].numpy().astype(np.float32).reshape(count, 4), seen["labels"].numpy(),
        np.zeros(count, np.bool_), np.zeros(count, np.bool_),
    )  # fmt: skip
    return Sample(seen["image"].permute(1, 2, 0).contiguous().numpy(), truth, sample.proposals)


class _Photographs:
    """Training photographs in memory, shrunk to what the largest zoom needs; those that can be read."""

    def __init__(self, images: AnnotatedImages, size_px: int) -> None:
        self.samples = [
            sample
            for path, truth in zip(images.paths, images.truths, strict=True)
            if (sample := _read(path, truth, size_px)) is not None
        ]
        if not self.samples:
            raise ConfigError("none of the photographs to train on can be read")

    def lie_flat(self) -> Flags:
        return np.array([one.pixels.shape[1] >= one.pixels.shape[0] for one in self.samples], np.bool_)


def _read(path: Path, truth: GroundTruth, size_px: int) -> Sample | None:
    try:
        pixels = read_image(path)
    except ImageError:
        return None
    return shrink(Sample(pixels, truth, np.empty((0, 4), np.float32)), size_px)


# --- fine-tuning ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """How a peer is built and trained."""

    build: Callable[[Trunk, int], nn.Module]
    draw: Callable[[Sample, bool, Floats, np.random.Generator], Sample]
    size_px: int
    batch: int
    stretched: bool
    """Whether photographs of all shapes have one size, and share a batch."""
    adamw: bool
    """With a rate of 0.001, a quarter of that for the trunk, and a cosine; else SGD at 0.005 that drops."""


RECIPES = {
    "ssdlite": Recipe(build_ssdlite, _draw_for_ssd, SSD_PX, 16, stretched=True, adamw=True),
    "fasterrcnn": Recipe(build_fasterrcnn, _draw_zoomed, RCNN_PX, 4, stretched=False, adamw=False),
}


@dataclass(frozen=True, eq=False)
class FinetunedPeer:
    """A network that finds objects in a file."""

    network: nn.Module
    classes: tuple[str, ...]
    steps: int

    @torch.inference_mode()
    def __call__(self, path: Path) -> Detections:
        image = read_image(path)
        (found,) = self.network([_as_tensor(image)])
        boxes = clip_boxes(found["boxes"].numpy().astype(np.float32), (image.shape[0], image.shape[1]))
        return Detections(boxes, found["scores"].numpy(), found["labels"].numpy() - 1, self.classes)


def finetune_peer(
    name: str, trunk: Trunk, images: AnnotatedImages, seconds: float, seed: int, progress: Progress
) -> FinetunedPeer:
    """Fine-tune one of `RECIPES` for some seconds, the reading of the photographs among them.

    trunk: with maps at strides 8, 16 and 32. Raises ConfigError where it has others, or no photograph can
    be read.
    """
    began, recipe = time.perf_counter(), RECIPES[name]
    torch.manual_seed(torch_seed(seed, Stream.JOINT_ORDER))
    network = recipe.build(trunk, len(images.classes)).train()
    photographs = _Photographs(images, recipe.size_px)
    optimizer = _make_optimizer(network, recipe.adamw)
    learned = [one for group in optimizer.param_groups for one in group["params"]]
    progress.begin(f"fine-tuning {name}", max(1, int(seconds)))
    steps = 0
    for pictures, targets in _batches(recipe, photographs, np.array(trunk.mean, np.float32), seed):
        spent = time.perf_counter() - began
        if spent >= seconds and steps:
            break
        for group in optimizer.param_groups:
            group["lr"] = group["full_rate"] * _rate(steps, min(1.0, spent / seconds), recipe.adamw)
        loss = torch.stack(list(network(pictures, targets).values())).sum()
        optimizer.zero_grad(set_to_none=True)
        if torch.isfinite(loss):
            loss.backward()
            nn.utils.clip_grad_norm_(learned, CLIP_NORM)
            optimizer.step()
        steps += 1
        progress.advance(int(time.perf_counter() - began) - int(spent), note=f"loss {loss.item():.2f}")
    return FinetunedPeer(fuse_conv_bn(network.eval()), images.classes, steps)


def _batches(
    recipe: Recipe, photographs: _Photographs, fill: Floats, seed: int
) -> Iterator[tuple[list[Tensor], list[dict[str, Tensor]]]]:
    """Augmented photographs and what to find on them, without end."""
    flat = photographs.lie_flat()
    order = BatchOrder(np.ones_like(flat) if recipe.stretched else flat, recipe.batch, seed)
    step = 0
    while True:
        samples = [
            recipe.draw(
                photographs.samples[index], bool(flat[index]), fill,
                generator(seed, Stream.JOINT_SAMPLES, step, place),
            )
            for place, index in enumerate(order.photographs(step).tolist())
        ]  # fmt: skip
        step += 1
        yield [_as_tensor(one.pixels) for one in samples], [_as_target(one.truth) for one in samples]


def _as_tensor(pixels: ImageArray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1).float().div_(255)


def _as_target(truth: GroundTruth) -> dict[str, Tensor]:
    plain = truth[~truth.difficult]
    return {
        "boxes": torch.tensor(plain.boxes),
        "labels": torch.tensor(plain.labels) + 1,  # 0 is background
    }


def _make_optimizer(network: nn.Module, adamw: bool) -> torch.optim.Optimizer:
    groups = []
    for name, one in network.named_parameters():
        if not one.requires_grad:
            continue
        rate = 1e-3 * (0.25 if ".body." in name else 1) if adamw else 5e-3
        decay = (1e-2 if adamw else 5e-4) if one.ndim > 1 else 0.0
        groups.append({"params": [one], "full_rate": rate, "weight_decay": decay})
    if adamw:
        return torch.optim.AdamW(groups, lr=1e-3)
    return torch.optim.SGD(groups, lr=5e-3, momentum=0.9)


def _rate(step: int, share: float, cosine: bool) -> float:
    """Share of the full rate after `share` of the time."""
    warm = min(1.0, max((step + 1) / WARM_STEPS, share / WARM_SHARE))
    if cosine:
        return warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share)))
    return warm * (1.0 if share < DROP_AT else DROP)
