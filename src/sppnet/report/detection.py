"""What a detector's training and its evaluation tell: pages for people."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from sppnet.metrics.coco import CocoResult
from sppnet.metrics.detection import DetectionResult, evaluate_detections
from sppnet.metrics.reliability import reliability
from sppnet.report import page
from sppnet.report.chart import Series, curve_chart, line_chart
from sppnet.report.error_analysis import Outcome, analyse_image, best_images, worst_images
from sppnet.report.page import Figure

Result = DetectionResult | CocoResult

SHOWN = 6
"""Photographs of each kind that are drawn."""
SHOWN_PX = 480
"""Longer side of those, at most."""

METRICS = {
    "voc07": "the mean precision at eleven recalls, at an overlap of 0.5 (VOC 2007)",
    "voc": "the area under the curve, at an overlap of 0.5 (VOC 2010 and later)",
    "coco": "the mean over the overlaps 0.50, 0.55, …, 0.95 (COCO)",
}


def training_page(
    run: str,
    command: str,
    config: Mapping[str, Any],
    objects: Mapping[str, int],
    recall: float,
    images: int,
    tuning: Sequence[Mapping[str, Any]],
    trunk_tuning: Sequence[Mapping[str, Any]],
    mining: Sequence[Mapping[str, Any]],
    seconds: Mapping[str, float],
    skipped: Sequence[str] = (),
    problems: Sequence[str] = (),
    f1: Mapping[str, float] | None = None,
    trials: Sequence[Mapping[str, Any]] = (),
    joint: Mapping[str, Any] | None = None,
    vector_trials: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The page of a training.

    run: its name. objects: of every class. recall: of the proposals, as a share of 1. images: that were
    trained on. tuning, trunk_tuning: rows of `heads.fc_layers.Measured` as JSON, none without fine-tuning.
    mining: rows of `svm.mining.MiningRound`. seconds: of every stage. skipped: why images were left out.
    problems: what was odd in the annotations. f1: of every class at the default threshold, on photographs
    held out; None or empty where none were. trials: `TrunkTrial`s as JSON. joint: what joint training
    recorded; None or without maps where there was none. vector_trials: `VectorTrial`s as JSON.
    """
    most = max(objects.values(), default=0)
    columns = {"round": "round", "positives": "positives", "negatives": "negatives", "joined": "new"}
    if any(one["dropped"] for one in mining):
        columns["dropped"] = "let go"
    return page.page(
        "detection_training.html",
        f"Detector: {run}",
        f"Training of a detector of {', '.join(objects)}",
        figures={
            "images": f"{images:,}",
            "objects": f"{sum(objects.values()):,}",
            "found by proposals": page.share(recall),
            **({"F1, held out": page.share(fmean(f1.values()))} if f1 else {}),
            "time": page.duration(sum(seconds.values())),
        },
        command=command,
        config=config,
        seconds=seconds,
        objects=[[name, f"{count:,}"] for name, count in objects.items()],
        f1=[[name, page.share(value)] for name, value in (f1 or {}).items()],
        f1_shares=list((f1 or {}).values()),
        lengths=[count / most if most else 0 for count in objects.values()],
        trials=[
            [one["trunk"], page.share(one["map"]), one["images"], page.duration(one["seconds"])]
            for one in trials
        ],
        vector_trials=[[one["vectors"], page.share(one["map"]), one["images"]] for one in vector_trials],
        recall=recall,
        tuning=_curves(tuning),
        trunk_tuning=_curves(trunk_tuning),
        mining=[[f"{one[name]:,}" for name in columns] for one in mining],
        mining_columns=list(columns.values()),
        joint=_joint_rows(joint or {}),
        images=images,
        skipped=skipped,
        problems=problems,
    )


def _joint_rows(joint: Mapping[str, Any]) -> list[list[Any]]:
    """Of the frozen solution and of joint training; none where these were not compared."""
    if "joint_map" not in joint:
        return []
    kept = joint["joint_map"] > joint["frozen_map"]
    return [
        ["frozen solution", page.share(joint["frozen_map"]), 0, "" if kept else "kept"],
        ["joint training", page.share(joint["joint_map"]), f"{joint['done']:,}", "kept" if kept else ""],
    ]


