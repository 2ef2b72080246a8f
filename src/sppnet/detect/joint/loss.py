"""The joint loss: of the window head as in Fast R-CNN, and of the proposal head as in Faster R-CNN."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

MOVE_WEIGHT = 0.5
"""Of the proposal head's box deltas beside its score, as where it learns alone."""


@dataclass(frozen=True, eq=False)
class JointLoss:
    """Its terms, each a mean that carries gradients."""

    classes: Tensor
    boxes: Tensor
    proposals: Tensor

    @property
    def total(self) -> Tensor:
        return self.classes + self.boxes + self.proposals


def window_loss(logits: Tensor, labels: Tensor, deltas: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax cross-entropy over classes and background, and smooth L1 of the deltas.

    logits: (n, k + 1), background last. labels: (n,), k for background.
    deltas, targets: (p, 4) of the windows of objects. Both are means over all n, as in Fast R-CNN's code.
    """
    boxes = F.smooth_l1_loss(deltas, targets, reduction="sum") / max(1, len(labels))
    return F.cross_entropy(logits, labels), boxes


def proposal_loss(outputs: Tensor, coarse: Tensor, positive: Tensor, deltas: Tensor) -> Tensor:
    """Binary cross-entropy of both scores, and smooth L1 of the deltas of windows of objects.

    outputs: (n, 5) a score and deltas. coarse: (n,). positive: (n,) 0 or 1. deltas: (n, 4).
    """
    score = F.binary_cross_entropy_with_logits(outputs[:, 0], positive)
    first = F.binary_cross_entropy_with_logits(coarse, positive)
    moves = F.smooth_l1_loss(outputs[:, 1:], deltas, reduction="none").sum(1)
    moved: Tensor = (moves * positive).sum() / positive.sum().clamp_min(1)
    return score + first + MOVE_WEIGHT * moved
