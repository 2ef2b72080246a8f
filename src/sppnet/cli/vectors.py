"""Files of vectors: safetensors, or Parquet for tables."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sppnet.classify.features import Vectors

KIND = "vectors"
SUFFIXES = (".safetensors", ".parquet")


def check_suffix(path: Path, folder: bool = False) -> None:
    """Raises ConfigError for a file that cannot be written, MissingExtraError without pyarrow.

    folder: whether it is to be a folder of files, as --engine ray writes them.
    """
    from sppnet.errors import ConfigError

    if folder and path.suffix != ".parquet":
        raise ConfigError(
            f"--engine ray writes a folder of Parquet files, as vectors.parquet; got {path.name!r}"
        )
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"vectors are written to {' or '.join(SUFFIXES)}; got {path.name!r}")
    if path.suffix == ".parquet":
        _import_pyarrow()


def write_vectors(path: Path, names: list[str], vectors: "Vectors", described: dict[str, Any]) -> None:
    """names: of the images; vectors (n, length); described: how they were made. In one step.

    safetensors: the tensor "vectors", and under "sppnet" in its metadata JSON with "names" in their order.
    Parquet: the columns "image" and "vector", and the same JSON without names in the schema's metadata.
    """
    if path.suffix == ".parquet":
        _write_parquet(path, names, vectors, described)
        return
    import torch

    from sppnet.nn.model_file import save_model

    save_model(path, KIND, {**described, "names": names}, {"vectors": torch.from_numpy(vectors)})


def _write_parquet(path: Path, names: list[str], vectors: "Vectors", described: dict[str, Any]) -> None:
    from sppnet.nn.model_file import write_file

    arrow = _import_pyarrow()
    flat = arrow.array(vectors.reshape(-1))
    rows = arrow.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    table = arrow.table({"image": arrow.array(names, arrow.string()), "vector": rows})
    table = table.replace_schema_metadata({"sppnet": json.dumps({"kind": KIND, **described})})
    sink = arrow.BufferOutputStream()
    arrow.parquet.write_table(table, sink)
    write_file(path, sink.getvalue().to_pybytes())


def _import_pyarrow() -> Any:
    from sppnet.errors import MissingExtraError

    try:
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "parquet") from error
    return pyarrow
