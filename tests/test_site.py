"""The site is built and needs no network; what the page on the paper names is there."""

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import sppnet
from browser import Browser, needs_chromium, open_browser

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"

# --- the paper -----------------------------------------------------------------------------------

PAPER = (DOCS / "paper.md").read_text()
CODE, TEST = r"\[`([\w.]+)`\]\(\.\./(src/[\w/]+\.py)\)", r"\[`(test_\w+)`\]\(\.\./(tests/\w+\.py)\)"
SENTENCES = re.findall(r"^- (.*?)(?=\n\n|\n- |\Z)", PAPER, re.DOTALL | re.MULTILINE)


def test_the_paper_is_explained_in_sentences() -> None:
    assert len(SENTENCES) > 50


@pytest.mark.parametrize("sentence", SENTENCES, ids=lambda text: " ".join(text.split())[:70])
def test_a_sentence_names_what_does_it_and_what_tests_it(sentence: str) -> None:
    code, tests = re.findall(CODE, sentence), re.findall(TEST, sentence)
    assert code, "no function is named"
    assert tests, "no test is named"
    assert sentence.count("](../") == len(code) + len(tests)
    for name, path in [*code, *tests]:
        *owners, last = name.split(".")
        text = (ROOT / path).read_text()
        for owner in owners:
            assert re.search(rf"^class {owner}\b", text, re.MULTILINE), f"{path} has no class {owner}"
        defined = rf"^( *)(?:(?:def|class) {last}\b|{last}\b(?::.*)? = )"
        found = re.findall(defined, text, re.MULTILINE)
        assert {bool(indent) for indent in found} >= {bool(owners)}, f"{path} has no {name}"


# --- the site ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason="needs the extra docs")
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_is_in_the_site(site: Path) -> None:
    for path in DOCS.rglob("*.md"):
        assert (site / path.relative_to(DOCS).with_suffix(".html")).is_file()


LOADED = re.compile(
    r"<(?:script|link|img|iframe|source|video|audio)\b[^>]*?\b(?:src|href|srcset)=[\"']?"
    r"((?:https?:)?//[^\s\"'>]+)"
)
LOADED_BY_STYLE = re.compile(r"(?:url\(|@import )[\"']?((?:https?:)?//[^)\"']+)")


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    pages, sheets = list(site.rglob("*.html")), list(site.rglob("*.css"))
    assert len(pages) > 15
    assert sheets
    outside = {url for page in pages for url in LOADED.findall(page.read_text())}
    outside |= {url for file in [*pages, *sheets] for url in LOADED_BY_STYLE.findall(file.read_text())}
    assert outside == set()


@pytest.mark.parametrize(
    "html",
    [
        pytest.param('<link rel="stylesheet" href="https://fonts.example/a.css">', id="a style sheet"),
        pytest.param("<script async src=//cdn.example/a.js></script>", id="a script"),
        pytest.param("<img alt='x' src='http://example/a.png'>", id="a picture"),
    ],
)
def test_what_would_be_loaded_is_seen(html: str) -> None:
    assert LOADED.search(html)


def test_the_reference_has_every_public_name(site: Path) -> None:
    page = (site / "reference.html").read_text()
    missing = [name for name, home in sppnet._HOMES.items() if f'id="{home}.{name}"' not in page]
    assert missing == []


def test_lines_of_code_are_linked_where_they_stand(site: Path) -> None:
    links = re.findall(
        r'<a href="(code/[\w/]+\.html)#(__codelineno-0-(\d+))"><code>([^<]+)',
        (site / "paper.html").read_text(),
    )
    assert len(links) > 100
    for path, anchor, number, name in links:
        assert f'id="{anchor}"' in (site / path).read_text()
        source = (ROOT / path.removeprefix("code/")).with_suffix(".py").read_text().splitlines()
        assert name.split(".")[-1] in source[int(number) - 1]


class NullProgress(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def tab(site: Path, tmp_path: Path) -> Iterator[tuple[Browser, str]]:
    """A browser, and the site's URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(NullProgress, directory=str(site)))
    threading.Thread(target=server.serve_forever).start()
    try:
        with open_browser(tmp_path) as browser:
            yield browser, f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@needs_chromium
def test_pages_fit_a_phone_and_ask_for_nothing_elsewhere(tab: tuple[Browser, str]) -> None:
    browser, url = tab
    size = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
    browser.ask("Emulation.setDeviceMetricsOverride", **size)
    for path in sorted(DOCS.rglob("*.md")):
        page = path.relative_to(DOCS).with_suffix(".html")
        browser.ask("Page.navigate", url=f"{url}/{page}")
        browser.until("document.readyState === 'complete' && document.querySelector('h1')")
        assert browser.run("document.documentElement.scrollWidth") <= 360, path.name
    assert browser.complaints() == []
    assert {address for address in browser.addresses() if not address.startswith(url)} == set()
