"""Everything that decides what a detector becomes."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from sppnet.errors import ConfigError, did_you_mean
from sppnet.geometry.grid import MappingRule, check_levels
from sppnet.learn.objective import Loss

Layer = Literal["auto", "pool", "fc6", "fc7"]
Finetune = Literal["auto", "none", "fc", "all"]
Method = Literal["spp", "rcnn"]

CHOICES: tuple[tuple[str, Any], ...] = (
    ("method", Method), ("rule", MappingRule), ("finetune", Finetune), ("layer", Layer), ("loss", Loss),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """How a detector is built and trained. Lengths are in pixels."""

    trunk: str = "mobilenet_v2:14+18"
    stride: int | None = 16
    width: float = 1.0
    weights: str | None = None
    """A file, or "imagenet"."""
    scales: tuple[int, ...] = (688,)
    """Shorter sides at which an image is convolved."""
    levels: tuple[int, ...] = (1, 2, 3)
    """The paper's are (1, 2, 3, 6): 50 bins, on 256 channels. The default trunk has 416, where 14 bins do."""
    method: Method = "spp"
    """rcnn: the baseline, which crops, warps and convolves every proposal."""
    rule: MappingRule = "paper"
    """Which cells a box covers."""
    proposals: str = "learned"
    """learned, selective-search, opencv; anything else is a file of boxes."""
    most: int = 1000
    """Proposals of an image, at most."""
    finetune: Finetune = "auto"
    """fc: new fc layers on frozen maps. all: the trunk with them after that. auto: fc; none for R-CNN."""
    layer: Layer = "auto"
    """What SVMs stand on. auto: fc7, or pool without fc layers."""
    hidden: int = 512
    """Outputs of fc6 and fc7."""
    steps: int = 1500
    """Of fine-tuning the fc layers, a batch of windows each (`detect.tune`)."""
    trunk_steps: int = 200
    """Of fine-tuning the trunk with them after that, where it learns at all."""
    learning_rate: float = 1e-2
    """Of fine-tuning."""
    loss: Loss = "squared_hinge"
    C: float = 1e-3
    positive_weight: float = 2.0
    positive: float = 1.0
    """Proposals that overlap an object as much are positives beside the object's own box; 1 for the paper's
    way, objects alone."""
    negative: float = 0.3
    """Proposals that overlap an object of the class less are negatives."""
    redundant: float = 1.0
    """Of two negatives of an image that overlap more, one is dropped; the paper's is 0.7, and 1 keeps all."""
    rounds: int = 3
    """Passes of mining over the images."""
    alpha: float = 1000.0
    """Of the ridge regression of boxes."""
    nms: float = 0.3
    """Of two detections of a class that overlap more, the surer one stays."""
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        check_levels(self.levels)
        for name, kind in CHOICES:
            given = getattr(self, name)
            if given not in get_args(kind):
                raise ConfigError(
                    f"{name} must be one of {', '.join(get_args(kind))}; got {given!r}: "
                    f"{did_you_mean(str(given), get_args(kind))}"
                )
        if self.finetune == "auto":
            object.__setattr__(self, "finetune", "none" if self.method == "rcnn" else "fc")
        if self.layer == "auto":
            object.__setattr__(self, "layer", "pool" if self.finetune == "none" else "fc7")
        if self.layer != "pool" and self.finetune == "none":
            raise ConfigError(f"layer {self.layer} needs fc layers: give --finetune fc or all")
        if self.method == "rcnn" and self.finetune != "none":
            raise ConfigError("the R-CNN baseline has no fine-tuning here; leave --finetune at none")
        if self.finetune == "all" and len(self.scales) > 1:
            raise ConfigError("fine-tuning all layers works at one scale; give one --scales")
        for name in ("most", "steps", "trunk_steps", "rounds", "hidden"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be 1 or more; got {getattr(self, name)}")
        for name in ("positive", "negative", "redundant", "nms"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(f"{name} is an overlap above 0 and up to 1; got {getattr(self, name)}")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> "DetectorConfig":
        return DetectorConfig(**{**data, "scales": tuple(data["scales"]), "levels": tuple(data["levels"])})
