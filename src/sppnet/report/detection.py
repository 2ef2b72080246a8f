"""What a detector's training and its evaluation tell: pages for people."""

from collections.abc import Mapping, Sequence
from typing import Any

from sppnet import __version__
from sppnet.data.files import writable_name
from sppnet.data.image import read_image
from sppnet.errors import ImageError
from sppnet.metrics.coco import CocoResult
from sppnet.metrics.detection import Curve, DetectionResult, evaluate_detections
from sppnet.report import page
from sppnet.report.chart import Series, curve_chart, line_chart
from sppnet.report.error_analysis import Outcome, analyse_image, best_images, worst_images
from sppnet.report.page import Html

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

LEGEND = (
    "Green: right. Orange: wrong, or an object found twice. Yellow: an object that was missed. Drawn is what "
    "predict shows, the detections of a score of 0 and above; a right one overlaps its object by half."
)


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
) -> str:
    """The page of a training.

    run: its name. objects: of every class. recall: of the proposals, as a share of 1. images: that were
    trained on. tuning, trunk_tuning: rows of `heads.fc_layers.Measured` as JSON, none without fine-tuning.
    mining: rows of `svm.mining.MiningRound`. seconds: of every stage. skipped: why images were left out.
    problems: what was odd in the annotations.
    """
    lead = f"Training of a detector of {', '.join(objects)}, by sppnet {__version__}."
    shown = {
        "images": f"{images:,}",
        "objects": f"{sum(objects.values()):,}",
        "found by proposals": page.share(recall),
        "time": page.duration(sum(seconds.values())),
    }
    parts = [
        page.figures(shown),
        page.paragraph("How well it finds objects is told by sppnet detect evaluate, in evaluation.html."),
        page.section(
            "How it was made",
            page.command_block(command),
            page.details("All settings", page.settings(config)),
        ),
        page.section("Time", page.times(seconds)),
        page.section("What it learned from", *_learned_from(objects, recall)),
        page.section("Fine-tuning", *_curves(tuning)),
        page.section("Fine-tuning the trunk", *_curves(trunk_tuning)),
        page.section("Hard negatives", *_rounds(mining)),
        _left_out(skipped, images),
        _odd(problems),
    ]
    return page.page(f"Detector: {run}", lead, parts)


def evaluation_page(
    model: str,
    command: str,
    settings: Mapping[str, Any],
    result: Result,
    seconds: Mapping[str, float],
    problems: Sequence[str] = (),
) -> str:
    """The page of an evaluation. how: what was measured, and in which way. problems: of the annotations."""
    metric = result.to_json()["metric"]
    lead = f"Evaluation of a detector of {', '.join(result.per_class)}, by sppnet {__version__}."
    shown = {f"mAP ({metric})": page.share(result.map)}
    if isinstance(result, CocoResult):
        shown |= {"mAP at 0.5": page.share(result.map50), "mAP at 0.75": page.share(result.map75)}
    objects = sum(int((~(one.truth.difficult | one.truth.crowd)).sum()) for one in result.photos)
    shown |= {"images": f"{result.images:,}", "objects": f"{objects:,}"}
    outcomes = [analyse_image(photo) for photo in result.photos]
    parts = [
        page.figures(shown),
        page.paragraph(f"mAP is the mean over the classes of average precision: {METRICS[metric]}."),
        page.section("How it was measured", page.command_block(command), page.settings(settings)),
        page.section("Time", page.times(seconds)),
        page.section("Classes", _class_table(result, outcomes)),
        page.section("Precision over recall", _small_curves(result)),
        page.section("The best photographs", *_drawn(best_images(outcomes, SHOWN))),
        page.section("The worst photographs", *_drawn(worst_images(outcomes, SHOWN))),
        _left_out(result.skipped, result.images),
        _odd(problems),
    ]
    return page.page(f"Evaluation: {model}", lead, parts)


# --- parts ---------------------------------------------------------------------------------------


def _learned_from(objects: Mapping[str, int], recall: float) -> list[Html]:
    most = max(objects.values(), default=0)
    rows = [[name, f"{count:,}"] for name, count in objects.items()]
    found = f"Proposals overlap {page.share(recall)} of them by half or more; others can hardly be found."
    lengths = [count / most if most else 0 for count in objects.values()]
    return [page.table("Objects of every class", ["class", "objects"], rows, lengths), page.paragraph(found)]


