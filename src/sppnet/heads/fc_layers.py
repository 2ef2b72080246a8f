"""Fine-tuning of fully connected layers on windows' vectors (paper section 4.1).

SGD with softmax cross-entropy over the classes and background. Where the vectors come from is the
caller's business: they may be stored, or pooled just now from a trunk that is to learn as well. The
released code kept the weights that did best on the test set; here nothing but `validate` chooses.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sppnet.errors import ConfigError, DataError, ModelError, SppnetError
from sppnet.nn.network import build_head
from sppnet.progress import NullProgress, Progress
from sppnet.rng import torch_seed

Draw = Callable[[int], tuple[Tensor, Tensor]]
"""Of a step: vectors (m, d), and labels (m,) from 0, where the number of classes stands for background."""


FC8_DEVIATION = 0.01
"""Of the new layer's normal distribution (paper section 4.1)."""

MIN_DEVIATION = 1e-4
"""Below this a dimension is a constant."""

BIAS_RATE = 2.0
"""Biases learn at twice the rate, without weight decay, as in the released prototxt."""

MOMENTUM, WEIGHT_DECAY = 0.9, 5e-4

DROPS = (0.5, 0.75)
"""After each of these shares of the steps the rate is a tenth of what it was."""

EXTRA_RATE = 0.1
"""Of the trunk, as a share of the head's rate: it was trained before."""


@dataclass(frozen=True)
class Measured:
    """How training stood after some steps."""

    step: int
    """Steps done."""
    learning_rate: float
    """Of the last of them."""
    loss: float | None
    """Mean over the steps since the row before; None where there were none."""
    error: float | None
    """What `validate` said; None without it."""


@dataclass(frozen=True, eq=False)
class FinetuneState:
    """Where training stands: rows fit for JSON, and tensors fit for a safetensors file."""

    rows: tuple[Measured, ...]
    tensors: dict[str, Tensor] = field(repr=False)
    """Weights, momentum and the best weights so far, by name: those of the training itself, no copies."""

    @property
    def step(self) -> int:
        """Steps done."""
        return self.rows[-1].step if self.rows else 0

    def to_json(self) -> dict[str, Any]:
        """The rows; the tensors go into a file of their own kind."""
        return {"rows": [asdict(row) for row in self.rows]}

    @classmethod
    def from_json(cls, data: dict[str, Any], tensors: dict[str, Tensor]) -> "FinetuneState":
        return cls(tuple(Measured(**row) for row in data["rows"]), tensors)


def best_row(rows: Iterable[Measured]) -> Measured | None:
    """The one with the lowest error, of equal ones the first; None where nothing was validated."""
    return min((row for row in rows if row.error is not None), key=lambda row: row.error or 0, default=None)


class Standardise(nn.Module):
    """Vectors less their mean, divided by their deviation, both measured once.

    Features of trunks differ by orders of magnitude from channel to channel; the paper's nets, trained
    to the end with the layers that follow, needed no such thing.
    """

    def __init__(self, length: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(length))
        self.register_buffer("std", torch.ones(length))
        self.mean: Tensor
        self.std: Tensor

    @torch.no_grad()
    def measure(self, vectors: Tensor) -> None:
        """Take mean and deviation from a sample (n, length); what never changes is left at its size."""
        self.mean.copy_(vectors.mean(0))
        deviation = vectors.std(0)
        self.std.copy_(torch.where(deviation > MIN_DEVIATION, deviation, torch.ones_like(deviation)))

    def forward(self, vectors: Tensor) -> Tensor:
        """(n, length) → (n, length)."""
        return (vectors - self.mean).div_(self.std)


