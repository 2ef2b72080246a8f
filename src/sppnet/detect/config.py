"""Everything that decides what a detector becomes."""

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from sppnet.detect.joint.duration import read_time
from sppnet.errors import ConfigError, did_you_mean
from sppnet.geometry.grid import BoxMapping, ScaleRule, check_levels
from sppnet.nn.any_trunk import is_detector, is_onnx, is_onnx_trunk
from sppnet.nn.default_trunk import default_stride, default_trunk, detectors_at_hand
from sppnet.nn.detector_names import COCO
from sppnet.nn.engines import Engine
from sppnet.svm.objective import Loss

Layer = Literal["auto", "pool", "fc6", "fc7"]
Finetune = Literal["auto", "none", "fc", "all"]
Method = Literal["auto", "spp", "rcnn", "fast", "faster"]
VectorKind = Literal["auto", "pyramid", "head", "both"]

JOINT: tuple[Method, ...] = ("fast", "faster")
"""Methods that train jointly."""
DEFAULT_TIME = "10m"

CHOICES: tuple[tuple[str, Any], ...] = (
    ("method", Method), ("box_mapping", BoxMapping), ("scale_rule", ScaleRule), ("finetune", Finetune),
    ("svm_layer", Layer), ("loss", Loss), ("vectors", VectorKind), ("engine", Engine),
)  # fmt: skip


NAMES_OF_0_1 = {
    "most": "max_proposals", "positive": "positive_iou", "negative": "negative_iou",
    "redundant": "negative_nms", "nms": "nms_iou", "rule": "box_mapping", "layer": "svm_layer",
    "alpha": "ridge_alpha", "positive_weight": "class_weight",
}  # fmt: skip
"""What fields are called in models of version 0.1.0."""


