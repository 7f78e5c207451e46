"""The tour has ten stops, and each is a file with a function or a class that exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support.tree_names import tree

ROOT = Path(__file__).parents[2]
STOPS = re.findall(r"^### (\d+)\. `([\w/.]+)` · `(\w+)`$", (ROOT / "docs/tour.md").read_text(), re.M)


def test_there_are_ten_stops() -> None:
    assert [int(number) for number, _, _ in STOPS] == list(range(1, 11))


@pytest.mark.parametrize("stop", STOPS, ids=lambda stop: stop[0])
def test_a_stop_exists(stop: tuple[str, str, str]) -> None:
    _, path, name = stop
    assert (ROOT / path).is_file()
    assert tree().missing(f"{path}::{name}") is None
