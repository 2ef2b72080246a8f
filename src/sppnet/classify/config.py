"""Everything that decides how a classifier is trained."""

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from sppnet.data.sizes import SizeSchedule
from sppnet.data.transforms import CropRule, ViewRule
from sppnet.errors import ConfigError
from sppnet.geometry.grid import VIEW_PX, scale_of_views
from sppnet.nn.network import HeadKind

Schedule = Literal["plateau", "cosine"]
Shape = Literal["square", "full"]
CHOICES = {"head": HeadKind, "schedule": Schedule, "shape": Shape, "crop": CropRule, "view": ViewRule}
"""Options that are one of a few words."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """One training run. The same configuration, data and versions give the same weights on the CPU."""

    trunk: str = "zf5"
    """The convolutional network: zf5, convnet5, overfeat5, overfeat7, a torchvision name, or timm:<name>."""
    width: float = 1.0
    """Multiplies the channels of the paper's trunks."""
    stride: int | None = None
    """Where to cut a torchvision or timm trunk: at 16 or 32 image pixels per cell. By default it is whole."""
    weights: str | None = None
    """Trunk weights: a file, or "imagenet", downloaded once. By default they are random."""
    freeze_trunk: bool = False
    """Leave the trunk as it is and train the head only. The head svm always does."""
    levels: tuple[int, ...] | None = (1, 2, 3, 6)
    """Bins per side of the pyramid's levels, or none for the fixed-size baseline."""
    head: HeadKind = "fc"
    """fc: fully connected layers trained by SGD. svm: linear SVMs on the pooled vectors of a frozen trunk."""
    hidden: int | None = None
    """Outputs of fc6 and fc7. By default 4,096 × width on the paper's trunks, 512 on others."""
    dropout: float = 0.5
    """Share of the outputs of fc6 and fc7 that are dropped in training."""
    sizes: str = "224"
    """Side of the training images in pixels: one (224), several by epoch (224,180), or drawn for each
    epoch (180:224)."""
    shape: Shape = "square"
    """square: the paper's square crops. full: whole images in their own shape, batched by equal size."""
    crop: CropRule = "five"
    """Crop positions: the paper's five, or anywhere (random)."""
    epochs: int = 70
    """Passes over the images."""
    batch_size: int = 128
    """Images of a step, over all processes."""
    learning_rate: float = 0.01
    """Learning rate at the start."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 5e-4
    """Weight decay of all weights."""
    schedule: Schedule = "plateau"
    """plateau: a plateau of validation lowers the rate tenfold, at most twice. cosine: half a cosine that
    would be zero after the last epoch; epoch e of n, from 0, has ½(1 + cos πe/n) of the rate."""
    patience: int = 8
    """Epochs without improvement that make a plateau."""
    view: ViewRule = "full"
    """With the head svm: what of an image it is trained and tested on: full, crop or warp."""
    scale_px: int | None = None
    """Shorter side of images in pixels before views are cut. By default 256, and 224 for the head svm."""
    C: float | None = None
    """With the head svm: weight of the errors. By default it is chosen on a part of the training images."""
    seed: int = 0
    """Seed of everything random."""
    workers: int = 2
    """Threads that read images. They change nothing but the speed."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda, cuda:1, …; auto takes a CUDA device if there is one."""

    def __post_init__(self) -> None:
        self.schedule_of_sizes()
        for name, kind in CHOICES.items():
            if getattr(self, name) not in get_args(kind):
                known = ", ".join(get_args(kind))
                raise ConfigError(f"{name} must be one of {known}; got {getattr(self, name)!r}")
        for name in ("epochs", "batch_size", "learning_rate", "width", "patience", "hidden", "scale_px", "C"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name} must be above 0; got {value}")
        if min(self.momentum, self.weight_decay, self.seed, self.workers) < 0 or not 0 <= self.dropout < 1:
            raise ConfigError(
                "momentum, weight_decay, seed and workers must be 0 or more, dropout from 0 to below 1; got "
                f"{self.momentum}, {self.weight_decay}, {self.seed}, {self.workers} and {self.dropout}"
            )
        cut = self.head == "fc" or self.view == "crop"  # layers are judged by crops after an epoch
        if cut and self.test_scale_px < VIEW_PX:
            raise ConfigError(
                f"scale_px must be {VIEW_PX} or more, since views of {VIEW_PX} pixels are cut; "
                f"got {self.scale_px} (views are made smaller with sizes)"
            )
        if self.levels is None and (len(self.schedule_of_sizes().sizes) > 1 or self.shape == "full"):
            raise ConfigError(
                "a network without a pyramid (levels none) trains at one size; give one --size, or levels"
            )
        if self.levels is None and self.head == "svm" and self.view == "full":
            raise ConfigError("a network without a pyramid takes no full images; use --views crop or warp")

    def schedule_of_sizes(self) -> SizeSchedule:
        """Which size each epoch trains at."""
        return SizeSchedule.parse(self.sizes, self.seed)

    @property
    def test_scale_px(self) -> int:
        """Shorter side of images before views are cut, in training and testing."""
        return self.scale_px or (VIEW_PX if self.head == "svm" else 256)

    def full_scale_px(self, size_px: int) -> int:
        """Shorter side of whole images that show objects as large as a view of 224 made so small."""
        return scale_of_views(self.test_scale_px, size_px)

    def to_json(self) -> dict[str, Any]:
        config = asdict(self)
        return {**config, "levels": None if self.levels is None else list(self.levels)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "TrainingConfig":
        known = {field.name for field in fields(cls)}
        if set(data) != known:
            odd = ", ".join(sorted(set(data) ^ known))
            raise ConfigError(f"the configuration is of another version of sppnet; it differs in {odd}")
        levels = data["levels"]
        return cls(**{**data, "levels": None if levels is None else tuple(levels)})
