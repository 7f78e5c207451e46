"""The threat model names tests that exist, for every threat, and the scopes that there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from access import Scope

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/security.md").read_text()
THREATS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in TEXT.partition("## Threats")[2].partition("\n## ")[0].splitlines()
    if line.startswith("|")
][2:]


@pytest.mark.parametrize("row", THREATS, ids=lambda row: row[0])
def test_a_threat_is_met_and_the_tests_that_show_it_exist(row: list[str]) -> None:
    _, mitigation, proof = row
    assert mitigation
    named = re.findall(r"`([^`]+)`", proof)
    assert named, "no test is named"
    for name in named:
        path, _, function = name.partition("::")
        source = (ROOT / path).read_text()
        assert re.search(rf"^(async )?def {re.escape(function)}\(", source, re.M), name


def test_there_are_threats_and_every_scope_is_explained() -> None:
    assert len(THREATS) > 15
    assert {Scope(name) for name in re.findall(r"^\| `([\w:]+)` \|", TEXT, re.M)} == set(Scope)


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#:]+)[^)]*\)", TEXT))))
def test_a_link_leads_somewhere(link: str) -> None:
    assert (ROOT / "docs" / link).exists()
