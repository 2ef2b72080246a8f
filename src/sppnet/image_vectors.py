"""Images → vectors, for whatever learns on vectors: a transformer as scikit-learn knows them.

It follows scikit-learn's conventions without its base classes, so that the package does not depend on it.
"""

import contextlib
import hashlib
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from sppnet.arrays import Array, Floats
from sppnet.classify.classifier import KIND as CLASSIFIER
from sppnet.classify.classifier import Classifier
from sppnet.data.image import ImageSource, read_image
from sppnet.data.transforms import resize_shorter, to_tensor
from sppnet.detect.detector import Detector
from sppnet.errors import ConfigError, MissingExtraError, ModelError, SppnetError, did_you_mean
from sppnet.geometry.grid import VIEW_PX
from sppnet.nn.device import find_device
from sppnet.nn.engines import make_engine
from sppnet.nn.fusion import fuse_conv_bn
from sppnet.nn.model_file import read_header
from sppnet.nn.pyramid import SpatialPyramidPooling
from sppnet.nn.trunks import Trunk, load_trunk
from sppnet.torch_defaults import own_defaults

TRUNK = "mobilenet_v2:18"
LEVELS = (1, 2, 3, 6)
OUTPUTS = ("default", "pandas", "polars")
"""Kinds of table that `set_output` takes: an array, or a data frame."""
PARAMETERS = ("trunk", "weights", "levels", "scale_px", "model", "device")

Vectors: TypeAlias = Floats
Images: TypeAlias = ImageSource | Iterable[ImageSource] | Any
"""A list of images, a column or a table of one column, or one image."""
TrunkSource: TypeAlias = tuple[Trunk, tuple[int, ...] | None, int]
"""A trunk, and the levels and the scale it was used with."""


