"""What was found in images as Arrow tables, which are written as Parquet: a row an image, damaged ones too.

The columns: "number" of the image in the list that was given, "image" its name, "reason" why it could
not be read (null for all that could be), and what was found, null for an image that could not be read:
"labels", "scores" and "boxes" of its objects, the surest first, or its "vector".
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from sppnet.arrays import Floats
from sppnet.errors import MissingExtraError
from sppnet.structures import Detections


def import_pyarrow() -> Any:
    """Raises MissingExtraError."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "parquet") from error
    return pyarrow


def listing(names: Sequence[str], reasons: Sequence[str | None], first: int = 0) -> dict[str, Any]:
    """The columns that say which images these are, `first` and on in the list."""
    arrow = import_pyarrow()
    return {
        "number": arrow.array(range(first, first + len(names)), arrow.int64()),
        "image": arrow.array(names, arrow.string()),
        "reason": arrow.array(reasons, arrow.string()),
    }


def detections_table(
    names: Sequence[str], found: Sequence[Detections | None], reasons: Sequence[str | None], first: int = 0
) -> Any:
    """names, found, reasons: a row an image; found is None where a reason is given."""
    arrow = import_pyarrow()
    kinds = {
        "labels": arrow.list_(arrow.string()),
        "scores": arrow.list_(arrow.float32()),
        "probabilities": arrow.list_(arrow.float32()),
        "boxes": arrow.list_(arrow.list_(arrow.float32(), 4)),
    }
    rows: dict[str, list[Any]] = {
        "labels": [each and each.names for each in found],
        "scores": [each and each.scores.tolist() for each in found],
        "probabilities": [each and each.probabilities.tolist() for each in found],
        "boxes": [each and each.boxes.tolist() for each in found],
    }
    written = {name: arrow.array(rows[name], kind) for name, kind in kinds.items()}
    return arrow.table({**listing(names, reasons, first), **written})


def vectors_table(
    names: Sequence[str],
    vectors: Sequence[Floats | None],
    reasons: Sequence[str | None],
    length: int,
    first: int = 0,
    described: str = "{}",
) -> Any:
    """names, vectors (length,), reasons: a row an image; a vector is None where a reason is given.

    described: JSON that says how the vectors were made, for the schema's metadata.
    """
    arrow = import_pyarrow()
    missing = np.array([vector is None for vector in vectors], np.bool_)
    flat = [np.zeros(length, np.float32) if vector is None else vector for vector in vectors]
    values = arrow.array(np.concatenate(flat) if flat else np.empty(0, np.float32))
    rows = arrow.FixedSizeListArray.from_arrays(values, length, mask=arrow.array(missing))
    table = arrow.table({**listing(names, reasons, first), "vector": rows})
    return table.replace_schema_metadata({"sppnet": described})


def read_detections(table: Any, classes: tuple[str, ...]) -> dict[str, Detections]:
    """What `detections_table` wrote, by image; those that could not be read are not among them."""
    found = {}
    for row in table.to_pylist():
        if row["reason"] is None:
            labels = [classes.index(name) for name in row["labels"]]
            boxes = np.array(row["boxes"], np.float32).reshape(-1, 4)
            scores, odds = (np.array(row[name], np.float32) for name in ("scores", "probabilities"))
            found[row["image"]] = Detections(boxes, scores, np.array(labels, np.int64), classes, odds)
    return found