def evaluation_page(
    model: str,
    command: str,
    settings: Mapping[str, Any],
    result: Result,
    seconds: Mapping[str, float],
    problems: Sequence[str] = (),
) -> str:
    """The page of an evaluation. settings: what was measured, and how. problems: of the annotations."""
    metric = result.to_json()["metric"]
    shown = {f"mAP ({metric})": page.share(result.map)}
    if isinstance(result, CocoResult):
        shown |= {"mAP at 0.5": page.share(result.map50), "mAP at 0.75": page.share(result.map75)}
    objects = sum(int((~(one.truth.difficult | one.truth.crowd)).sum()) for one in result.photos)
    shown |= {"images": f"{result.images:,}", "objects": f"{objects:,}"}
    outcomes = [analyse_image(photo) for photo in result.photos]
    columns, precisions = ["class", "objects", "found", "wrong", "AP"], [result.per_class]
    if isinstance(result, CocoResult):
        columns.insert(4, "AP at 0.5")
        precisions.insert(0, result.per_class50)
    at_half = _result_at_half(result)
    columns += ["F1", "F1 at 50 %", "best F1", "at"]
    return page.page(
        "detection_evaluation.html",
        f"Evaluation: {model}",
        f"Evaluation of a detector of {', '.join(result.per_class)}",
        figures=shown,
        metric=METRICS[metric],
        command=command,
        settings=settings,
        seconds=seconds,
        columns=columns,
        classes=[
            [
                name,
                *_count(label, outcomes),
                *(page.share(own[name]) for own in precisions),
                *_f1_cells(name, at_half),
            ]
            for label, name in enumerate(result.per_class)
        ],
        precisions=list(result.per_class.values()),
        curves=_small_curves(result, at_half),
        probabilities=_probability_chart(at_half),
        best=[_draw(one) for one in best_images(outcomes, SHOWN)],
        worst=[_draw(one) for one in worst_images(outcomes, SHOWN)],
        images=result.images,
        skipped=result.skipped,
        problems=problems,
    )


# --- parts ---------------------------------------------------------------------------------------


def _curves(tuning: Sequence[Mapping[str, Any]]) -> list[Figure]:
    loss = Series("training", [(row["step"], row["loss"]) for row in tuning if row["loss"] is not None])
    error = Series("held out", [(row["step"], row["error"]) for row in tuning if row["error"] is not None])
    charts = [
        (line_chart("loss", "step", [loss]), "Mean cross-entropy since the point before."),
        (
            line_chart("error", "step", [error], percent=True),
            "Windows of held-out photographs taken for the wrong class, or for none.",
        ),
    ]
    return [(chart, words) for chart, words in charts if chart]


def _count(label: int, outcomes: Sequence[Outcome]) -> tuple[int, int, int]:
    """Objects of a class to find, right detections of it, and wrong ones."""
    objects = right = wrong = 0
    for one in outcomes:
        truth, own = one.photo.truth, one.shown.labels == label
        objects += int(((truth.labels == label) & ~(truth.difficult | truth.crowd)).sum())
        right += int((one.right & own).sum())
        wrong += int((~one.right & ~one.ignored & own).sum())
    return objects, right, wrong


def _f1_cells(name: str, result: DetectionResult | None) -> list[str]:
    """F1 of a class: at the default threshold, from a probability of 0.5, at best, and from which score."""
    if result is None:
        return ["–"] * 4
    score = result.best_scores()[name]
    at = "–" if score is None else f"{score:.2f}"
    return [*(page.share(f1()[name]) for f1 in (result.f1, result.f1_at_half, result.best_f1)), at]


def _small_curves(result: Result, at_half: DetectionResult | None) -> list[Figure]:
    values = result.per_class if isinstance(result, DetectionResult) else result.per_class50
    return [
        (curve_chart(name, curve.recall, curve.precision), f"{name}: AP {page.share(values[name])}")
        for name, curve in (at_half.curves if at_half else {}).items()
        if values[name] is not None
    ]


def _probability_chart(result: DetectionResult | None) -> list[Figure]:
    """The share of right detections over their probability; nothing where none are known."""
    error = None if result is None else result.calibration_error()
    if result is None or error is None:
        return []
    found = reliability(*result.probabilities())
    points = list(zip((100 * found.predicted).tolist(), found.observed.tolist(), strict=True))
    lines = [Series("right", points), Series("as said", [(10.0, 0.1), (100.0, 1.0)])]
    chart = line_chart("right", "probability in %", lines, (0.0, 1.0), percent=True)
    words = (
        f"Of {found.counts.sum():,} detections with 10 % and more; the lines are {page.share(error)} apart."
    )
    return [(chart, words)]


def _result_at_half(result: Result) -> DetectionResult | None:
    """COCO's result has no curves; those at an overlap of 0.5 are made of its detections."""
    if isinstance(result, DetectionResult):
        return result
    if not result.photos:
        return None
    found, truths = zip(*((photo.found, photo.truth) for photo in result.photos), strict=True)
    return evaluate_detections(found, truths, list(result.per_class), "voc")


def _draw(one: Outcome) -> Figure:
    says = f"photograph with boxes: {one.in_words()}"
    return page.photograph(
        one.photo.path, one.in_words(), says, lambda image: one.draw(image, SHOWN_PX), SHOWN_PX
    )
