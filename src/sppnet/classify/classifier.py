"""A trained classifier: a network, the names of its classes, and how to show it an image."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sppnet.classify.distributed import Workers
from sppnet.classify.views import Views, check_views, score_images
from sppnet.data.image import ImageSource, read_image
from sppnet.data.transforms import SCALE_PX
from sppnet.errors import ConfigError, MissingExtraError, ModelError
from sppnet.geometry.grid import VIEW_PX
from sppnet.nn.device import find_device
from sppnet.nn.model_file import check_settings, load_model, save_model
from sppnet.nn.network import SPPNet, empty_network
from sppnet.nn.weights import load_weights
from sppnet.progress import Progress
from sppnet.torch_defaults import own_defaults

KIND = "classifier"


@dataclass(frozen=True)
class Prediction:
    """What a classifier says of an image."""

    classes: tuple[str, ...]
    """The likeliest classes, best first."""
    scores: tuple[float, ...]
    """Of those: probabilities, or the margins of SVMs, which are above 0 for a yes."""

    @property
    def label(self) -> str:
        """The likeliest class."""
        return self.classes[0]

    def to_json(self) -> dict[str, Any]:
        """{"label", "score", "top": [{"label", "score"}, …]}"""
        top = [{"label": c, "score": s} for c, s in zip(self.classes, self.scores, strict=True)]
        return {"label": self.label, "score": self.scores[0], "top": top}


@dataclass(frozen=True)
class Testing:
    """How images are shown to a classifier unless one asks for something else."""

    __test__ = False  # not for pytest, in spite of its name

    views: Views = "full"
    scale_px: int = SCALE_PX
    """Shorter side before views are cut."""
    size_px: int = VIEW_PX
    """Side of a view: "crop" and "warp" are resized to it, "10" and "96" cut from images scaled for it."""
    scale_full_px: int = 0
    """Shorter side of whole images, at which objects are as large as in training; 0: scale_px."""
    scales: tuple[int, ...] | None = None
    """Shorter sides at which whole images are scored, for the mean; None: one, as above. For a call or a
    measurement: a model file does not keep them."""

    def __post_init__(self) -> None:
        check_views(self.views)
        if self.scales is not None:
            object.__setattr__(self, "scales", tuple(self.scales))
            if self.views != "full" or not self.scales or min(self.scales) < 1:
                raise ConfigError(
                    f"several scales are for whole images, with the views full, and above 0; got "
                    f"{self.scales} with {self.views}"
                )

    @property
    def whole_px(self) -> int:
        """Shorter side of an image that is shown whole."""
        return self.scale_full_px or self.scale_px

    @property
    def shown_px(self) -> int:
        """Shorter side of an image that is shown as these views ask."""
        return self.whole_px if self.views == "full" else self.scale_px

    @property
    def all_scales(self) -> tuple[int, ...]:
        """Shorter sides at which an image is scored."""
        return self.scales or (self.shown_px,)

    def asked(self, **overrides: Any) -> "Testing":
        """With other fields; a scale that is asked for holds for whole images too, and alone."""
        alone = {"scale_full_px": 0, "scales": None} if "scale_px" in overrides else {}
        if overrides.get("views", self.views) != self.views:
            alone["scales"] = None
        return replace(self, **{**alone, **overrides})

    def in_words(self) -> dict[str, Any]:
        """What decides how an image is shown, by name."""
        size = {"size_px": self.size_px} if self.views != "full" else {}
        scale = {"scales": self.scales} if self.scales else {"scale_px": self.shown_px}
        return {"views": self.views, **scale, **size}


@dataclass(frozen=True)
class Classifier:
    """`Classifier.load("model.safetensors")("photo.jpg").label`"""

    network: SPPNet
    classes: tuple[str, ...]
    testing: Testing = field(default_factory=Testing)
    training: dict[str, Any] = field(default_factory=dict)
    """How it was trained, for whoever reads the model file."""

    def __post_init__(self) -> None:
        if len(self.classes) != self.network.num_classes:
            raise ModelError(
                f"a network of {self.network.num_classes} classes needs their names; got {len(self.classes)}"
            )

    @classmethod
    def train(
        cls,
        data: str | Path,
        out: str | Path,
        *,
        resume: bool = False,
        progress: Progress | None = None,
        report: bool = True,
        **options: Any,
    ) -> "Classifier":
        """Train on a folder of class folders; the model lies in `out` then, as best.safetensors.

        resume: go on with the run begun there.
        report: whether report.html is written beside it.
        options: fields of `TrainingConfig`, as weights="imagenet".
        Raises as `train`, which also tells how it does on validation images and which images were left
        out; and ConfigError under torchrun, where one calls that.
        """
        from sppnet import TrainingConfig, train  # by their public names: those files stand on this one

        if Workers().count > 1:
            raise ConfigError("Classifier.train works in one process; under torchrun call sppnet.train")
        config = TrainingConfig(**options)
        result = train(data, out, config, resume=resume, progress=progress, report=report)
        assert result is not None
        return cls.load(result.model, find_device(config.device))

    @classmethod
    @own_defaults()
    def load(cls, path: str | Path, device: str | torch.device = "cpu") -> "Classifier":
        """A classifier from its file; raises ModelError where the file is not one."""
        header, tensors = load_model(path, KIND)
        try:
            network = empty_network(header["network"])
            load_weights(network, tensors)
            network = network.to(device).eval()
            testing, classes = Testing(**header["testing"]), tuple(map(str, header["classes"]))
            check_settings(testing)
            return cls(network, classes, testing, header["training"])
        except (MissingExtraError, MemoryError):
            raise
        except Exception as error:  # a header can say anything, and torch has many words for no
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ModelError(f"{path} does not describe a network that fits its weights: {reason}") from error

    def save(self, path: str | Path) -> None:
        """Write everything into one file, in one step."""
        header = {
            "network": self.network.spec,
            "classes": list(self.classes),
            "testing": {name: value for name, value in vars(self.testing).items() if name != "scales"},
            "normalisation": {"mean": self.network.trunk.mean, "std": self.network.trunk.std},
            "training": self.training,
        }
        save_model(path, KIND, header, self.network.state_dict())

    @own_defaults()
    def scores(self, image: ImageSource, **overrides: Any) -> Tensor:
        """(num_classes,): probabilities, or the margins of SVMs. how: fields of `Testing`, for this image."""
        testing = self.testing.asked(**overrides)
        with torch.inference_mode():
            self.network.eval()
            shown = [read_image(image)]
            scores = score_images(self.network, shown, testing.views, testing.all_scales, testing.size_px)
        return scores[0].cpu()

    def __call__(self, image: ImageSource, top: int = 5, **overrides: Any) -> Prediction:
        """The likeliest classes of an image: a path, a PIL image, an array or a tensor, of any size."""
        best = self.scores(image, **overrides).topk(min(top, len(self.classes)))
        return Prediction(tuple(self.classes[i] for i in best.indices), tuple(best.values.tolist()))

    def predict(self, images: Iterable[ImageSource], **overrides: Any) -> list[Prediction]:
        """One prediction an image."""
        return [self(image, **overrides) for image in images]
