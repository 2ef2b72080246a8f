"""Self-contained web pages out of headings, tables and figures: no script, no network, one file.

Every text goes through `escape`, here and nowhere else; what is `Html` has been through it.
"""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NewType

import numpy as np
from PIL import Image

from sppnet.data.image import ImageArray

Html = NewType("Html", str)
"""Marked up and safe: texts in it are escaped."""

JPEG_QUALITY = 80

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1d2126; --faint: #5c6570; --line: #d9dde2;
  --panel: #f4f6f8; --accent: #1f6feb; --second: #c05a00; --third: #00795a; --bar: #b7d3fb; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14171a; --ink: #e6e8eb; --faint: #9aa4af; --line: #353b42; --panel: #1e2328;
    --accent: #6ea8ff; --second: #ff9d4d; --third: #3fc79a; --bar: #28497a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.25rem 1rem 3rem; max-width: 60rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.25rem 0 .5rem; padding-top: .75rem; border-top: 1px solid var(--line); }
p { margin: .5rem 0; overflow-wrap: anywhere; }
.lead, figcaption, caption, .note { color: var(--faint); }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .75rem;
  margin: 1.25rem 0; }
.figures div { background: var(--panel); border-radius: .5rem; padding: .75rem 1rem; }
.figures dt { color: var(--faint); font-size: .875rem; }
.figures dd { margin: 0; font-size: 1.6rem; font-weight: 600; line-height: 1.3; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; min-width: min(100%, 16rem); font-variant-numeric: tabular-nums;
  margin: .75rem 0; }
caption { text-align: left; padding-bottom: .35rem; font-size: .9rem; }
th, td { text-align: right; padding: .25rem .75rem .25rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; white-space: nowrap; }
th:first-child { text-align: left; white-space: normal; overflow-wrap: anywhere; min-width: 8rem; }
thead th { color: var(--faint); font-weight: 500; font-size: .875rem; white-space: nowrap; }
tbody th { font-weight: 400; }
td.bar { min-width: 14rem; padding-right: 0; vertical-align: middle; }
.settings { display: grid; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); gap: .5rem 1rem;
  margin: .75rem 0; }
.settings dt { color: var(--faint); font-size: .8rem; }
.settings dd { margin: 0; overflow-wrap: anywhere; }
td.bar span { display: block; height: .7rem; border-radius: .2rem; background: var(--bar); }
pre { background: var(--panel); border-radius: .5rem; padding: .75rem 1rem; white-space: pre-wrap;
  overflow-wrap: anywhere; font-size: .875rem; margin: .5rem 0; }
.grid { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 9.5rem), 1fr));
  align-items: start; }
