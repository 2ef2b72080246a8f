"""Joint training as a stage of a run: read if it ended before, gone on with if it was stopped."""

from copy import deepcopy
from dataclasses import replace
from typing import Any

from torch import Tensor

from sppnet.detect.components import DetectorComponents, tensors_of
from sppnet.detect.joint.duration import read_time
from sppnet.detect.joint.plan import Deadline
from sppnet.detect.joint.training import JointStart, JointTraining
from sppnet.detect.probabilities import ScoreProbabilities
from sppnet.detect.run_folder import StageStore
from sppnet.nn.trunks import Trunk
from sppnet.progress import Progress

NAME, SO_FAR = "joint", "joint so far"


def train_jointly(start: JointStart, store: StageStore, progress: Progress) -> DetectorComponents | None:
    """The detector with trunk and heads learned together; None where the frozen solution stays.

    The time that the stages before have taken counts.
    """
    run, limit = store.run, start.parts.config.time
    stage = store.ended(NAME)
    if stage is not None:
        run.drop_stage(SO_FAR)
        return _read(start.parts, stage.tensors) if stage.header.get("kept") else None
    deadline = None if limit is None else Deadline.after(read_time(limit) - sum(store.seconds.values()))
    result = JointTraining(
        start,
        deadline,
        lambda header, tensors: run.save_stage(SO_FAR, header, tensors),
        run.load_stage(SO_FAR),
        progress,
    ).train()
    store.keep(NAME, result.record, {} if result.parts is None else result.parts.tensors())
    run.drop_stage(SO_FAR)
    return result.parts if result.record.get("kept") else None


def _read(parts: DetectorComponents, tensors: dict[str, Tensor]) -> DetectorComponents:
    """The detector of a stage that ended, from the frozen solution."""
    assert isinstance(parts.trunk, Trunk)
    assert parts.windows is not None
    trunk, windows = parts.trunk.with_body(deepcopy(parts.trunk.body)), deepcopy(parts.windows)
    trunk.load_state_dict(tensors_of(tensors, "trunk"))
    windows.load_state_dict(tensors_of(tensors, "windows"))
    linear: dict[str, Any] = {
        name: replace(getattr(parts, name), **tensors_of(tensors, name)) for name in ("svm", "regressor")
    }
    linear["probabilities"] = ScoreProbabilities.read(tensors, len(parts.classes))
    config = replace(parts.config, scales=(parts.config.joint_size,))
    return replace(parts, trunk=trunk.eval(), windows=windows.eval(), config=config, **linear)
