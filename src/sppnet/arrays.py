"""Types of numpy arrays; shapes stand in docstrings."""

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Reals = npt.NDArray[np.floating]
"""Of any precision."""
Ints = npt.NDArray[np.int64]
Signs = npt.NDArray[np.int8]
"""1, −1, and 0 for neither."""
Flags = npt.NDArray[np.bool_]


def array_of(values: Any) -> Any:
    """What numpy can take: of a tensor its numbers, on any device, of a graph or in bfloat16 too."""
    if not hasattr(values, "detach"):
        return values
    tensor = values.detach().cpu()
    return (tensor.double() if tensor.is_floating_point() else tensor).numpy()
