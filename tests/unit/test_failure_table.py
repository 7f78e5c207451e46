"""docs/failure-table.md names tests and scenarios that exist, and every scenario of the torture runs."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from torture.scenarios import SCENARIOS

REPOSITORY = Path(__file__).parents[2]
TABLE = (REPOSITORY / "docs" / "failure-table.md").read_text()
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TABLE)


def test_every_row_names_what_shows_it() -> None:
    rows = [line for line in TABLE.splitlines() if line.startswith("| ") and not line.startswith(("| fault", "| ---"))]
    assert len(rows) >= 20
    for row in rows:
        assert re.search(r"`tests/[\w/]+\.py::\w+` \|$", row), row


@pytest.mark.parametrize(("path", "name"), NAMED)
def test_what_a_row_names_exists(path: str, name: str) -> None:
    module = ast.parse((REPOSITORY / path).read_text())
    assert name in {node.name for node in module.body if isinstance(node, ast.FunctionDef)}


def test_every_scenario_has_a_row() -> None:
    named = {name for _, name in NAMED}
    faults = {"the_store_dies_forgets_or_is_damaged"}  # whose six faults have a row each
    assert {scenario.name for scenario in SCENARIOS} - named == faults
