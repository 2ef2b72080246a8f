"""The steps of joint training: AdamW with a cosine, averaged weights, and a state to go on from."""

import math
from collections.abc import Generator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from sppnet.arrays import Ints
from sppnet.detect.joint.augmentation import Sample, augment
from sppnet.detect.joint.loss import JointLoss, proposal_loss, window_loss
from sppnet.detect.joint.network import JointNetwork
from sppnet.detect.joint.photographs import JointPhotographs
from sppnet.detect.joint.sampler import BatchOrder, SampledWindows, draw_windows
from sppnet.errors import ModelError, SppnetError
from sppnet.features.maps import FeatureMaps, TapMaps
from sppnet.proposals.head_training import WindowSample, cell_scores
from sppnet.proposals.head_training import draw_windows as draw_dense_windows
from sppnet.rng import Stream, generator
from sppnet.threads import ordered_map

BATCH = 4
"""Photographs of a step."""
TRUNK_RATE, WINDOW_RATE, PROPOSAL_RATE = 2e-4, 3e-5, 3e-4
"""Learning rates of AdamW."""
BIAS_FACTOR = 10.0
"""Of the window head's rate: its vectors are 20 long, and a bias stands for one number."""
WEIGHT_DECAY, CLIP_NORM = 1e-2, 10.0
WARM_SHARE, WARM_STEPS, LAST_RATE = 0.1, 50, 0.02
"""The rate rises in the first steps, and falls as a cosine to this share."""
AVERAGED = 0.98
"""Of the averaged weights that a step keeps; less at the beginning."""

ASPECT = 4 / 3
"""Of the canvas."""


def canvas_of(size_px: int, flat: bool) -> tuple[int, int]:
    """(height, width) of the canvas that photographs are learned on."""
    long = round(size_px * ASPECT)
    return (size_px, long) if flat else (long, size_px)


@dataclass(frozen=True, eq=False)
class Batch:
    """What a step learns on."""

    images: Tensor
    """(b, 3, h, w), normalised."""
    samples: list[Sample]
    windows: list[SampledWindows]


