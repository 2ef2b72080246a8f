"""Boxes of torchvision's detection networks, before they decide on classes, and a vector for each.

Classes are shares here: the probability of a class where there is an object, beside the probability that
there is one. Their product is the score that the network itself gives.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import concat_box_prediction_layers

from sppnet.arrays import Array, Ints
from sppnet.nn.head_output import LOG_SHARE, LOGIT_LIMIT, HeadOutput, VectorLayout, log_sizes

Maps = Mapping[str, Tensor]


def head_layout(network: Any, classes: int) -> VectorLayout:
    """Of the vectors that `read_head` makes; classes: how many of the network's are told apart."""
    if _has_two_stages(network):
        return VectorLayout(network.roi_heads.box_predictor.cls_score.in_features, 1, classes, 0)
    head, levels = network.head, len(network.anchor_generator.num_anchors_per_location())
    if _is_ssd(head):
        return VectorLayout(0, 0, classes, levels)
    return VectorLayout(
        head.classification_head.cls_logits.in_channels,
        head.regression_head.bbox_reg.in_channels,
        classes,
        levels,
    )


def read_head(network: Any, images: ImageList, maps: Maps, columns: Tensor) -> HeadOutput:
    """All boxes of one image. columns: outputs of the network that stand for classes."""
    if _has_two_stages(network):
        return _read_two_stages(network, images, maps, columns)
    return _read_dense(network, images, list(maps.values()), columns)


def _has_two_stages(network: nn.Module) -> bool:
    return hasattr(network, "roi_heads")


def _is_ssd(head: nn.Module) -> bool:
    """Whether classes and boxes are one layer each on the maps."""
    return hasattr(head.classification_head, "module_list")


# --- Faster R-CNN --------------------------------------------------------------------------------


def _read_two_stages(network: Any, images: ImageList, maps: Maps, columns: Tensor) -> HeadOutput:
    """The proposals, each moved as its likeliest class asks; they rank by the RPN's objectness."""
    proposals, objectness = _propose(network.rpn, images, maps)
    roi = network.roi_heads
    features = roi.box_head(roi.box_roi_pool(dict(maps), [proposals], images.image_sizes))
    logits, deltas = roi.box_predictor(features)
    log = F.log_softmax(logits, 1)
    of_class = roi.box_coder.decode(deltas, [proposals]).reshape(len(proposals), -1, 4)
    likeliest = log[:, 1:].argmax(1) + 1
    boxes = of_class[torch.arange(len(proposals), device=log.device), likeliest]
    of_object = torch.logsumexp(log[:, 1:], 1, keepdim=True)
    rpn = _share(objectness.clamp_min(1e-9).log()[:, None])
    vectors = torch.cat([features, rpn, _shares(log[:, columns], of_object), _log_sizes(boxes)], 1)
    made = _array(vectors)
    return HeadOutput((), _array(boxes), _array(objectness), lambda chosen: made[chosen])


def _propose(rpn: Any, images: ImageList, maps: Maps) -> tuple[Tensor, Tensor]:
    """(n, 4) proposals and their objectness (n,): what `rpn` gives, which keeps the objectness to itself."""
    listed = list(maps.values())
    objectness, deltas = rpn.head(listed)
    counts = [one[0].numel() for one in objectness]
    anchors = rpn.anchor_generator(images, listed)
    objectness, deltas = concat_box_prediction_layers(objectness, deltas)
    decoded = rpn.box_coder.decode(deltas, anchors).view(1, -1, 4)
    (boxes,), (scores,) = rpn.filter_proposals(decoded, objectness, images.image_sizes, counts)
    return boxes, scores


# --- RetinaNet, FCOS, SSD ------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Dense:
    """What a head of one stage gives for every anchor."""

    log: Tensor
    """(n, classes) logarithms of the network's scores."""
    of_object: Tensor
    """(n, 1) logarithm of the probability of an object."""
    deltas: Tensor
    """(n, 4)"""
    features: tuple[Tensor, ...] = ()
    """(cells, c) of the last layers for classes and for boxes; anchors of a cell follow one another."""


