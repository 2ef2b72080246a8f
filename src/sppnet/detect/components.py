"""What a trained detector is made of, and how a model file holds it."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sppnet.detect.box_refinement import BoxRefiner
from sppnet.detect.config import DetectorConfig
from sppnet.detect.probabilities import ScoreProbabilities
from sppnet.errors import ModelError
from sppnet.geometry.grid import count_bins
from sppnet.heads.fc_layers import detection_head
from sppnet.heads.ridge import BoxRegressor
from sppnet.heads.svd_compression import ranks_of, split_head
from sppnet.nn.any_trunk import PUBLISHED, AnyTrunk, is_onnx, restore_trunk
from sppnet.nn.coco_classes import known_class
from sppnet.nn.detector_trunk import DetectorTrunk
from sppnet.nn.model_file import check_settings
from sppnet.nn.weights import check_finite, load_weights
from sppnet.proposals.dense_windows import WindowConfig
from sppnet.proposals.proposal_head import ProposalHead, current_names
from sppnet.proposals.proposers import in_header
from sppnet.svm.linear_svm import LinearSVM


@dataclass(frozen=True, eq=False)
class DetectorComponents:
    """What training makes, and a model file holds."""

    classes: tuple[str, ...]
    config: DetectorConfig
    trunk: AnyTrunk
    windows: ProposalHead | None
    """Of learned proposals."""
    head: nn.Sequential | None
    """Fine-tuned fc layers."""
    svm: LinearSVM
    regressor: BoxRegressor
    probabilities: ScoreProbabilities | None = None
    """Of the scores; None where no photographs were held out."""
    refiner: BoxRefiner | None = None
    """Of the boxes that are found; None leaves them."""

    @property
    def refined(self) -> list[int]:
        """Labels of classes whose boxes the refiner corrects: those that box regression does.

        Others are of a network that knows them, or too few windows of them were seen.
        """
        moved = [label for label, weight in enumerate(self.regressor.weight) if weight.any()]
        return [] if self.refiner is None else moved

    @property
    def kept(self) -> dict[int, int]:
        """Labels of the classes that the trunk's network finds by itself, and what number it gives them."""
        kept = [name for name in self.config.keep if name in self.classes]  # in training they are not yet
        if not kept or not isinstance(self.trunk, DetectorTrunk):
            return {}
        numbers = {name: known_class(name, self.trunk.known_classes) for name in kept}
        return {self.classes.index(name): number for name, number in numbers.items() if number is not None}

    def joined(self, added: "DetectorComponents") -> "DetectorComponents":
        """The classes of both, on this one's trunk and proposals, which `added` shares."""

        def both(name: str, part: str) -> Tensor:
            return torch.cat([getattr(getattr(one, name), part) for one in (self, added)])

        classes = self.classes + added.classes
        return replace(
            self,
            classes=classes,
            svm=LinearSVM(both("svm", "weight"), both("svm", "bias"), classes),
            regressor=BoxRegressor(both("regressor", "weight"), both("regressor", "bias"), classes),
            probabilities=self.score_probabilities.joined(added.score_probabilities),
        )

    @property
    def score_probabilities(self) -> ScoreProbabilities:
        """Of all classes, unknown ones too."""
        return self.probabilities or ScoreProbabilities.unknown(len(self.classes))

    def header(self, trained: dict[str, Any]) -> dict[str, Any]:
        """What a model file says of them; trained: of their training."""
        return {
            "classes": list(self.classes),
            "config": _portable(self.config),
            "trunk": self.trunk.spec,
            "windows": None if self.windows is None else self.windows.config.to_json(),
            "ranks": None if self.head is None else ranks_of(self.head),
            "trained": trained,
        }

    def tensors(self) -> dict[str, Tensor]:
        """All that a model file holds, under its names there."""
        modules = {"trunk": self.trunk, "windows": self.windows, "head": self.head}
        tensors = {
            f"{name}.{key}": tensor
            for name, module in modules.items()
            if module is not None
            for key, tensor in module.state_dict().items()
        }
        linear = {"svm": self.svm, "regressor": self.regressor}
        tensors |= {
            f"{name}.{part}": getattr(one, part)
            for name, one in linear.items()
            for part in ("weight", "bias")
        }
        if self.refiner is not None:
            tensors |= {f"refiner.{name}": one for name, one in self.refiner.tensors().items()}
        return tensors | ({} if self.probabilities is None else self.probabilities.tensors())


