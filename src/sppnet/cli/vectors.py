"""Files of vectors: safetensors, or Parquet for tables."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sppnet.errors import ConfigError

if TYPE_CHECKING:
    from sppnet.image_vectors import Vectors

KIND = "vectors"
SUFFIXES = (".safetensors", ".parquet")


def check_suffix(path: Path, folder: bool = False) -> None:
    """Raises ConfigError for a file that cannot be written, MissingExtraError without pyarrow.

    folder: whether it is to be a folder of files, as --executor ray writes them.
    """
    if folder and path.suffix != ".parquet":
        raise ConfigError(
            f"--executor ray writes a folder of Parquet files, as vectors.parquet; got {path.name!r}"
        )
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"vectors are written to {' or '.join(SUFFIXES)}; got {path.name!r}")
    if path.suffix == ".parquet":
        from sppnet.engine.tables import import_pyarrow

        import_pyarrow()


def write_vectors(
    path: Path,
    images: Sequence[Path],
    vectors: "Mapping[Path, Vectors]",
    reasons: Mapping[Path, str],
    length: int,
    described: dict[str, Any],
) -> None:
    """Write the vector (length,) of each image, or the reason why there is none, in one step.

    described: how the vectors were made.
    safetensors: the tensor "vectors" of the images that could be read, and under "sppnet" in its metadata
    JSON with their "names" in their order.
    Parquet: a row for every image, as `engine.tables` has them, and the same JSON without names in the
    schema's metadata.
    """
    from sppnet.data.files import writable_name

    names = [writable_name(image) for image in images]
    if path.suffix == ".parquet":
        from sppnet.engine.shards import write_table
        from sppnet.engine.tables import vectors_table

        rows, why = [vectors.get(image) for image in images], [reasons.get(image) for image in images]
        header = json.dumps({"kind": KIND, **described})
        write_table(path, vectors_table(names, rows, why, length, described=header))
        return
    import numpy as np
    import torch

    from sppnet.nn.model_file import save_model

    stacked = np.stack(list(vectors.values())) if vectors else np.empty((0, length), np.float32)
    read = [writable_name(image) for image in vectors]
    save_model(path, KIND, {**described, "names": read}, {"vectors": torch.from_numpy(stacked)})