def _read_dense(network: Any, images: ImageList, maps: Sequence[Tensor], columns: Tensor) -> HeadOutput:
    dense = (
        _run_ssd(network.head, maps, columns)
        if _is_ssd(network.head)
        else _run_towers(network.head, maps, columns)
    )
    (anchors,) = network.anchor_generator(images, list(maps))
    coder = network.box_coder
    decode = coder.decode_single if hasattr(coder, "decode_single") else coder.decode
    boxes = decode(dense.deltas, anchors)
    per_cell = network.anchor_generator.num_anchors_per_location()
    counts = [one.shape[-2] * one.shape[-1] * each for one, each in zip(maps, per_cell, strict=True)]

    def vectors(chosen: Ints) -> Array:
        rows = torch.from_numpy(chosen).to(boxes.device)
        features = [part[rows // per_cell[0]] for part in dense.features]
        level_of = torch.bucketize(rows, torch.tensor(counts, device=rows.device).cumsum(0), right=True)
        at_level = F.one_hot(level_of, len(counts))
        shares = _shares(dense.log[rows], dense.of_object[rows])
        return _array(torch.cat([*features, shares, at_level, _log_sizes(boxes[rows])], 1))

    return HeadOutput((), _array(boxes), _array(dense.of_object[:, 0]), vectors)


def _run_ssd(head: Any, maps: Sequence[Tensor], columns: Tensor) -> _Dense:
    log = F.log_softmax(head.classification_head(list(maps))[0], 1)
    of_object = torch.logsumexp(log[:, 1:], 1, keepdim=True)
    return _Dense(log[:, columns], of_object, head.regression_head(list(maps))[0])


def _run_towers(head: Any, maps: Sequence[Tensor], columns: Tensor) -> _Dense:
    """RetinaNet's and FCOS's heads, with what their last layers see."""
    classes, boxes = head.classification_head, head.regression_head
    of_class, of_box = ([branch.conv(one) for one in maps] for branch in (classes, boxes))
    logits = _rows([classes.cls_logits(one) for one in of_class], classes.num_classes)
    deltas = _rows([boxes.bbox_reg(one) for one in of_box], 4)
    log = F.logsigmoid(logits[:, columns])
    if hasattr(boxes, "bbox_ctrness"):  # FCOS: its score is the root of class times centreness
        centreness = _rows([boxes.bbox_ctrness(one) for one in of_box], 1)
        log, deltas = (log + F.logsigmoid(centreness)) / 2, F.relu(deltas)
    features = tuple(_rows(branch, branch[0].shape[1]) for branch in (of_class, of_box))
    return _Dense(log, log.amax(1, keepdim=True), deltas, features)


def _rows(maps: Sequence[Tensor], count: int) -> Tensor:
    """(1, anchors · count, h, w) of each level → (n, count), the anchors of a cell one after the other."""
    found = []
    for one in maps:
        _, channels, height, width = one.shape
        cells = one.view(channels // count, count, height, width).permute(2, 3, 0, 1)
        found.append(cells.reshape(-1, count))
    return torch.cat(found)


# --- vectors -------------------------------------------------------------------------------------


def _shares(log: Tensor, of_object: Tensor) -> Tensor:
    """(n, classes) of scores and (n, 1) of objects → (n, classes + 1) as vectors hold them."""
    return _share(torch.cat([log - of_object, of_object], 1))


def _share(log: Tensor) -> Tensor:
    return LOG_SHARE * log.clamp(-LOGIT_LIMIT, 0)


def _log_sizes(boxes: Tensor) -> Tensor:
    return torch.from_numpy(log_sizes(_array(boxes))).to(boxes)


def _array(tensor: Tensor) -> Array:
    array: Array = tensor.float().cpu().numpy()
    return np.ascontiguousarray(array)
