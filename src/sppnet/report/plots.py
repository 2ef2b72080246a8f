"""Charts by matplotlib (the extra "plots") and sheets of images by Pillow."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from sppnet.data.image import read_image
from sppnet.errors import MissingExtraError

TILE, CAPTION, COLUMNS = 200, 30, 4
RIGHT, WRONG, PAPER, INK = "#1a7f4b", "#c0392b", "#ffffff", "#202124"


def draw_accuracy_by_size(rows: Sequence[tuple[str, bool, float]], path: Path) -> Path:
    """A bar for each way of testing (its name, whether trained at that size, accuracy) into a PNG."""
    figure, axes = _canvas(height=0.42 * len(rows) + 1.2)
    names = [name for name, _, _ in rows][::-1]
    values = [100 * value for _, _, value in rows][::-1]
    colours = ["#1f6feb" if trained else "#9ec5fe" for _, trained, _ in rows][::-1]
    bars = axes.barh(names, values, color=colours, height=0.7)
    axes.bar_label(bars, fmt="%.0f %%", padding=4)
    axes.set_xlim(0, 112)
    axes.set_xticks([0, 25, 50, 75, 100])
    axes.set_xlabel("top-1 accuracy, %")
    axes.set_title("One model, tested at many sizes (dark: sizes it was trained on)", loc="left", fontsize=11)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.savefig(path, dpi=150)
    return path


@dataclass(frozen=True)
class Curve:
    """Points of one name, joined in their order."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


def draw_curves(panels: Mapping[str, Sequence[Curve]], path: Path, x: str, ticks: Sequence[float]) -> Path:
    """Curves over a logarithmic axis into a PNG, a panel beside the other.

    panels: by the name of the vertical axis, which ends at 100; the same curves in each. x: the name of the
    horizontal axis. ticks: what is marked on it.
    """
    figure, axes = _canvas(height=4, panels=len(panels))
    for one, (name, curves) in zip(axes, panels.items(), strict=True):
        for curve in curves:
            one.plot(curve.x, curve.y, marker="o", linewidth=2, label=curve.name)
        one.set_xscale("log")
        one.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        one.minorticks_off()
        one.set_ylim(0, 100)
        one.set_xlabel(x)
        one.set_ylabel(name)
        one.grid(axis="y", color="#e8eaed")
        one.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False, loc="lower right")
    figure.savefig(path, dpi=150)
    return path


def _canvas(height: float, panels: int = 1) -> tuple[Any, Any]:
    """A figure and its axes, a list where there are several, without touching matplotlib's global state."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "plots") from error
    figure = Figure(figsize=(8, height), layout="constrained")
    FigureCanvasAgg(figure)
    if panels == 1:
        return figure, figure.add_subplot()
    return figure, [figure.add_subplot(1, panels, 1 + place) for place in range(panels)]


def draw_contact_sheet(images: Sequence[tuple[Path, str, bool]], path: Path) -> Path:
    """Images in their own shapes, each over its caption: green where it is right, red where it is not."""
    lines = (len(images) + COLUMNS - 1) // COLUMNS
    sheet = Image.new("RGB", (COLUMNS * TILE, lines * (TILE + CAPTION)), PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for index, (source, caption, right) in enumerate(images):
        left, top = index % COLUMNS * TILE, index // COLUMNS * (TILE + CAPTION)
        image = Image.fromarray(read_image(source))
        size = image.size
        image.thumbnail((TILE - 16, TILE - 16))
        sheet.paste(image, (left + (TILE - image.width) // 2, top + TILE - 8 - image.height))
        text = f"{caption} · {size[0]} x {size[1]}"
        pen.text((left + TILE // 2, top + TILE + 8), text, RIGHT if right else WRONG, font, anchor="mm")
    sheet.save(path)
    return path
