"""What a linear SVM minimises, how closely, and how far a fit came."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from sppnet.arrays import Array
from sppnet.errors import ConfigError

Loss = Literal["squared_hinge", "hinge"]


@dataclass(frozen=True)
class FitOptions:
    """What `fit_svm` was asked for; its docstring says what each means."""

    C: float
    loss: Loss = "squared_hinge"
    class_weight: float | Sequence[float] = 1.0
    intercept_scaling: float = 1.0
    tolerance: float = 1e-3
    max_iter: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.loss not in get_args(Loss):
            raise ConfigError(f"the loss is {' or '.join(get_args(Loss))}; got {self.loss!r}")
        above_zero = {"C": self.C, "class_weight": self.class_weight, "tolerance": self.tolerance}
        for name, value in above_zero.items():
            numbers = np.asarray(value, dtype=np.float64)
            if not (np.isfinite(numbers).all() and (numbers > 0).all()):
                raise ConfigError(f"{name} must be above 0; got {value!r}")
        if not (np.isfinite(self.intercept_scaling) and self.intercept_scaling >= 0):
            raise ConfigError(
                f"intercept_scaling must be 0 (no bias) or more; got {self.intercept_scaling!r}"
            )
        if self.max_iter < 1:
            raise ConfigError(f"max_iter must be 1 or more; got {self.max_iter}")

    def costs(self, k: int) -> Array:
        """(k, 2): of a negative and of a positive of each class."""
        weights = np.asarray(self.class_weight, dtype=np.float64)
        if weights.shape not in ((), (k,)):
            raise ConfigError(f"class_weight is one number or {k}, one a class; got {weights.shape}")
        return self.C * np.stack([np.ones(k), np.broadcast_to(weights, k)], axis=1)

    def caps_and_ridges(self, k: int) -> tuple[Array, Array]:
        """(k, 2) each: the greatest dual variable, and what the squared hinge adds to the curvature."""
        costs = self.costs(k)
        if self.loss == "squared_hinge":
            return np.full((k, 2), np.inf), 0.5 / costs
        return costs, np.zeros((k, 2))


@dataclass(frozen=True, eq=False, repr=False)
class FitRecord:
    """How a fit went, and where another may begin."""

    dual: Array
    """(n, k) float64 dual variables; 0 where a vector is not used, or beyond the margin."""
    objective: Array
    """(k,) value of each class's objective."""
    gap: Array
    """(k,) by how much each objective may exceed the least possible, as a share of it."""
    sweeps: Array
    """(k,) passes over the vectors."""

    def __repr__(self) -> str:
        return f"FitRecord(at most {self.gap.max():.1e} above the optimum, {self.sweeps.max()} sweeps)"
