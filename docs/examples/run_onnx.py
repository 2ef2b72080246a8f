"""Classify or detect with a file made by `sppnet export onnx`: numpy, Pillow and onnxruntime, no torch.

    python run_onnx.py model.onnx photo.jpg

The file says in its metadata what it is and how images are to be resized.
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def read(path):
    """Upright RGB, whatever the file holds."""
    return ImageOps.exif_transpose(Image.open(path)).convert("RGB")


def resize_shorter(image, scale_px, max_aspect):
    """The shorter side at scale_px, halves rounded up; very long images are squeezed."""
    short = min(image.size)
    sides = ((2 * side * scale_px + short) // (2 * short) for side in image.size)
    return image.resize([min(side, max_aspect * scale_px) for side in sides], Image.Resampling.BILINEAR)


# --- classifiers ---------------------------------------------------------------------------------


def classify(session, meta, image, top=5):
    """The likeliest classes and their scores, best first."""
    size, scale = int(meta["size_px"]), int(meta["scale_px"])
    if meta["views"] == "warp":
        shown = image.resize((size, size), Image.Resampling.BILINEAR)
    else:  # the whole image in its own shape
        shown = resize_shorter(image, scale, int(meta["max_aspect"]))
    (scores,) = session.run(None, {"pixels": np.asarray(shown)[None]})
    classes = json.loads(meta["classes"])
    return [(classes[i], float(scores[0, i])) for i in np.argsort(-scores[0])[:top]]


# --- detectors -----------------------------------------------------------------------------------


def dense_boxes(width, height):
    """Boxes of many sizes and shapes, everywhere; any proposals do, those of `sppnet proposals` do better."""
    found = [(0, 0, width, height)]
    for share in (0.2, 0.3, 0.45, 0.65, 0.9):
        for shape in (0.5, 0.75, 1, 1.5, 2):
            side = share * (width * height) ** 0.5
            w, h = side * shape**0.5, side / shape**0.5
            if w > width or h > height:
                continue
            steps_x, steps_y = (int((room - s) / (s / 4)) + 2 for room, s in ((width, w), (height, h)))
            lefts, tops = np.linspace(0, width - w, steps_x), np.linspace(0, height - h, steps_y)
            found += [(x, y, x + w, y + h) for y in tops for x in lefts]
    return np.array(found, np.float32)


def suppress(boxes, scores, overlap):
    """Indices of boxes that no surer one overlaps more."""
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    order, kept = np.argsort(-scores, kind="stable"), []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(best)
        low = np.maximum(boxes[best, :2], boxes[order, :2])
        high = np.minimum(boxes[best, 2:], boxes[order, 2:])
        shared = np.maximum(high - low, 0).prod(1)
        order = order[shared <= overlap * (areas[best] + areas[order] - shared)]
    return kept


def detect(session, meta, image, min_score=0.0):
    """Class, score and box in pixels of the image, the surest first."""
    scale = json.loads(meta["scales_px"])[0]
    shown = resize_shorter(image, scale, int(meta["max_aspect"]))
    boxes = dense_boxes(*shown.size)
    scores, corrected = session.run(None, {"pixels": np.asarray(shown), "boxes": boxes})
    back = np.array([image.width / shown.width, image.height / shown.height] * 2, np.float32)
    found = []
    for label, name in enumerate(json.loads(meta["classes"])):
        sure = np.flatnonzero(scores[:, label] >= min_score)
        own, own_scores = corrected[sure, label], scores[sure, label]
        for i in suppress(own, own_scores, float(meta["nms"])):
            found.append((name, float(own_scores[i]), (own[i] * back).round(1).tolist()))
    return sorted(found, key=lambda one: -one[1])


def resize_longer(image, scale_px):
    """The longer side at scale_px."""
    return image.resize(
        [max(1, side * scale_px // max(image.size)) for side in image.size], Image.Resampling.BILINEAR
    )


def detect_whole(session, meta, image, min_score=0.0):
    """The same of a detector that proposes its boxes itself, and suppresses neighbours."""
    scale = json.loads(meta["scales_px"])[0]
    if meta["resized_side"] == "longer":
        shown = resize_longer(image, scale)
    else:
        shown = image.resize((scale, scale), Image.Resampling.BILINEAR)
    given = {"pixels": np.asarray(shown)}
    if "windows" in meta:  # more proposals, for what the network does not see by itself
        given["windows"] = dense_boxes(*shown.size)
    boxes, scores, labels, _ = session.run(None, given)
    back = np.array([image.width / shown.width, image.height / shown.height] * 2, np.float32)
    names, rows = json.loads(meta["classes"]), zip(labels, scores, (boxes * back).round(1), strict=True)
    return [(names[label], float(score), box.tolist()) for label, score, box in rows if score >= min_score]


KINDS = {"classifier": classify, "detector": detect, "whole detector": detect_whole}


def main(model, path):
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    meta = session.get_modelmeta().custom_metadata_map
    results = KINDS[meta["kind"]](session, meta, read(path))
    for name, score, *box in results:
        print(f"{score:7.3f}  {name}", *box)


if __name__ == "__main__":
    main(*sys.argv[1:])
