"""From boxes of an image to the vectors that are learned on: SPP-net's way, and R-CNN's."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from sppnet.arrays import Floats, Ints, Reals
from sppnet.boxes import match_boxes
from sppnet.data.image import ImageArray
from sppnet.data.transforms import to_tensor
from sppnet.distinct import distinct_rows
from sppnet.errors import ConfigError
from sppnet.features.extractor import FeatureExtractor
from sppnet.features.lazy_image import LazyImage
from sppnet.features.maps import FeatureMaps, RoIs
from sppnet.geometry.grid import BoxMapping, ScaleRule
from sppnet.heads.standardisation import Standardisation
from sppnet.nn.model_file import write_file
from sppnet.ops.pooling import pyramid_pool

CROP_PX = 227
CONTEXT_PX = 16
"""R-CNN's input, and the context around the box within it."""
CROPS_AT_ONCE = 32


@dataclass(frozen=True, eq=False)
class RoIFeatures:
    """The vectors of an image's boxes; boxes that look alike share one."""

    distinct: Tensor
    """(u, d) float32: pooled, then through fc layers if there are any. What SVMs judge."""
    pooled: Tensor
    """(u, c × bins) float32: as pooled, which box regression stands on (paper section 4.1)."""
    roi_of_box: Ints
    """(n,) the vector of each box."""

    def take_pooled(self, boxes: Ints) -> Tensor:
        """(m, c × bins) of these boxes."""
        return self.pooled[torch.from_numpy(self.roi_of_box[boxes])]


@dataclass(frozen=True, eq=False)
class RoIVectors:
    """The vectors of an image's boxes, each made when it is asked for."""

    roi_of_box: Ints
    """(n,) the vector of each box."""
    take: Callable[[Ints], Tensor]
    """(m,) numbers of vectors → (m, d) float32."""

    @staticmethod
    def of(features: RoIFeatures) -> "RoIVectors":
        """Vectors that are all made."""
        return RoIVectors(features.roi_of_box, lambda rois: features.distinct[torch.from_numpy(rois)])


class RoIFeatureExtractor(Protocol):
    """Makes vectors of one length."""

    def __call__(self, photo: LazyImage, boxes: Floats) -> RoIFeatures: ...

    def on_demand(self, photo: LazyImage, boxes: Floats) -> RoIVectors:
        """The same vectors, for who needs a few of them."""
        return RoIVectors.of(self(photo, boxes))


@dataclass(frozen=True, eq=False)
class SppRoIFeatureExtractor(RoIFeatureExtractor):
    """Windows of the image's feature maps, pooled (paper section 4.1)."""

    levels: tuple[int, ...]
    rule: BoxMapping = "paper"
    scale_rule: ScaleRule = "paper"
    layers: nn.Sequential | None = None
    """fc layers up to the one that is asked for."""

    def __call__(self, photo: LazyImage, boxes: Floats) -> RoIFeatures:
        windows = self.windows(photo.maps, boxes)
        vectors = photo.maps.pool_windows(windows, self.levels)
        return RoIFeatures(_through(self.layers, vectors), vectors, windows.roi_of_box)

    def on_demand(self, photo: LazyImage, boxes: Floats) -> RoIVectors:
        """The same vectors, for who needs a few of them."""
        windows = self.windows(photo.maps, boxes)

        def take(rois: Ints) -> Tensor:
            pooled = photo.maps.pool_windows(replace(windows, cells=windows.cells[rois]), self.levels)
            return _through(self.layers, pooled)

        return RoIVectors(windows.roi_of_box, take)

    def windows(self, maps: FeatureMaps, boxes: Floats) -> RoIs:
        """Where boxes (n, 4) lie, each at its best scale."""
        return maps.windows(boxes, self.rule, maps.choose_scales(boxes, self.scale_rule))