def detection_head(vector_length: int, hidden: int, num_classes: int, dropout: float = 0.5) -> nn.Sequential:
    """Standardise, fc6, fc7 and a new fc8 with an output for every class and, last, one for background.

    The released code begins fc8's biases at 1, which is the same to a softmax as the 0 here.
    """
    head = nn.Sequential()
    head.add_module("standardise", Standardise(vector_length))
    for name, layer in build_head(vector_length, hidden, num_classes + 1, dropout).named_children():
        head.add_module(name, layer)
    fc8 = head.get_submodule("fc8")
    assert isinstance(fc8, nn.Linear)
    nn.init.normal_(fc8.weight, std=FC8_DEVIATION)
    return head


def finetune(
    head: nn.Module,
    draw: Draw,
    *,
    steps: int,
    learning_rate: float = 1e-3,
    extra_parameters: Iterable[nn.Parameter] = (),
    validate: Callable[[], float] | None = None,
    validate_every: int = 500,
    validate_first: bool = False,
    seed: int = 0,
    start: FinetuneState | None = None,
    save: Callable[[FinetuneState], None] | None = None,
    progress: Progress | None = None,
) -> tuple[Measured, ...]:
    """Train a head in place; in the end it holds the weights of the best validation, or else the last.

    Returns a row for every validation (see `best_row`); the head is left in evaluation mode.

    draw: called with the step, from 0, after torch was seeded for it; the vectors may carry a graph.
    extra_parameters: of the trunk that `draw` pools from, at EXTRA_RATE times the learning rate.
    validate: the share of held-out windows that the head gets wrong, or any error; the lowest is best. It
        is called every `validate_every` steps and after the last, with the head in evaluation mode.
    validate_first: before the first step too, so that what was given stays if nothing is better.
    start: a state that an earlier call gave to `save`; the training then goes on to the same bits.
    save: called with the state after every validation; it must write or copy the tensors at once.
    progress: told of every step, of a stage that the caller began.
    Raises SppnetError where the loss or the error is no number, and ModelError for a state of another head.
    """
    if min(steps, validate_every) < 1:
        raise ConfigError(f"steps and validate_every must be 1 or more; got {steps} and {validate_every}")
    if not 0 < learning_rate < math.inf:
        raise ConfigError(f"needs a learning_rate above 0; got {learning_rate}")
    run = _Run(head, list(extra_parameters), steps, learning_rate, seed)
    if start is not None:
        run.load(start)
    elif validate_first:
        run.measure(-1, 0.0, validate)
    progress, total = progress or NullProgress(), 0.0
    for step in range(run.state.step, steps):
        total += run.learn(step, draw)
        if (step + 1) % validate_every == 0 or step + 1 == steps:
            run.measure(step, total, validate)
            total = 0.0
            if save is not None:
                save(run.state)
        progress.advance()
    run.take_best()
    return run.state.rows


