"""What sppnet trunk says of a detector's network."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sppnet.nn.detector_trunk import DetectorTrunk
    from sppnet.nn.onnx_trunk import OnnxTrunk

NAMED = 10
"""Classes that are listed."""


def describe_trunk(trunk: "DetectorTrunk") -> dict[str, Any]:
    """Fit for JSON."""
    from sppnet.nn.onnx_trunk import OnnxTrunk

    maps = [{"stride": tap.grid.stride, "channels": tap.channels} for tap in trunk.taps]
    of_kind = _of_onnx(trunk) if isinstance(trunk, OnnxTrunk) else _of_torchvision(trunk)
    return {"name": trunk.name, "maps": maps, **of_kind, "classes": list(trunk.known_classes)}


def _of_onnx(trunk: "OnnxTrunk") -> dict[str, Any]:
    head = _head(trunk) if trunk.has_head else {"refusal": trunk.refusal}
    return {
        **head,
        "family": trunk.graph.family if trunk.has_head else None,
        "proposals": _source(trunk) if trunk.has_head else None,
        "size_px": trunk.size_px,
        "any_size": trunk.graph.dynamic,
        "input": {"name": trunk.convention_name, **asdict(trunk.convention)},
        "licence": trunk.licence,
    }


def _source(trunk: "OnnxTrunk") -> str:
    levels, maps = len(trunk.graph.levels), len(trunk.taps)
    kind = "cells of the head" if levels == maps else f"{levels // maps} anchors a cell"
    return f"{kind}, decoded as {trunk.graph.family}'s"


def _of_torchvision(trunk: Any) -> dict[str, Any]:
    how = trunk.network.transform
    return {
        **_head(trunk),
        "proposals": trunk.proposals_source,
        "size_px": trunk.size_px,
        "any_size": True,
        "input": {
            "name": "torchvision", "bgr": False, "peak": 1.0, "mean": trunk.mean, "std": trunk.std,
            "stretch": how.fixed_size is not None,
        },
        "licence": None,
    }  # fmt: skip


def _head(trunk: "DetectorTrunk") -> dict[str, Any]:
    return {
        "class_features": trunk.layout.class_features,
        "box_features": trunk.layout.box_features,
        "vector_length": trunk.layout.length,
    }


def facts_in_words(facts: dict[str, Any]) -> Iterator[str]:
    """A line each."""
    how, classes = facts["input"], facts["classes"]
    maps = (f"{one['channels']} at stride {one['stride']}" for one in facts["maps"])
    yield f"file      {facts['file']}"
    yield f"SHA-256   {facts['sha256']}"
    yield f"licence   {_licence_in_words(facts['licence'])}"
    yield f"maps      {', '.join(maps)}"
    if "refusal" in facts:
        yield f"head      none: {facts['refusal']}"
    else:
        yield f"proposals {facts['proposals']}"
        yield (
            f"head      {facts['class_features']} class features, {facts['box_features']} box features a "
            f"box; vectors of {facts['vector_length']} numbers"
        )
        yield f"classes   {', '.join(classes[:NAMED])}{', …' * (len(classes) > NAMED)} ({len(classes)})"
    yield (
        f"input     {_size_in_words(facts)}; {'BGR' if how['bgr'] else 'RGB'}, white is {how['peak']:g}"
        f"{', stretched' * how['stretch']} ({how['name']})"
    )
    if "difference" in facts:
        yield f"compared  {_comparison_in_words(facts)}"
    if "drawn" in facts:
        yield facts["drawn"]


def _size_in_words(facts: dict[str, Any]) -> str:
    size = facts["size_px"]
    if facts["input"]["name"] == "torchvision" and not facts["input"]["stretch"]:
        return f"shorter side {size}, other sizes too"
    return f"{size}×{size}, {'other sizes too' if facts['any_size'] else 'no other size'}"


def _comparison_in_words(facts: dict[str, Any]) -> str:
    difference, compared = facts["difference"], facts.get("compared")
    if compared is not None:
        others = "" if compared["same"] == compared["boxes"] else ", others are moved for less likely classes"
        return (
            f"{compared['same']} of torchvision's own {compared['boxes']} boxes, to {difference:.1g} pixels "
            f"and {compared['probability']:.1g} of probability{others}"
        )
    if difference is None:
        return "not possible: the file's own output is not that of its kind of head"
    return f"differs from the file's own output by {difference:.1g} at most"


def _licence_in_words(licence: dict[str, str] | None) -> str:
    from sppnet.nn.licence_text import licence_title

    if licence is None:
        return "none beside the file"
    return f"{licence_title(licence['text'])} ({licence['file']})"
