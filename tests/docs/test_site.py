"""The documentation's site: it builds without a broken link, and takes nothing from elsewhere."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

import mend

pytest.importorskip("mkdocs", reason="the documentation's tools are not installed")

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The built site; a link or an anchor that is broken is an error (mkdocs.yml)."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class _Loaded(HTMLParser):
    """Collects what a page loads by itself, that is, everything but its links."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "link" and values.get("rel") not in ("canonical", "prev", "next"):
            self.addresses.append(values.get("href") or "")
        elif tag != "a" and "src" in values:
            self.addresses.append(values["src"] or "")


def test_pages_load_nothing_from_another_host_and_nothing_that_is_not_there(site) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 10
    for page in pages:
        parser = _Loaded()
        parser.feed(page.read_text(encoding="utf-8"))
        assert parser.addresses
        for address in parser.addresses:
            if page.name == "404.html":  # served for any address, so its paths begin at the root
                address = f".{address}"
            assert (page.parent / address.partition("?")[0]).exists(), f"{page.name}: {address}"


def test_every_page_is_in_the_search_index(site) -> None:
    index = (site / "search/search_index.json").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert f'"location":"{page.stem}.html"' in index


@pytest.mark.parametrize(
    "figure", sorted((ROOT / "docs/figures").iterdir()), ids=lambda it: it.name
)
def test_a_figure_is_whole_described_and_has_colours_for_the_dark(figure) -> None:
    text = figure.read_text(encoding="utf-8")
    tags = {
        element.tag.rpartition("}")[2]: element for element in ElementTree.fromstring(text).iter()
    }
    assert tags["title"].text
    assert tags["desc"].text
    light, dark = text.split("@media (prefers-color-scheme: dark)")
    coloured = r"\.(\w+) \{[^}]*(?:fill|stroke): #"
    assert set(re.findall(coloured, light)) == set(re.findall(coloured, dark))
    assert "href" not in text


def test_the_api_has_every_public_name(site) -> None:
    page = (site / "api.html").read_text(encoding="utf-8")
    for name in mend.__all__:
        assert re.search(rf'id="mend\.[\w.]+\.{name}"', page), name


def test_messages_of_the_troubleshooting_page_are_those_of_the_code() -> None:
    code: set[str] = set()
    for path in (ROOT / "mend").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                code.add(node.value)
    page = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
    cells = re.findall(r"^\| (?:`` (.+?) ``|`([^`]+)`)", page, flags=re.MULTILINE)
    messages = [quoted or plain for quoted, plain in cells]
    assert len(messages) > 30
    of_snakemake = ("snakemake: error", "Directory cannot be locked")
    for message in messages:
        if message.startswith(of_snakemake):
            continue
        for piece in re.split(r"\.\.\.|FILE|\bN\b|: not | as configured", message):
            piece = piece.strip(" ':")
            assert any(piece in text for text in code), f"{message}: nothing says {piece!r}"