.grid.large { grid-template-columns: repeat(auto-fill, minmax(min(100%, 19rem), 1fr)); }
.grid.small { grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); }
figure { margin: 0; }
figcaption { font-size: .875rem; overflow-wrap: anywhere; line-height: 1.4; margin-top: .25rem; }
img { display: block; max-width: 100%; height: auto; border-radius: .3rem; }
svg { display: block; width: 100%; height: auto; max-width: 34rem; overflow: visible; }
svg text { fill: var(--faint); font: 13px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
svg .grid-line { stroke: var(--line); } svg .axis { stroke: var(--faint); }
svg .s0 { stroke: var(--accent); } svg .s1 { stroke: var(--second); } svg .s2 { stroke: var(--third); }
svg .line { fill: none; stroke-width: 2.25; stroke-linejoin: round; stroke-linecap: round; }
svg .dashed { stroke-dasharray: 6 5; }
svg .cell { fill: var(--accent); } svg .wrong { fill: var(--second); }
svg.matrix { max-width: none; } svg.matrix text.count { fill: var(--ink); }
details summary { cursor: pointer; color: var(--faint); padding: .25rem 0; }
@media (max-width: 40rem) { td.bar { display: none; } th:first-child { min-width: 5.5rem; }
  .figures dd { font-size: 1.35rem; } svg.chart text { font-size: 17px; } }
"""


def page(title: str, lead: str, parts: Iterable[Html]) -> str:
    """A whole document."""
    heading = f'<h1>{escape(title)}</h1>\n<p class="lead">{escape(lead)}</p>\n'
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"{heading}{join(parts)}</main>\n</body>\n</html>\n"
    )


def join(parts: Iterable[Html]) -> Html:
    return Html("".join(parts))


def section(heading: str, *parts: Html) -> Html:
    """Nothing where no part says anything."""
    body = join(parts)
    return Html(f"<section>\n<h2>{escape(heading)}</h2>\n{body}</section>\n") if body else Html("")


def paragraph(words: str) -> Html:
    return Html(f"<p>{escape(words)}</p>\n")


def command_block(command: str) -> Html:
    return Html(f"<pre><code>{escape(command)}</code></pre>\n")


def figures(values: Mapping[str, str]) -> Html:
    """The numbers that matter, large."""
    tiles = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in values.items()
    )
    return Html(f'<dl class="figures">{tiles}</dl>\n')


def table(
    caption: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    bars: Sequence[float | None] | None = None,
) -> Html:
    """The first column names the row. bars: a length of 0 to 1 for each row, drawn behind its cells."""
    if not rows:
        return Html("")
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    spare = '<td class="bar" aria-hidden="true"></td>' if bars is not None else ""
    lengths: Sequence[float | None] = [None] * len(rows) if bars is None else bars
    body = "".join(
        _row(row, _bar(length) if bars is not None else "") for row, length in zip(rows, lengths, strict=True)
    )
    return Html(
        f'<div class="wide" tabindex="0" role="region" aria-label="{escape(caption)}">'
        f"<table><caption>{escape(caption)}</caption>"
        f"<thead><tr>{heads}{spare}</tr></thead><tbody>{body}</tbody></table></div>\n"
    )


def settings(values: Mapping[str, Any]) -> Html:
    """Names and values, as a configuration has them."""
    pairs = "".join(
        f"<div><dt>{escape(name.replace('_', ' '))}</dt><dd>{escape(in_words(value))}</dd></div>"
        for name, value in values.items()
    )
    return Html(f'<dl class="settings">{pairs}</dl>\n')


def details(summary: str, content: Html) -> Html:
    """What is shown when asked for."""
    return Html(f"<details><summary>{escape(summary)}</summary>{content}</details>\n")


def in_words(value: Any) -> str:
    """A value as one reads it: 224, 180 rather than [224, 180]."""
    if isinstance(value, list | tuple):
        return ", ".join(map(in_words, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "–" if value is None else str(value)


def listing(summary: str, lines: Sequence[str]) -> Html:
    """Lines that are shown when asked for."""
    if not lines:
        return Html("")
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return details(summary, Html(f"<ul>{items}</ul>"))


def grid(parts: Iterable[Html], size: str = "") -> Html:
    """Figures side by side, as many as there is room for. size: "small", "large", or between."""
    body = join(parts)
    return Html(f'<div class="{f"grid {size}".strip()}">{body}</div>\n') if body else Html("")


def figure(content: Html, caption: str) -> Html:
    return Html(f"<figure>{content}<figcaption>{escape(caption)}</figcaption></figure>\n")


def picture(image: ImageArray, says: str, longest_px: int) -> Html:
    """An image (h, w, 3) inside the page, as a JPEG of at most so many pixels a side. says: for the blind."""
    small = Image.fromarray(image)
    small.thumbnail((longest_px, longest_px))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=JPEG_QUALITY)
    data = base64.b64encode(file.getvalue()).decode("ascii")
    return Html(
        f'<img src="data:image/jpeg;base64,{data}" alt="{escape(says)}" '
        f'width="{small.width}" height="{small.height}">'
    )


def shrink(image: ImageArray, longest_px: int) -> ImageArray:
    """The image, no longer than that."""
    small = Image.fromarray(image)
    small.thumbnail((longest_px, longest_px))
    return np.array(small)


def name_of(path: Path) -> str:
    """Of a file or folder in a title: two parts say more than "best.safetensors"."""
    return "/".join(path.resolve().parts[-2:])


def share(value: float | None) -> str:
    """97.4 %; a dash where nothing was measured."""
    return "–" if value is None else f"{100 * value:.1f} %"


def duration(seconds: float) -> str:
    """17 min 28 s."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def times(seconds: Mapping[str, float]) -> Html:
    """How long each stage took, and all of them."""
    if len(seconds) == 1:
        ((name, spent),) = seconds.items()
        return paragraph(f"{name}: {duration(spent)}.")
    total = sum(seconds.values())
    rows = [[name, duration(spent), share(spent / total if total else 0)] for name, spent in seconds.items()]
    bars: list[float | None] = [spent / total if total else 0 for spent in seconds.values()]
    rows.append(["all", duration(total), ""])
    return table("Time of every stage", ["stage", "time", "share"], rows, [*bars, None])


def _row(cells: Sequence[str], bar: str = "") -> str:
    first, *others = map(escape, cells)
    return f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in others)}{bar}</tr>'


def _bar(length: float | None) -> str:
    span = "" if length is None else f'<span style="width:{100 * min(max(length, 0), 1):.1f}%"></span>'
    return f'<td class="bar" aria-hidden="true">{span}</td>'
