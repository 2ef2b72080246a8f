"""Charts by matplotlib (the extra "plots") and sheets of images by Pillow."""

from collections.abc import Sequence
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


def draw_curves(curves: Sequence[Curve], path: Path, x: str, y: str) -> Path:
    """Curves over a logarithmic axis into a PNG, each named at its last point; x, y: names of the axes."""
    figure, axes = _canvas(height=4.5)
    for curve in curves:
        (line,) = axes.plot(curve.x, curve.y, marker="o", linewidth=2)
        axes.annotate(
            curve.name, (curve.x[-1], curve.y[-1]), xytext=(8, 0), textcoords="offset points", va="center",
            color=line.get_color(),
        )  # fmt: skip
    ticks = sorted({round(value) for curve in curves for value in curve.x})
    axes.set_xscale("log")
    axes.set_xticks(ticks, list(map(str, ticks)))
    axes.minorticks_off()
    axes.margins(x=0.2)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(axis="y", color="#e8eaed")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    return path


def _canvas(height: float) -> tuple[Any, Any]:
    """A figure and its axes, without touching matplotlib's global state."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "plots") from error
    figure = Figure(figsize=(8, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


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
