"""README in two languages: the same commands, figures that stand in the pages they come from, and a
file tree with every folder. Its commands and snippets are run by test_docs.py.
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
    rows = re.findall(r"^\|.+\| (.+?) \| \[\w+\]\((docs/[\w/]+\.md)\) \|$", text, re.MULTILINE)
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


def test_the_file_tree_has_a_line_for_every_folder() -> None:
    text = README[README.index("```text\nsrc/sppnet/") :].split("```")[1]
    named = re.findall(r"^  (\w+)/  +\S", text, re.MULTILINE)
    there = {path.parent.name for path in SOURCES.glob("*/*.py")}
    assert sorted(named) == sorted(there)
