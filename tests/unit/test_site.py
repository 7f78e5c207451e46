"""The documents build as a site in strict mode, its pages load nothing from elsewhere, and every relative link of every
Markdown file in the tree leads to a file and to a heading that exist.
"""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from localstack.checks.site_links import within_docs
from support.headings import anchors

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"")


class Loads(HTMLParser):
    """What a page loads by itself; links that a reader follows are none of it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.urls: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "a":
            self.urls += [value for name, value in attrs if name in ("src", "href") and value]


def test_the_site_builds_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) >= len(list((ROOT / "docs").rglob("*.md")))
    elsewhere = {url for page in pages for url in Loads(page.read_text()).urls if re.match(r"(https?:)?//", url)}
    assert elsewhere == set()


def test_every_link_of_a_document_leads_somewhere() -> None:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    broken = []
    for document in (ROOT / name for name in listed if (ROOT / name).is_file()):
        for found in LINK.finditer(without_code(document.read_text())):
            link = found[1] or found[2]
            if re.match(r"[a-z]+:", link):
                continue
            path, _, anchor = link.partition("#")
            target = (document.parent / path).resolve() if path else document
            if not target.exists() or not target.is_relative_to(ROOT):
                broken.append(f"{document}: {link}")
            elif anchor and anchor not in anchors(target.read_text()):
                broken.append(f"{document}: {link} (no such heading)")
    assert not broken


@pytest.mark.parametrize("name", ["failure-table.md", "security.md"])
def test_the_tests_that_are_named_as_proof_exist(name: str) -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "docs" / name).read_text())
    assert named
    gone = [
        f"{path}::{test}"
        for path, test in named
        if not (ROOT / path).is_file() or not re.search(rf"^def {test}\(", (ROOT / path).read_text(), re.M)
    ]
    assert not gone


@pytest.mark.parametrize(
    ("link", "shown"),
    [
        ("[AUC](../../models/experiments/AUC.md)", "AUC (`models/experiments/AUC.md`)"),
        ("[`tests/judge.py`](../../tests/judge.py)", "`tests/judge.py`"),
        ("[state](state.md#header)", "[state](state.md#header)"),
        ("[up](../architecture.md)", "[up](../architecture.md)"),
        ("[paper](https://arxiv.org/abs/1905.09248)", "[paper](https://arxiv.org/abs/1905.09248)"),
        ("[here](#below)", "[here](#below)"),
    ],
)
def test_a_link_out_of_the_documents_is_shown_as_a_path(link: str, shown: str) -> None:
    assert within_docs(f"See {link}.", "formats/bundle.md") == f"See {shown}."


def without_code(text: str) -> str:
    """Markdown less its blocks and spans of code."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
