"""Pictures in rows, each over its caption, on one sheet for a document."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

PAPER, INK, FAINT = (255, 255, 255), (32, 33, 36), (95, 99, 104)
GAP, TITLE_PX, CAPTION_PX = 16, 22, 15

Panel = tuple[Image.Image, str]
"""A picture and what stands below it."""


def arrange(title: str, panels: Sequence[Panel], columns: int) -> Image.Image:
    """All panels under a title, `columns` in a row; rows and columns are as large as their largest."""
    rows = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    widths = [max(row[i][0].width for row in rows if i < len(row)) for i in range(len(rows[0]))]
    heights = [max(image.height for image, _ in row) + CAPTION_PX + GAP for row in rows]
    top = TITLE_PX + 2 * GAP
    size = (sum(widths) + GAP * (len(widths) + 1), top + sum(heights) + GAP * len(heights))
    sheet = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(sheet)
    write(pen, (GAP, GAP), title, TITLE_PX, size[0] - 2 * GAP)
    for row, height in zip(rows, heights, strict=True):
        left = GAP
        for (image, caption), width in zip(row, widths, strict=False):
            sheet.paste(image, (left, top))
            write(pen, (left, top + image.height + 6), caption, CAPTION_PX, width, FAINT)
            left += width + GAP
        top += height + GAP
    return sheet


def write(
    pen: ImageDraw.ImageDraw,
    place: tuple[int, int],
    text: str,
    size_px: int,
    room_px: int,
    ink: tuple[int, int, int] = INK,
) -> None:
    """One line from its upper left corner, shortened to its room."""
    font = ImageFont.load_default(size_px)
    words = " ".join(text.split())
    if font.getlength(words) > room_px:
        while words and font.getlength(words + "…") > room_px:
            words = words[:-1]
        words += "…"
    pen.text(place, words, ink, font)


def fit(image: Image.Image, width: int, height: int) -> Image.Image:
    """The image as large as it can be within so many pixels, in its own shape."""
    ratio = min(width / image.width, height / image.height)
    return image.resize((max(1, round(image.width * ratio)), max(1, round(image.height * ratio))))