class JointTrainer:
    """A network on its way: the same seed and number of steps give the same bits."""

    def __init__(
        self,
        network: JointNetwork,
        photographs: JointPhotographs,
        chosen: Ints,
        steps: int,
        seed: int,
        share_trunk: bool = True,
    ) -> None:
        """chosen: photographs to learn on. share_trunk: whether the proposal head teaches the trunk too, as
        in Faster R-CNN."""
        self.network, self.photographs, self.chosen = network, photographs, chosen
        self.steps, self.seed, self.share_trunk = steps, seed, share_trunk
        self.done = 0
        self.flat = photographs.lie_flat()
        self.order = BatchOrder(self.flat[chosen], BATCH, seed)
        self.learned = {name: one for name, one in network.named_parameters() if one.requires_grad}
        self.averaged = {name: one.detach().clone() for name, one in self.learned.items()}
        self.optimizer = torch.optim.AdamW([_group(name, one) for name, one in self.learned.items()])

    def run(self) -> Generator[JointLoss]:
        """The steps that are left, one at a time."""
        ahead = ordered_map(self.draw, range(self.done, self.steps), 1, ahead=1)
        for batch in ahead:
            yield self._learn(batch)

    def draw(self, step: int) -> Batch:
        """The photographs of a step, augmented, and their windows."""
        picked = self.chosen[self.order.photographs(step)]
        trunk = self.network.parts.trunk
        mean, std = np.array(trunk.mean, np.float32), np.array(trunk.std, np.float32)
        canvas = canvas_of(self.photographs.size_px, bool(self.flat[picked[0]]))
        samples, windows = [], []
        for place, index in enumerate(picked.tolist()):
            rng = generator(self.seed, Stream.JOINT_SAMPLES, step, place)
            sample = augment(self.photographs[index], canvas, mean * 255, rng)
            samples.append(sample)
            windows.append(draw_windows(sample, len(self.network.parts.classes), rng))
        pixels = np.stack([sample.pixels for sample in samples]).astype(np.float32)
        images = torch.from_numpy((pixels / 255 - mean) / std).permute(0, 3, 1, 2)
        return Batch(images, samples, windows)

    def loss(self, batch: Batch, step: int) -> JointLoss:
        """Of the network as it is, with gradients."""
        network, parts = self.network, self.network.parts
        maps = network.maps(batch.images)
        vectors = torch.cat(
            [
                each.pool(windows.boxes, parts.config.levels, parts.config.box_mapping)
                for each, windows in zip(maps, batch.windows, strict=True)
            ]
        )
        labels = torch.from_numpy(np.concatenate([one.labels for one in batch.windows]))
        targets = torch.from_numpy(np.concatenate([one.deltas for one in batch.windows])) / network.units
        positive = labels < len(parts.classes)
        deltas = network.box_deltas(vectors[positive], labels[positive])
        classes, boxes = window_loss(network.class_logits(vectors), labels, deltas, targets)
        if not self.share_trunk:  # the proposal head follows a trunk that learns for the window head alone
            maps = [_detached(each) for each in maps]
        dense = [
            draw_dense_windows(
                each, sample.truth, network.windows.components, network.windows.config, step * BATCH + place
            )
            for place, (each, sample) in enumerate(zip(maps, batch.samples, strict=True))
        ]
        return JointLoss(classes, boxes, self._proposal_loss(dense))

    def state(self) -> dict[str, Tensor]:
        """Weights, averaged weights and moments, by name: those of the training itself, no copies."""
        found = {f"weights.{name}": one.detach() for name, one in self.learned.items()}
        found |= {f"averaged.{name}": one for name, one in self.averaged.items()}
        for name, one in self.learned.items():
            moments = self.optimizer.state.get(one, {})
            found |= {f"{key}.{name}": value for key, value in moments.items()}
        return found

    @torch.no_grad()
    def load(self, state: dict[str, Tensor], done: int) -> None:
        """Go on where a training that gave this state after `done` steps stood."""
        self.done = done
        for key, tensor in state.items():
            kind, _, name = key.partition(".")
            if name not in self.learned or (kind != "step" and tensor.shape != self.learned[name].shape):
                raise ModelError(f"the state of joint training is of another network: {name} does not fit")
            if kind == "weights":
                self.learned[name].copy_(tensor)
            elif kind == "averaged":
                self.averaged[name].copy_(tensor)
            else:
                self.optimizer.state[self.learned[name]][kind] = tensor.clone()

    @torch.no_grad()
    def take_averaged(self) -> JointNetwork:
        """The network with averaged weights; training is over."""
        for name, one in self.learned.items():
            one.copy_(self.averaged[name])
        return self.network

    def rate(self, step: int) -> float:
        """Share of the full learning rate."""
        warm = max(1.0, min(WARM_STEPS, WARM_SHARE * self.steps))
        fall = 0.5 * (1 + math.cos(math.pi * step / self.steps))
        return min(1.0, (step + 1) / warm) * (LAST_RATE + (1 - LAST_RATE) * fall)

    def _learn(self, batch: Batch) -> JointLoss:
        step = self.done
        for group in self.optimizer.param_groups:
            group["lr"] = group["full_rate"] * self.rate(step)
        loss = self.loss(batch, step)
        if not torch.isfinite(loss.total):
            raise SppnetError(f"the joint loss is {loss.total.item()} at step {step}; choose --method spp")
        self.optimizer.zero_grad(set_to_none=True)
        loss.total.backward()
        nn.utils.clip_grad_norm_(self.learned.values(), CLIP_NORM)
        self.optimizer.step()
        kept = min(AVERAGED, (1 + step) / (10 + step))
        weights = [one.detach() for one in self.learned.values()]
        torch._foreach_lerp_(list(self.averaged.values()), weights, 1 - kept)
        self.done += 1
        return loss

    def _proposal_loss(self, dense: list[WindowSample]) -> Tensor:
        head = self.network.windows
        pooled, geometry, cells, shapes = (
            torch.cat([getattr(one, name) for one in dense])
            for name in ("pooled", "geometry", "cells", "shapes")
        )
        positive = torch.from_numpy(np.concatenate([one.positive for one in dense])).to(pooled)
        deltas = torch.from_numpy(np.concatenate([one.deltas for one in dense])).to(pooled)
        coarse = cell_scores(head)(cells, shapes.to(cells))
        return proposal_loss(head(pooled, geometry.to(pooled)), coarse, positive, deltas)


def _group(name: str, one: nn.Parameter) -> dict[str, object]:
    """A parameter with its learning rate; biases have no weight decay."""
    if name.startswith("body."):
        rate = TRUNK_RATE
    elif name.startswith("windows."):
        rate = PROPOSAL_RATE
    else:
        rate = WINDOW_RATE * (BIAS_FACTOR if name.endswith("_bias") else 1)
    plain = one.ndim < 2 or name.endswith("_bias")
    return {"params": [one], "full_rate": rate, "weight_decay": 0.0 if plain else WEIGHT_DECAY}


def _detached(maps: FeatureMaps) -> FeatureMaps:
    """The same numbers without their graph."""
    taps = tuple(TapMaps(tuple(one.detach() for one in tap.maps), tap.grid) for tap in maps.taps)
    return replace(maps, taps=taps)