@dataclass(frozen=True, eq=False)
class HeadRoIFeatureExtractor(RoIFeatureExtractor):
    """What a detector's head says of its own box nearest to each box, and windows of its maps, pooled.

    levels: of the pyramid that is pooled beside it; () for none.
    """

    levels: tuple[int, ...]
    rule: BoxMapping = "paper"
    scale_rule: ScaleRule = "log"

    def __call__(self, photo: LazyImage, boxes: Floats) -> RoIFeatures:
        head = photo.maps.head
        if head is None or not len(head.boxes):
            raise ConfigError("these feature maps are not of a detector's network")
        if not self.levels:
            used, of_box = np.unique(_nearest_own(boxes, head.boxes), return_inverse=True)
            vectors = torch.from_numpy(head.vectors[used])
            return RoIFeatures(vectors, vectors, of_box.reshape(-1))
        found = self.on_demand(photo, boxes)
        vectors = found.take(np.arange(1 + found.roi_of_box.max(initial=-1)))
        return RoIFeatures(vectors, vectors, found.roi_of_box)

    def on_demand(self, photo: LazyImage, boxes: Floats) -> RoIVectors:
        """The same vectors, for who needs a few of them."""
        head = photo.maps.head
        if head is None or not len(head.boxes) or not self.levels:
            return RoIVectors.of(self(photo, boxes))
        own, windows = torch.from_numpy(head.vectors), self.windows(photo.maps, boxes)
        pairs = np.stack([_nearest_own(boxes, head.boxes), windows.roi_of_box], 1).reshape(-1, 2)
        rois, roi_of_box = distinct_rows(pairs)

        def take(chosen: Ints) -> Tensor:
            own_of_roi, window_of_roi = rois[chosen].T
            used, place = np.unique(window_of_roi, return_inverse=True)
            pooled = photo.maps.pool_windows(replace(windows, cells=windows.cells[used]), self.levels)
            length = own.shape[1]
            vectors = torch.empty(len(chosen), length + pooled.shape[1])
            vectors[:, :length] = own[torch.from_numpy(own_of_roi)]
            vectors[:, length:] = pooled[torch.from_numpy(place.reshape(-1))]
            return vectors  # filled in place: copies cost more than pooling

        return RoIVectors(roi_of_box, take)

    def windows(self, maps: FeatureMaps, boxes: Floats) -> RoIs:
        """Where boxes (n, 4) lie, each at its best scale."""
        return maps.windows(boxes, self.rule, maps.choose_scales(boxes, self.scale_rule))


def _nearest_own(boxes: Floats, own: Floats) -> Ints:
    """(n,) which of the head's own boxes overlaps each most; proposals are those boxes, behind others."""
    others = max(0, len(boxes) - len(own))
    proposed = len(boxes) - others
    if not np.array_equal(boxes[others:], own[:proposed]):
        return match_boxes(boxes, own)[1]
    return np.concatenate([match_boxes(boxes[:others], own)[1], np.arange(proposed)])


@dataclass(frozen=True, eq=False)
class RcnnRoIFeatureExtractor(RoIFeatureExtractor):
    """Every box cut out with its context, warped to a square and convolved by itself."""

    extractor: FeatureExtractor
    levels: tuple[int, ...]
    layers: nn.Sequential | None = None
    """fc layers up to the one that is asked for."""

    def __call__(self, photo: LazyImage, boxes: Floats) -> RoIFeatures:
        return self.through_layers(self.pooled(photo, boxes))

    def pooled(self, photo: LazyImage, boxes: Floats) -> Tensor:
        """(n, c × bins) float32: the vectors before fc layers; every call convolves all boxes."""
        parts = [
            self._convolved(photo, boxes[start : start + CROPS_AT_ONCE])
            for start in range(0, len(boxes), CROPS_AT_ONCE)
        ]
        length = self.extractor.trunk.channels * sum(n * n for n in self.levels)
        return torch.cat(parts) if parts else torch.empty(0, length)

    def through_layers(self, pooled: Tensor) -> RoIFeatures:
        """The vectors of boxes whose pooled ones (n, c × bins) are known."""
        return RoIFeatures(_through(self.layers, pooled), pooled, np.arange(len(pooled)))

    @torch.inference_mode()
    def _convolved(self, photo: LazyImage, boxes: Floats) -> Tensor:
        trunk = self.extractor.trunk
        crops = [to_tensor(warp_crop(photo.pixels, box), trunk.mean, trunk.std) for box in boxes]
        maps = self.extractor.engine(torch.stack(crops))
        pooled = [pyramid_pool(one.contiguous(), None, self.levels) for one in maps]
        return torch.cat(pooled, 1).float().cpu()


@dataclass(frozen=True, eq=False)
class StandardisedRoIFeatureExtractor(RoIFeatureExtractor):
    """Vectors on which every number weighs alike; see `Standardisation`."""

    maker: RoIFeatureExtractor
    standard: Standardisation

    def __call__(self, photo: LazyImage, boxes: Floats) -> RoIFeatures:
        made = self.maker(photo, boxes)
        distinct = made.distinct.sub_(self.standard.mean).mul_(self.standard.factor)  # made for this call
        return RoIFeatures(distinct, distinct, made.roi_of_box)

    def on_demand(self, photo: LazyImage, boxes: Floats) -> RoIVectors:
        """The same vectors, for who needs a few of them."""
        made, standard = self.maker.on_demand(photo, boxes), self.standard
        return RoIVectors(
            made.roi_of_box, lambda rois: made.take(rois).sub_(standard.mean).mul_(standard.factor)
        )


