"""README in two languages: the same commands, figures that stand in the pages they come from, and a
file tree that names what is there. Its commands and snippets are run by test_docs.py.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
CHINESE = (ROOT / "README.zh-CN.md").read_text()
SOURCES = ROOT / "src" / "sppnet"

FIGURE = re.compile(r"\d+(?:\.\d+)?")


def code(text: str) -> list[str]:
    """The blocks that a reader runs."""
    return re.findall(r"```(?:console|python)\n.*?```", text, re.DOTALL)


def test_both_languages_show_the_same_commands_and_snippets() -> None:
    assert len(code(README)) >= 7
    assert code(CHINESE) == code(README)


def figures(text: str) -> list[tuple[str, str]]:
    """(figure, page it is from) of the table's rows."""
    rows = re.findall(r"^\|.+\| (.+?) \| \[\w+\]\((docs/\w+\.md)\) \|$", text, re.MULTILINE)
    return [(figure, page) for cell, page in rows for figure in FIGURE.findall(cell)]


def test_both_languages_have_the_same_figures() -> None:
    assert len(figures(README)) >= 7
    assert figures(CHINESE) == figures(README)


@pytest.mark.parametrize(("figure", "page"), figures(README))
def test_a_figure_stands_in_the_page_it_comes_from(figure: str, page: str) -> None:
    assert figure in FIGURE.findall((ROOT / page).read_text())


@pytest.mark.parametrize("text", [README, CHINESE], ids=["English", "Chinese"])
def test_links_lead_somewhere(text: str) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    assert len(links) > 15
    assert [link for link in links if not (ROOT / link).exists()] == []


def tree() -> list[str]:
    """Every file that the tree names, as a path below src/sppnet."""
    text = README[README.index("```text\nsrc/sppnet/") :].split("```")[1]
    named, folder = [], ""
    for line in text.splitlines()[2:]:
        if line.endswith("/"):
            folder = line.strip()
        else:
            here = folder if line.startswith("    ") else ""
            files, _ = re.split(r"  +(?!\w*\.py)", line.strip(), maxsplit=1)
            named += [here + file for file in files.split()]
    return named


def test_the_file_tree_names_every_module_and_nothing_else() -> None:
    there = {path.relative_to(SOURCES).as_posix() for path in SOURCES.rglob("*.py")}
    named = tree()
    assert sorted(named) == sorted(path for path in there if not Path(path).name.startswith("__"))