DEFAULT_SCALES = (688, 400, 230)


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """How a detector is built and trained. Lengths are in pixels."""

    trunk: str = "auto"
    """The convolutional network: efficientnet_lite0 to 2, a torchvision name, zf5 and others of the paper,
    timm:<name>; name:M+N takes the maps after stages M and N. Or a detector's: the ONNX file of one like
    YOLOX, NanoDet or YOLOv8, or a torchvision name such as fasterrcnn_mobilenet_v3_large_320_fpn.
    auto: efficientnet_lite1:6+8 with its ImageNet weights where the weights extra is installed, else
    mobilenet_v2:14+18; and released YOLOX files that were downloaded before. Of several, as of a list a,b,
    each is tried on some of the photographs, and the best one is taken."""
    stride: int | None = None
    """Image pixels per cell, with later strides taken out by dilation. By default the stages' own, and 16 for
    a network of torchvision or timm named without stages."""
    width: float = 1.0
    """Multiplies the channels of the paper's trunks."""
    weights: str | None = None
    """Trunk weights: a file (a classifier's too), or "imagenet", installed by the weights extra or downloaded
    once; for a detector's network of torchvision "coco"."""
    trunk_input: str | None = None
    """What an ONNX file expects of its pixels: yolox, yolox-legacy, yolo, nanodet, picodet or imagenet.
    By default that of its head's family, and imagenet for a network whose head is not understood."""
    scales: tuple[int, ...] = ()
    """Shorter sides at which an image is convolved; proposals are made on the first. By default 688,400,230;
    the paper's are 480,576,688,864,1200. Of an ONNX file the longer sides. By default a
    detector's network takes the size that it was trained for."""
    scale_rule: ScaleRule = "log"
    """At which scale a window is pooled: nearest to 224×224 pixels by the logarithm of its area (log), by its
    area (paper), or as in the authors' code (released)."""
    levels: tuple[int, ...] = (1, 2, 3)
    """Bins per side of the pyramid's levels. The paper's 1,2,3,6 are 50 bins, on 256 channels; the default
    trunks have more, where 14 bins do."""
    method: Method = "auto"
    """spp, SVMs on a frozen trunk; fast, which goes on from there to train trunk and window head jointly, as
    Fast R-CNN; faster, with the proposal head too, as Faster R-CNN; or rcnn, the baseline, which crops, warps
    and convolves every proposal. auto: faster where --time or --joint-steps is given, else spp."""
    time: str | None = None
    """How long the training may take, such as 90s, 10m or 1h: scales and mirror images are chosen to fit,
    unless scales are given, and what the frozen solution leaves is joint training. By default 10m with
    --method fast or faster; Ctrl-C ends with the best so far."""
    joint_steps: int | None = None
    """Steps of joint training, four photographs each, in place of a time: the same number gives the same
    detector."""
    joint_size: int = 400
    """Shorter side at which photographs are learned on jointly; the detector convolves at this scale then."""
    box_mapping: BoxMapping = "paper"
    """How boxes map to cells: as in the paper, or released, as in the authors' code."""
    mirror: bool = True
    """Train on the mirror image of every photograph too."""
    proposals: str = "auto"
    """Where proposals come from: learned, selective-search, opencv, a file of boxes; of a detector's network
    trunk, the boxes that it finds by itself, or joined, those and learned windows; auto is learned, and for
    those networks trunk where that misses no more than one object of 20, else joined."""
    max_proposals: int = 1000
    """Maximum number of proposals per image."""
    finetune: Finetune = "auto"
    """What is fine-tuned: none; fc, new layers on frozen maps, or for rcnn on frozen crops; all, the trunk
    with them after that, but for rcnn; auto, which is none."""
    vectors: VectorKind = "auto"
    """What stands for a window: pyramid, what is pooled from the maps; head, what a detector's network says
    of its own box there; both; auto is pyramid; for a detector's
    network head where it knows all classes, else both, unless cross-validation finds one alone better."""
    known_classes: bool = True
    """Begin classes that a detector's network knows by name, such as COCO's, from its own score."""
    keep: tuple[str, ...] = ()
    """Classes that a detector's network knows, such as car,person, to be found beside those that are learned:
    as the network finds them by itself."""
    svm_layer: Layer = "auto"
    """Features that feed the SVMs: pool, fc6, fc7; auto is fc7, or pool without fc layers."""
    hidden: int = 512
    """Outputs of fc6 and fc7."""
    steps: int = 1500
    """Steps of fine-tuning the fc layers, a batch of windows each."""
    trunk_steps: int = 200
    """Steps of fine-tuning the trunk with the fc layers after that, where it learns at all."""
    learning_rate: float = 1e-2
    """Learning rate of fine-tuning, at the start."""
    loss: Loss = "squared_hinge"
    """Loss of the SVMs: squared_hinge or hinge."""
    C: float = 1e-3
    """Weight of the errors in the objective of the SVMs."""
    class_weight: float = 2.0
    """Factor of C for the positives of a class."""
    positive_iou: float = 0.6
    """Minimum IoU of extra positives beside the objects' own boxes; 1 takes the objects alone, as the
    paper does."""
    negative_iou: float = 0.3
    """IoU with every object of the class below which a proposal is a negative."""
    negative_nms: float = 1.0
    """IoU above which near-duplicate negatives are discarded; the paper's is 0.7, and 1 keeps all."""
    rounds: int = 3
    """Passes of hard-negative mining over the images."""
    ridge_alpha: float = 1000.0
    """Regularisation of the ridge regression of boxes."""
    refine_levels: tuple[int, ...] | None = (1, 2, 3, 6)
    """Levels of the pyramid by which the boxes of detections are corrected once more; none leaves them, as
    the paper and rcnn do."""
    nms_iou: float = 0.3
    """IoU above which the lower-scoring of two detections of a class is removed."""
    voting_iou: float = 0.5
    """IoU from which on windows of the class vote on a detection's box, weighted by score; 1 leaves boxes as
    they are, as the paper does."""
    seed: int = 0
    """Seed of everything random."""
    engine: Engine = "auto"
    """What runs the frozen trunk: torch, or onnx, which is onnxruntime; auto is onnx on a CPU where the onnx
    extra is installed and the network can be translated. int8: onnxruntime with 8-bit numbers, whose ranges
    are measured on the photographs, in little more than half the time, for a point or two of accuracy."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda, cuda:1, …; auto takes a CUDA device if there is one."""

    def __post_init__(self) -> None:
        check_levels(self.levels)
        for name, kind in CHOICES:
            given = getattr(self, name)
            if given not in get_args(kind):
                raise ConfigError(
                    f"{name} must be one of {', '.join(get_args(kind))}; got {given!r}: "
                    f"{did_you_mean(str(given), get_args(kind))}"
                )
        if self.trunk == "auto":
            trunk, weights = default_trunk(self.weights)
            object.__setattr__(self, "trunk", ",".join([trunk, *detectors_at_hand()]))
            object.__setattr__(self, "weights", weights)
        if "," in self.trunk:
            _ = self.candidates  # raises what is wrong with them
            return  # what depends on the trunk waits for the choice
        own_boxes = is_detector(self.trunk)
        if self.stride is None and not own_boxes:
            object.__setattr__(self, "stride", default_stride(self.trunk))
        if not self.scales and not own_boxes:
            object.__setattr__(self, "scales", DEFAULT_SCALES)
        if self.proposals == "auto" and (self.keep or not own_boxes):
            object.__setattr__(self, "proposals", "trunk" if own_boxes else "learned")
        if self.vectors == "auto" and not own_boxes:
            object.__setattr__(self, "vectors", "pyramid")
        self._check_detector_trunk(own_boxes)
        if self.method == "auto":
            jointly = self.wants_joint and not own_boxes
            object.__setattr__(self, "method", "faster" if jointly else "spp")
        self._check_joint(own_boxes)
        if self.finetune == "auto":
            object.__setattr__(self, "finetune", "none")
        if self.engine == "int8" and (self.finetune == "all" or self.method in JOINT):
            raise ConfigError("the engine int8 is for a trunk that stays as it is: leave --engine at auto")
        if self.refine_levels is not None:
            check_levels(self.refine_levels)
        if self.method == "rcnn":  # it has no maps
            object.__setattr__(self, "refine_levels", None)
        if self.svm_layer == "auto":
            object.__setattr__(self, "svm_layer", "pool" if self.finetune == "none" else "fc7")
        if self.svm_layer != "pool" and self.finetune == "none":
            raise ConfigError(f"svm_layer {self.svm_layer} needs fc layers: give --finetune fc or all")
        if self.method == "rcnn" and self.finetune == "all":
            raise ConfigError(
                "the trunk of the R-CNN baseline stays frozen: give --finetune fc, or --method spp for all"
            )
        if self.finetune == "all" and len(self.scales) > 1:
            raise ConfigError("fine-tuning all layers works at one scale; give one --scales")
        for name in ("max_proposals", "steps", "trunk_steps", "rounds", "hidden"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be 1 or more; got {getattr(self, name)}")
        for name in ("positive_iou", "negative_iou", "negative_nms", "nms_iou", "voting_iou"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(f"{name} is an IoU above 0 and up to 1; got {getattr(self, name)}")

    @property
    def candidates(self) -> tuple["DetectorConfig", ...]:
        """This configuration with each of the trunks that `trunk` lists."""
        if "," not in self.trunk:
            return (self,)
        names = [name.strip() for name in self.trunk.split(",")]
        return tuple(replace(self, trunk=name, weights=self._weights_of(name)) for name in names if name)

    @property
    def wants_joint(self) -> bool:
        """Whether a time or a number of steps was given."""
        return self.time is not None or self.joint_steps is not None

    def _check_joint(self, own_boxes: bool) -> None:
        """What joint training can do."""
        if self.joint_size < 32:
            raise ConfigError(f"joint_size must be 32 pixels or more; got {self.joint_size}")
        if self.joint_steps is not None and self.joint_steps < 1:
            raise ConfigError(f"joint_steps must be 1 or more; got {self.joint_steps}")
        if self.time is not None:
            read_time(self.time)
        if self.method not in JOINT:
            return
        if own_boxes or self.proposals != "learned" or self.finetune not in ("auto", "none"):
            raise ConfigError(
                f"--method {self.method} needs a trunk that can learn, --proposals learned and --finetune "
                f"none; got {self.trunk}, {self.proposals} and {self.finetune}"
            )
        if not self.wants_joint:
            object.__setattr__(self, "time", DEFAULT_TIME)

    def _weights_of(self, trunk: str) -> str | None:
        if is_onnx(trunk):
            return None
        return COCO if is_detector(trunk) else self.weights or "imagenet"

    def _check_detector_trunk(self, own_boxes: bool) -> None:
        """What only the network of a detector, or only another one, can do."""
        if own_boxes and (self.finetune not in ("auto", "none") or self.method not in ("auto", "spp")):
            raise ConfigError("a detector's network stays as it is: leave --finetune and --method alone")
        if own_boxes and self.engine != "auto":
            raise ConfigError(f"{self.trunk} has an engine of its own: leave --engine at auto")
        if self.trunk_input is not None and not is_onnx_trunk(self.trunk):
            raise ConfigError(f"trunk_input is for ONNX files; {self.trunk} knows what it expects")
        asked = [
            f"{name} {value}"
            for name, value in (("proposals", self.proposals), ("vectors", self.vectors))
            if value in ("trunk", "joined", "head", "both")
        ]
        if self.keep:
            asked.append(f"keep {','.join(self.keep)}")
        if self.keep and own_boxes and (self.proposals != "trunk" or self.vectors == "pyramid"):
            raise ConfigError(
                "keep needs the network's own boxes and vectors: leave --proposals and --vectors"
            )
        if asked and not own_boxes:
            raise ConfigError(
                f"{' and '.join(asked)} need a detector's network for a trunk (--trunk detector.onnx, or one "
                f"of torchvision's); got {self.trunk}"
            )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> "DetectorConfig":
        given = {NAMES_OF_0_1.get(name, name): value for name, value in data.items()}
        given.setdefault("scale_rule", given.get("box_mapping", "paper"))  # it was one choice in 0.1.0
        given.setdefault("voting_iou", 1.0)
        given.setdefault("refine_levels", None)
        for name in ("scales", "levels", "keep", "refine_levels"):
            if given.get(name) is not None:
                given[name] = tuple(given[name])
        return DetectorConfig(**given)
