"""What a detector's training says on the terminal when it has ended."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sppnet.detect.train import DetectorTraining


def tell_trials(result: "DetectorTraining") -> None:
    """A line a trunk that was tried, the one that was taken marked."""
    from sppnet.cli.output import notes

    for trial in result.trials:
        taken = " (taken)" if trial.trunk == result.detector.config.trunk else ""
        reached = f"mAP {trial.map:.1%} on {trial.images} photographs held out"
        notes.print(f"{trial.trunk}: {reached}, {trial.seconds} s{taken}", markup=False, soft_wrap=True)


def tell_vectors(result: "DetectorTraining") -> None:
    """A line of the vectors that were tried."""
    from sppnet.cli.output import notes

    if result.vector_trials:
        each = ", ".join(f"{one['vectors']} {one['map']:.1%}" for one in result.vector_trials)
        taken, images = result.detector.config.vectors, result.vector_trials[0]["images"]
        where = f"mAP on {images} photographs held out"
        notes.print(f"vectors: {taken}; {where}: {each}", markup=False, soft_wrap=True)


def tell_joint(result: "DetectorTraining") -> None:
    """What joint training gained on photographs that were held out."""
    from sppnet.cli.output import notes

    if "joint_map" in (joint := result.joint):
        reached = f"mAP {joint['joint_map']:.1%}, frozen {joint['frozen_map']:.1%}"
        where = f"on {joint['held_out']} photographs held out, IoUs of 0.5 to 0.8"
        notes.print(f"joint training: {reached} {where}", markup=False, soft_wrap=True)


def tell_times(seconds: dict[str, float], images: int) -> None:
    """A line a stage; stages that an earlier run ended are not among them."""
    from sppnet.cli.output import notes

    notes.print(f"trained on {images} images", markup=False)
    for stage, spent in {**seconds, "in all": sum(seconds.values())}.items():
        notes.print(f"{stage:<12}{spent:>8.1f} s", markup=False)
