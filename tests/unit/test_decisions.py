"""Every decision is in the index with its date and status, and says what would reopen it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "docs/decisions"
DECISIONS = sorted(path.name for path in FOLDER.glob("[0-9]*.md"))
ROWS = re.findall(
    r"^\| \[(\d+)\. .+\]\(([\w-]+\.md)\) \| (\d{4}-\d\d-\d\d) \| (.+) \|$", (FOLDER / "README.md").read_text(), re.M
)
STATUS = re.compile(r"accepted|(partly )?superseded by \d+")


def test_the_index_has_every_decision_once() -> None:
    assert sorted(name for _, name, _, _ in ROWS) == DECISIONS


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_a_decision_agrees_with_the_index_and_says_what_would_reopen_it(row: tuple[str, str, str, str]) -> None:
    number, name, date, status = row
    text = (FOLDER / name).read_text()
    assert name.startswith(f"{int(number):04d}-")
    assert text.startswith(f"# {number}. ")
    assert STATUS.fullmatch(status)
    head = re.search(r"^Date: (\S+) · Status: (.+)$", text, re.M)
    assert head is not None, "it needs a line `Date: 2026-11-26 · Status: accepted` below its title"
    assert (head[1], re.sub(r"\[|\]\(.*?\)", "", head[2])) == (date, status)
    assert re.search(r"^\W*(Reopen if|What would reopen it)\b", text, re.M), "it needs a line `Reopen if: …`"