@dataclass(frozen=True, eq=False)
class CachedRoIFeatureExtractor(RoIFeatureExtractor):
    """R-CNN's vectors of training photographs, kept in half precision in a folder, a file a photograph.

    Every step of fine-tuning and every pass of mining asks for them, and R-CNN takes seconds to make those
    of one photograph; SPP-net pools again in less time than reading takes. A window is convolved once. The
    folder may be deleted at any moment.
    """

    maker: RcnnRoIFeatureExtractor
    folder: Path

    def __call__(self, photo: LazyImage, boxes: Floats) -> RoIFeatures:
        vectors, rows = self._kept(photo, boxes)
        return self.maker.through_layers(vectors[rows].float())

    def on_demand(self, photo: LazyImage, boxes: Floats) -> RoIVectors:
        """The same vectors; only those that are asked for are read."""
        vectors, rows = self._kept(photo, boxes)

        def take(rois: Ints) -> Tensor:
            return self.maker.through_layers(vectors[rows[rois]].float()).distinct

        return RoIVectors(np.arange(len(boxes)), take)

    def _kept(self, photo: LazyImage, boxes: Floats) -> tuple[Tensor, Ints]:
        """(m, c × bins) float16, the pooled vectors that are kept, and (n,) the row of each box."""
        name = hashlib.sha256(f"{photo.path} {photo.mirrored}".encode()).hexdigest()[:32]
        path = self.folder / f"{name}.safetensors"
        try:
            kept = load_file(path)  # mapped: rows that nobody takes are not read
            known, vectors = kept["boxes"], kept["vectors"]
        except (SafetensorError, OSError):
            known, vectors = torch.empty(0, 4), self.maker.pooled(photo, boxes[:0]).half()
        rows = _rows_of(boxes, known)
        if len(new := boxes[rows < 0]):
            known = torch.cat([known, torch.from_numpy(new)])
            vectors = torch.cat([vectors, self.maker.pooled(photo, new).half()])
            write_file(path, save({"boxes": known, "vectors": vectors}))
            rows = _rows_of(boxes, known)
        return vectors, rows


def _rows_of(boxes: Floats, known: Tensor) -> Ints:
    """(n,) where each box stands among those known; −1 where it does not."""
    row_of = {box.tobytes(): row for row, box in enumerate(known.numpy())}
    return np.array([row_of.get(box.tobytes(), -1) for box in boxes], np.int64)


def warp_crop(pixels: ImageArray, box: Reals) -> ImageArray:
    """(227, 227, 3): the box warped to the inner 195×195 pixels, with 16 pixels of context on every side.

    Where the context reaches beyond the image, the pixels of its border are repeated; R-CNN's code puts
    the mean colour there, and rounds the box with its context to whole pixels.
    """
    height, width = pixels.shape[:2]
    low, high = np.float64(box[:2]), np.float64(box[2:])
    margin = (high - low) * (CONTEXT_PX / (CROP_PX - 2 * CONTEXT_PX))
    low, high = low - margin, high + margin
    first, end = np.floor(low).astype(int), np.ceil(high).astype(int)
    rows = np.clip(np.arange(first[1], end[1]), 0, height - 1)
    columns = np.clip(np.arange(first[0], end[0]), 0, width - 1)
    part = Image.fromarray(pixels[rows[:, None], columns])
    inside = (*(low - first).tolist(), *(high - first).tolist())
    return np.array(part.resize((CROP_PX, CROP_PX), Image.Resampling.BILINEAR, box=inside))


@torch.inference_mode()
def _through(layers: nn.Sequential | None, vectors: Tensor) -> Tensor:
    return vectors if layers is None else layers(vectors)


def layers_up_to(head: nn.Sequential, layer: str) -> nn.Sequential:
    """A detection head as far as `layer`, fc6 or fc7, ReLU included, without dropout."""
    last = ("fc7", "relu7") if layer == "fc7" else ()
    names: Sequence[str] = ("standardise", "fc6", "relu6", *last)
    part = nn.Sequential()
    for name in names:
        part.add_module(name, head.get_submodule(name))
    return part.eval()