class _Run:
    """One training: parameters by name, their optimizer, and the state."""

    def __init__(
        self, head: nn.Module, extra: list[nn.Parameter], steps: int, learning_rate: float, seed: int
    ) -> None:
        self.head, self.steps, self.learning_rate, self.seed = head, steps, learning_rate, seed
        named = {f"head.{name}": one for name, one in head.named_parameters()}
        named |= {f"extra.{i}": one for i, one in enumerate(extra)}
        self.learned = {name: one for name, one in named.items() if one.requires_grad}
        if not self.learned:
            raise ModelError("nothing to train: no parameter of the head requires a gradient")
        self.weights = {name: one.detach() for name, one in named.items()}
        self.weights |= {f"head.{name}": one for name, one in head.named_buffers()}
        groups = [
            {
                "params": [one],
                "multiple": (EXTRA_RATE if name.startswith("extra.") else 1)
                * (BIAS_RATE if one.ndim < 2 else 1),
                "weight_decay": 0.0 if one.ndim < 2 else WEIGHT_DECAY,
            }
            for name, one in self.learned.items()
        ]
        # Fused, one pass over weights, gradient and momentum: 30 million take 0.06 s, 0.17 by foreach.
        self.optimizer = torch.optim.SGD(groups, learning_rate, MOMENTUM, fused=True)
        self.state = FinetuneState((), {f"weights.{name}": one for name, one in self.weights.items()})

    def rate(self, step: int) -> float:
        return self.learning_rate * 0.1 ** sum(step >= share * self.steps for share in DROPS)

    def learn(self, step: int, draw: Draw) -> float:
        """One update; the loss before it."""
        rate = self.rate(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["multiple"]
        torch.manual_seed(torch_seed(self.seed, step))  # for dropout, and for what draw does
        self.head.train()
        vectors, labels = draw(step)
        if len(vectors) == 0 or len(vectors) != len(labels):
            raise DataError(
                f"step {step} needs as many vectors as labels, and some; got {len(vectors)} and {len(labels)}"
            )
        loss = nn.functional.cross_entropy(self.head(vectors), labels)
        if not torch.isfinite(loss):
            raise SppnetError(
                f"the loss is {loss.item()} at step {step}: it diverged; lower learning_rate (now {rate:g})"
            )
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    @torch.no_grad()
    def measure(self, step: int, total: float, validate: Callable[[], float] | None) -> None:
        """Add a row to the state, and keep the weights if they are the best so far."""
        error = None
        if validate is not None:
            self.head.eval()
            error = float(validate())
            if math.isnan(error):
                raise SppnetError(
                    f"the validation error after {step + 1} steps is no number; check what measures it"
                )
        since = step + 1 - self.state.step
        row = Measured(step + 1, self.rate(max(step, 0)), total / since if since else None, error)
        self.state = FinetuneState((*self.state.rows, row), self.state.tensors)
        if best_row(self.state.rows) is row:
            self._keep_best()
        for name, one in self.learned.items():
            buffer = self.optimizer.state[one].get("momentum_buffer")
            if buffer is not None:  # none before a parameter's first gradient
                self.state.tensors[f"momentum.{name}"] = buffer

    def _keep_best(self) -> None:
        for name, one in self.weights.items():
            if (kept := self.state.tensors.get(f"best.{name}")) is None:
                self.state.tensors[f"best.{name}"] = one.clone()
            else:
                kept.copy_(one)

    @torch.no_grad()
    def take_best(self) -> None:
        """Give the head, and the extra parameters, the best weights."""
        for name, one in self.weights.items():
            if (kept := self.state.tensors.get(f"best.{name}")) is not None:
                one.copy_(kept)
        self.head.eval()

    @torch.no_grad()
    def load(self, start: FinetuneState) -> None:
        """Go on from a state, which is left as it is."""
        if start.step > self.steps:
            raise ConfigError(f"the state has {start.step} steps behind it; ask for more than {self.steps}")
        self._check(start)
        for name, one in start.tensors.items():
            kind, _, rest = name.partition(".")
            if kind == "weights":
                self.weights[rest].copy_(one)
                continue
            self.state.tensors[name] = own = one.to(self.weights[rest].device, copy=True)
            if kind == "momentum":
                self.optimizer.state[self.learned[rest]]["momentum_buffer"] = own
        self.state = FinetuneState(start.rows, self.state.tensors)

    def _check(self, start: FinetuneState) -> None:
        """Raise ModelError unless the names and shapes of a state's tensors are those of this run."""
        shapes = {name: tuple(one.shape) for name, one in self.weights.items()}
        needed = {f"weights.{name}": shape for name, shape in shapes.items()}
        if best_row(start.rows):
            needed |= {f"best.{name}": shape for name, shape in shapes.items()}
        known = needed | {f"momentum.{name}": shapes[name] for name in self.learned}
        got = {name: tuple(one.shape) for name, one in start.tensors.items()}
        for name in sorted(needed.keys() | got.keys()):
            if got.get(name) != known.get(name):
                raise ModelError(
                    f"the state is of another head or other extra parameters: {name} should have shape "
                    f"{known.get(name)}; got {got.get(name)}"
                )