def _rounds(mining: Sequence[Mapping[str, Any]]) -> list[Html]:
    if not mining:
        return []
    columns = {"round": "round", "positives": "positives", "negatives": "negatives", "joined": "new"}
    if any(one["dropped"] for one in mining):
        columns["dropped"] = "let go"
    rows = [[f"{one[name]:,}" for name in columns] for one in mining]
    words = (
        "The SVMs of all classes learn from these windows. The first round draws negatives at random; each "
        "later one adds those that the SVMs of the round before took for objects, or nearly. Mining ends "
        "when hardly any are new."
    )
    return [page.paragraph(words), page.table("Windows after every round", list(columns.values()), rows)]


def _curves(tuning: Sequence[Mapping[str, Any]]) -> list[Html]:
    if not tuning:
        return []
    loss = Series("training", [(row["step"], row["loss"]) for row in tuning if row["loss"] is not None])
    error = Series("held out", [(row["step"], row["error"]) for row in tuning if row["error"] is not None])
    charts = (
        (line_chart("loss", "step", [loss]), "Mean cross-entropy since the point before."),
        (
            line_chart("error", "step", [error], percent=True),
            "Windows of held-out photographs taken for the wrong class, or for none.",
        ),
    )
    return [page.grid((page.figure(chart, words) for chart, words in charts if chart), "large")]


def _class_table(result: Result, outcomes: Sequence[Outcome]) -> Html:
    columns, precisions = ["class", "objects", "found", "wrong"], [result.per_class]
    if isinstance(result, CocoResult):
        columns.append("AP at 0.5")
        precisions.insert(0, result.per_class50)
    rows = []
    for label, name in enumerate(result.per_class):
        counted = map(str, _count(label, outcomes))
        rows.append([name, *counted, *(page.share(own[name]) for own in precisions)])
    caption = "Average precision of each class; found and wrong count detections of a score of 0 and above"
    return page.table(caption, [*columns, "AP"], rows, list(result.per_class.values()))


def _count(label: int, outcomes: Sequence[Outcome]) -> tuple[int, int, int]:
    """Objects of a class to find, right detections of it, and wrong ones."""
    objects = right = wrong = 0
    for one in outcomes:
        truth, own = one.photo.truth, one.shown.labels == label
        objects += int(((truth.labels == label) & ~(truth.difficult | truth.crowd)).sum())
        right += int((one.right & own).sum())
        wrong += int((~one.right & ~one.ignored & own).sum())
    return objects, right, wrong


def _small_curves(result: Result) -> Html:
    charts = []
    for name, curve in _curves_of(result).items():
        value = result.per_class[name] if isinstance(result, DetectionResult) else result.per_class50[name]
        if value is not None:
            caption = f"{name}: AP {page.share(value)}"
            charts.append(page.figure(curve_chart(name, curve.recall, curve.precision), caption))
    return page.grid(charts, "small")


def _curves_of(result: Result) -> dict[str, Curve]:
    """COCO's result has none; those at an overlap of 0.5 are made of its detections."""
    if isinstance(result, DetectionResult):
        return result.curves
    if not result.photos:
        return {}
    found, truths = zip(*((photo.found, photo.truth) for photo in result.photos), strict=True)
    return evaluate_detections(found, truths, list(result.per_class), "voc").curves


def _drawn(outcomes: Sequence[Outcome]) -> list[Html]:
    if not outcomes:
        return []
    return [page.paragraph(LEGEND), page.grid((_draw(one) for one in outcomes), "large")]


def _draw(one: Outcome) -> Html:
    caption = f"{one.in_words()} · {writable_name(one.photo.path.name)}"
    try:
        drawn = one.draw(read_image(one.photo.path), SHOWN_PX)
    except ImageError as error:  # it went away since it was judged
        return page.figure(page.paragraph(str(error)), caption)
    says = f"photograph with boxes: {one.in_words()}"
    return page.figure(page.picture(drawn, says, SHOWN_PX), caption)


def _left_out(skipped: Sequence[str], used: int) -> Html:
    if not skipped:
        return Html("")
    told = page.listing(f"{len(skipped)} of {used + len(skipped)} could not be read", skipped)
    return page.section("Images left out", told)


def _odd(problems: Sequence[str]) -> Html:
    """What was put right or left out when the annotations were read."""
    return page.section("Odd annotations", page.listing(f"{len(problems)} sentences", problems))