class SPPFeatures:
    """`SPPFeatures(weights="imagenet").fit_transform(paths)` → (n, channels × bins), a row an image.

    Each image is shown whole and in its own shape (paper section 3.1.4), and its vector does not depend on
    its neighbours. Nothing is learnt from the images: `fit` reads the network.

    trunk, weights: as for `load_trunk`; by default mobilenet_v2:18, whose weights must be named.
    model: a classifier or detector file whose trunk, levels and scale are taken instead.
    levels: of the pyramid; by default the model's, or (1, 2, 3, 6).
    scale_px: shorter side of images; by default the model's, or 224.
    """

    def __init__(
        self,
        trunk: str | None = None,
        weights: str | None = None,
        levels: tuple[int, ...] | None = None,
        scale_px: int | None = None,
        model: str | Path | None = None,
        device: str = "auto",
    ) -> None:
        # As they come, unchecked: scikit-learn's clone() compares what it gave with what is here.
        self.trunk, self.weights, self.levels = trunk, weights, levels
        self.scale_px, self.model, self.device = scale_px, model, device
        self._sklearn_output_config: dict[str, str] = {}  # by this name clone() copies it
        self._saved: str | None = None

    @own_defaults()
    def fit(self, images: Any = None, y: Any = None) -> "SPPFeatures":
        """Read the network; the images are not looked at. Raises ConfigError or ModelError."""
        trunk, levels, scale_px = self._from_trunk() if self.model is None else self._from_model(self.model)
        if self.levels is None and levels is None:
            raise ModelError(f"{self.model} has no pyramid; give levels, as levels=(1, 2, 3, 6)")
        self.scale_px_ = self.scale_px if self.scale_px is not None else scale_px
        if self.scale_px_ < 1:
            raise ConfigError(f"scale_px must be 1 pixel or more; got {self.scale_px_}")
        pyramid = SpatialPyramidPooling(self.levels if self.levels is not None else levels or LEVELS)
        self.levels_ = pyramid.levels
        self.n_features_out_ = trunk.channels * pyramid.bins
        device = find_device(self.device)
        self.trunk_ = trunk.to(device).eval()
        self._engine = make_engine(fuse_conv_bn(trunk.body), device)
        self._pyramid = pyramid
        self._saved = None
        return self

    def transform(self, images: Images) -> Any:
        """Images as `read_image` takes them → (n, channels × bins) float32; raises ImageError naming one.

        images: a list, a column or a table of one column; or one image, which gives one row.
        What is returned is an array, or the table that `set_output` asked for.
        """
        rows = [self.vector(image) for image in _list_images(images)]
        stacked = np.stack(rows) if rows else np.empty((0, self._fitted().n_features_out_), np.float32)
        return _as_output(
            stacked, _wanted_output(self._sklearn_output_config), self.get_feature_names_out(), images
        )

    def fit_transform(self, images: Images, y: Any = None) -> Any:
        return self.fit(images, y).transform(images)

    def set_output(self, *, transform: str | None = None) -> "SPPFeatures":
        """What `transform` returns: "default" is an array, "pandas" or "polars" a table; None keeps it."""
        if transform is None:
            return self
        if transform not in OUTPUTS:
            raise ConfigError(f"transform must be one of {', '.join(OUTPUTS)}; got {transform!r}")
        self._sklearn_output_config = {"transform": transform}
        return self

    @own_defaults()
    def vector(self, image: ImageSource) -> Vectors:
        """(channels × bins,) of one image; raises ImageError if it cannot be read."""
        trunk = self._fitted().trunk_
        shown = resize_shorter(read_image(image), self.scale_px_)
        pixels = to_tensor(shown, trunk.mean, trunk.std)[None]
        with torch.inference_mode():
            pooled = [self._pyramid(features)[0] for features in self._engine(pixels)]
            vector: Vectors = torch.cat(pooled).float().numpy()
        return vector

    # --- what scikit-learn asks ------------------------------------------------------------------

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        return {name: getattr(self, name) for name in PARAMETERS}

    def set_params(self, **params: Any) -> "SPPFeatures":
        """Raises ConfigError for a name there is not."""
        for name, value in params.items():
            if name not in PARAMETERS:
                raise ConfigError(f"SPPFeatures has no {name!r}; {did_you_mean(name, PARAMETERS)}")
            setattr(self, name, value)
        return self

    def get_feature_names_out(self, input_features: Any = None) -> npt.NDArray[np.object_]:
        """(channels × bins,) "spp0", "spp1", …"""
        return np.array([f"spp{index}" for index in range(self._fitted().n_features_out_)], dtype=object)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_pyramid") or self._saved is not None

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import InputTags, Tags, TargetTags, TransformerTags  # only it calls this

        shown = InputTags(two_d_array=False, string=True)
        return Tags(None, TargetTags(required=False), TransformerTags(), input_tags=shown, requires_fit=True)

    def __getstate__(self) -> dict[str, Any]:
        """Parameters alone: a process of joblib's reads the network from its file."""
        return {
            **self.get_params(),
            "saved": self._signature() if hasattr(self, "_pyramid") else self._saved,
            "output": self._sklearn_output_config,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._saved, self._sklearn_output_config = state.pop("saved"), state.pop("output")
        self.set_params(**state)
        if self._saved is not None:
            with contextlib.suppress(SppnetError):  # told when it is used: till then set_params can mend it
                self._fitted()

    def __repr__(self) -> str:
        given = [f"{name}={value!r}" for name, value in self.get_params().items() if value is not None]
        return f"SPPFeatures({', '.join(given)})"

    # --- pieces ----------------------------------------------------------------------------------

    def _fitted(self) -> "SPPFeatures":
        saved = self._saved
        if hasattr(self, "_pyramid"):
            return self
        if saved is None:
            return self.fit()
        place = self.model or self.weights
        try:
            self.fit()
        except SppnetError as error:
            raise ModelError(
                f"{error}. These features were saved fitted, with {place} for their network; "
                "set_params(model=…) or set_params(weights=…) names another place"
            ) from error
        if self._signature() != saved:
            del self._pyramid
            self._saved = saved
            raise ModelError(
                f"{place} has another network than when these features were saved, and what was learnt on "
                "their vectors does not fit it. Name the former by set_params, or fit all of it again"
            )
        return self

    def _signature(self) -> str:
        """Of everything that vectors depend on."""
        digest = hashlib.sha256(repr((self.levels_, self.scale_px_)).encode())
        for tensor in self.trunk_.state_dict().values():
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def _from_trunk(self) -> TrunkSource:
        if self.weights is None:
            raise ConfigError(
                "features need trained weights: weights='imagenet' (downloaded once) or a file; or model="
            )
        return load_trunk(self.trunk or TRUNK, weights=self.weights), LEVELS, VIEW_PX

    def _from_model(self, path: str | Path) -> TrunkSource:
        if self.trunk is not None or self.weights is not None:
            raise ConfigError("a model has a trunk and weights of its own; give model, or trunk and weights")
        if read_header(path).get("kind") == CLASSIFIER:
            classifier = Classifier.load(path)
            network = classifier.network
            levels = None if network.fixed else network.pyramid.levels
            return network.trunk, levels, classifier.testing.whole_px
        detector = Detector.load(path)
        if not isinstance(detector.parts.trunk, Trunk):
            raise ConfigError(
                f"{path} stands on {detector.parts.trunk.name}, an ONNX network, which gives no vectors of "
                "whole images; give a classifier, or a detector with another trunk"
            )
        return detector.parts.trunk, detector.config.levels, detector.config.scales[0]


# --- what scikit-learn's users pass for images, and the tables that they ask for in return ----------


def _list_images(images: Any) -> list[Any]:
    """Images one by one: of a list or column of them, of a table of one column, or of one image alone.

    Raises ConfigError for a table of several columns.
    """
    if isinstance(images, (str, Path, bytes, Image.Image)) or _is_one_array(images):
        return [images]
    columns = getattr(images, "columns", None)
    if columns is not None and hasattr(images, "to_numpy"):
        if len(columns) != 1:
            raise ConfigError(
                f"a column of images was expected; got a table of {len(columns)} columns "
                f"({', '.join(map(str, columns))}). Choose the one with the paths, as table['path']"
            )
        images = images.to_numpy().ravel()
    if not isinstance(images, Iterable):
        raise ConfigError(
            "images must be a list or a column of paths or images, or one of them; "
            f"got {type(images).__name__}"
        )
    return [_only(image) for image in images]


def _is_one_array(images: Any) -> bool:
    if isinstance(images, torch.Tensor):
        return images.ndim == 3
    if not isinstance(images, np.ndarray) or images.dtype.kind not in "uif":
        return False
    return images.ndim == 2 or (images.ndim == 3 and images.shape[2] in (1, 3, 4))


def _only(image: Any) -> Any:
    """The one cell of a row of a table; anything else as it is. Raises ConfigError for an empty cell."""
    row = isinstance(image, np.ndarray) and image.dtype.kind in "OUST"
    cells = image if row or isinstance(image, (list, tuple)) else [image]
    if len(cells) != 1:
        raise ConfigError(
            f"a column of images was expected; got a row of {len(cells)} cells: {list(cells)!r}"
        )
    if cells[0] is None or isinstance(cells[0], float) or type(cells[0]).__name__ == "NAType":
        raise ConfigError(
            f"an image was expected in every row; got one with {cells[0]}. Drop it before, as table.dropna()"
        )
    return cells[0]


def _wanted_output(config: dict[str, str]) -> str:
    """What `set_output` chose, or scikit-learn's own setting where it is in use."""
    if "transform" in config:
        return config["transform"]
    sklearn: Any = sys.modules.get("sklearn")
    return "default" if sklearn is None else str(sklearn.get_config()["transform_output"])


def _as_output(rows: Floats, kind: str, names: Sequence[str] | Array, images: Any) -> Any:
    """Rows as an array or a table, which has the index of the images' own table if they had one."""
    if kind == "default":
        return rows
    try:
        if kind == "pandas":
            import pandas

            index = images.index if hasattr(images, "iloc") else None
            return pandas.DataFrame(rows, index=index, columns=list(names))
        import polars

        return polars.DataFrame(rows, schema=list(names), orient="row")
    except ImportError as error:
        raise MissingExtraError(kind, kind) from error
