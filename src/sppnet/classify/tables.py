"""What scikit-learn's users pass for images, and the tables that they ask for in return."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from sppnet.arrays import Array, Floats
from sppnet.errors import ConfigError, MissingExtraError

OUTPUTS = ("default", "pandas", "polars")
"""Kinds of table that `set_output` takes: an array, or a data frame."""


def list_images(images: Any) -> list[Any]:
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
    return [_only(image) for image in images]


def _is_one_array(images: Any) -> bool:
    if isinstance(images, torch.Tensor):
        return images.ndim == 3
    if not isinstance(images, np.ndarray) or images.dtype.kind not in "uif":
        return False
    return images.ndim == 2 or (images.ndim == 3 and images.shape[2] in (1, 3, 4))


def _only(image: Any) -> Any:
    """The one cell of a row of a table; anything else as it is."""
    strings = isinstance(image, np.ndarray) and image.dtype.kind in "OUST"
    if not strings and not isinstance(image, (list, tuple)):
        return image
    if len(image) != 1:
        raise ConfigError(
            f"a column of images was expected; got a row of {len(image)} cells: {list(image)!r}"
        )
    return image[0]


def wanted_output(config: dict[str, str]) -> str:
    """What `set_output` chose, or scikit-learn's own setting where it is in use."""
    if "transform" in config:
        return config["transform"]
    sklearn: Any = sys.modules.get("sklearn")
    return "default" if sklearn is None else str(sklearn.get_config()["transform_output"])


def as_output(rows: Floats, kind: str, names: Sequence[str] | Array, images: Any) -> Any:
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