def vector_length(config: DetectorConfig, trunk: AnyTrunk) -> int:
    """Numbers of a window's vector, before fc layers."""
    pooled = trunk.channels * count_bins(config.levels)
    if not isinstance(trunk, DetectorTrunk) or config.vectors == "pyramid":
        return pooled
    return trunk.layout.length + (pooled if config.vectors == "both" else 0)


def _portable(config: DetectorConfig) -> dict[str, Any]:
    """The configuration without what only the machine that trained knows: its paths and its device."""
    weights = config.weights if config.weights in (None, *PUBLISHED) else Path(config.weights).name
    proposals = in_header(config.proposals)
    trunk = Path(config.trunk).name if is_onnx(config.trunk) else config.trunk
    portable = {"trunk": trunk, "weights": weights, "proposals": proposals, "device": "auto"}
    return config.to_json() | portable


def read_components(header: dict[str, Any], tensors: dict[str, Tensor]) -> DetectorComponents:
    """The inverse of `header` and `tensors`; raises whatever a damaged file leads to."""
    config, classes = DetectorConfig.from_json(header["config"]), tuple(map(str, header["classes"]))
    check_settings(config)
    if not header["config"]["scales"]:
        raise ModelError("its scales are none; one size or more was expected")
    config = replace(config, proposals=in_header(config.proposals))  # version 0.1.0 wrote a path
    trunk = restore_trunk(header["trunk"], tensors_of(tensors, "trunk"))
    windows = None
    if header["windows"] is not None:
        window_config = WindowConfig.from_json(header["windows"])
        check_settings(window_config)
        with torch.device("meta"):
            windows = ProposalHead(trunk.channels, window_config)
        load_weights(windows, current_names(tensors_of(tensors, "windows")))
    head = None
    if config.finetune != "none":
        length = trunk.channels * count_bins(config.levels)
        with torch.device("meta"):
            tuned = len(tensors["head.fc8.bias"]) - 1  # classes that were added later were not there
            head = detection_head(length, config.hidden, tuned)
            if ranks := header.get("ranks"):
                head = split_head(head, ranks)
        load_weights(head, tensors_of(tensors, "head"))
    check_finite({name: one for name, one in tensors.items() if name.startswith(("regressor.", "refiner."))})
    _check_svms(tensors)
    svm = LinearSVM(_floats(tensors, "svm.weight"), _floats(tensors, "svm.bias"), classes)
    regressor = BoxRegressor(
        _floats(tensors, "regressor.weight"), _floats(tensors, "regressor.bias"), classes
    )
    pooled = vector_length(config, trunk)
    expected = (pooled if config.svm_layer == "pool" else config.hidden, pooled)
    if (lengths := (svm.weight.shape[1], regressor.weight.shape[2])) != expected:
        raise ModelError(f"SVMs and box regression must take vectors of {expected} numbers; got {lengths}")
    refiner = BoxRefiner.read(tensors_of(tensors, "refiner"), config)
    if refiner is not None and refiner.length != (pooled := trunk.channels * count_bins(refiner.levels)):
        raise ModelError(f"box refinement must take vectors of {pooled} numbers; got {refiner.length}")
    return DetectorComponents(
        classes,
        config,
        trunk.eval(),
        windows if windows is None else windows.eval(),
        head if head is None else head.eval(),
        svm,
        regressor,
        ScoreProbabilities.read(tensors, len(classes)),
        refiner,
    )


def _check_svms(tensors: dict[str, Tensor]) -> None:
    """A class without examples has a bias of −inf, with which it is never found."""
    bias = tensors["svm.bias"]
    check_finite({"svm.weight": tensors["svm.weight"], "svm.bias": bias[bias != -torch.inf]})


def _floats(tensors: dict[str, Tensor], name: str) -> Tensor:
    if not tensors[name].is_floating_point():
        raise ModelError(f"{name} must hold floats; got {tensors[name].dtype}")
    return tensors[name].float()


def tensors_of(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """Those of one part, under the names it gives them."""
    return {key.removeprefix(f"{name}."): t for key, t in tensors.items() if key.startswith(f"{name}.")}
