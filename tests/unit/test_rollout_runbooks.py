"""The runbooks of rollouts: every command in them is one that the tool knows."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from uic.rollout.main import build_parser

DOCUMENTS = Path(__file__).parents[2] / "docs"
COMMANDS = [
    pytest.param(line, id=f"{name}: {line}")
    for name in ("runbooks/migrate.md", "runbooks/roll-back.md")
    for line in re.findall(r"^ctr rollout (.+)$", (DOCUMENTS / name).read_text(), re.MULTILINE)
]


def test_there_are_commands() -> None:
    assert len(COMMANDS) > 8


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_a_runbook_is_one_of_the_tools(line: str) -> None:
    assert build_parser().parse_args(shlex.split(line)).verb == line.split(maxsplit=1)[0]


def test_the_guide_names_every_subcommand() -> None:
    guide = (DOCUMENTS / "rollout.md").read_text()
    listed = build_parser().format_help()
    verbs = re.findall(r"^    (\w+) ", listed, re.MULTILINE)
    assert len(verbs) == 12
    assert [verb for verb in verbs if not re.search(rf"\b{verb}\b", guide)] == []
