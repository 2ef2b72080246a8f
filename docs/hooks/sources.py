"""Pages of the site for the code that other pages link to.

A link to ../src/sppnet/….py or ../tests/….py works in the repository as it stands. In the site it
leads to a page with that file's lines, at the line of the function or class the link is called after.
"""

import re
from pathlib import Path

from mkdocs.structure.files import File, InclusionLevel

ROOT = Path(__file__).parents[2]
NOT_IN_NAV = InclusionLevel.NOT_IN_NAV
BUILT = re.compile(r'<a href="code/((?:src|tests)/[\w/]+)\.html"><code>([^<]+)</code>')
LINK = re.compile(r"\[`([^`]+)`\]\(\.\./((?:src|tests)/[\w/]+\.py)\)")


def on_files(files, config):
    linked = {path for file in files.documentation_pages() for _, path in LINK.findall(file.content_string)}
    for path in sorted(linked):
        files.append(File.generated(config, page_of(path), content=as_page(path), inclusion=NOT_IN_NAV))
    return files


def on_page_markdown(markdown, page, config, files):
    return LINK.sub(lambda link: f"[`{link[1]}`]({page_of(link[2])})", markdown)


def on_page_content(html, page, config, files):
    """Lines are added here: mkdocs does not know the anchors of lines."""
    return BUILT.sub(with_line, html)


def with_line(link):
    path, name = link.groups()
    return f'<a href="code/{path}.html#{anchor(name, f"{path}.py")}"><code>{name}</code>'


def page_of(path):
    return f"code/{path.removesuffix('.py')}.md"


def as_page(path):
    text = (ROOT / path).read_text()
    fence = "`" * 8
    return f'---\nsearch: {{exclude: true}}\n---\n# {path}\n\n{fence}python linenums="1"\n{text}{fence}\n'


def anchor(name, path):
    """Of the line where the function, class, method or constant begins; of the first where there is none."""
    begins = re.compile(r"\s*(?:(?:def|class) {0}\b|{0}\b(?::.*)? = )".format(re.escape(name.split(".")[-1])))
    lines = (ROOT / path).read_text().splitlines()
    return f"__codelineno-0-{next((n for n, line in enumerate(lines, 1) if begins.match(line)), 1)}"
