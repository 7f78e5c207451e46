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
WITHOUT_A_HEAD = {
    "0006-the-head-multiplies-candidate-and-history.md",
    "0007-writes-can-be-bounded.md",
    "0010-rtp-swaps-to-another-namespace-only-if-it-exists.md",
    "0011-a-context-feature-that-is-left-out-is-0.md",
    "0012-what-rtp-says-of-a-state.md",
    "0013-rtp-leaves-a-store-alone-that-does-not-answer.md",
    "0014-the-small-broker-is-not-kafka.md",
    "0015-states-keep-means-and-not-sums.md",
    "0016-counters-are-added-beside-the-step-graph.md",
    "0020-records-are-handed-over-under-a-confirmed-topic-id.md",
    "0023-the-step-graph-is-not-the-training-cell.md",
    "0025-kafka-python-stays-the-client.md",
    "0028-rtp-admits-by-the-age-of-its-line.md",
    "0029-the-served-head-is-rearranged-at-export.md",
    "0030-inputs-are-bounded-by-what-they-cost.md",
    "0032-uic-mends-how-kafka-python-joins-a-group.md",
    "0033-five-folds-over-users.md",
    "0035-the-recurrence-trains-in-cpp.md",
    "0036-a-sketch-bundle-beside-mimns.md",
    "0050-who-has-fewer-connections-accepts-first.md",
    "0057-rows-of-sixteen-epochs.md",
    "0058-peers-get-our-rows.md",
    "0060-the-store-rewrites-its-file-rarely.md",
    "0061-the-demo-serves-the-best-small-model.md",
    "0062-no-memory-adds-to-counters.md",
}
"""Decisions that do not have these lines yet; none may be added."""
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
    if name in WITHOUT_A_HEAD:
        return
    head = [
        found for word in ("Date", "Status") for found in re.findall(rf"\b{word}\W+(.+?)(?:\W*$| ·)", text, re.M)[:1]
    ]
    assert len(head) == 2, "it needs a line `Date: 2026-11-26 · Status: accepted` below its title"
    assert [head[0], re.sub(r"\[|\]\(.*?\)|decision ", "", head[1]).strip("*. ").lower()] == [date, status]
    assert re.search(r"^\W*(Reopen if|What would reopen it)\b", text, re.M), "it needs a line `Reopen if: …`"
