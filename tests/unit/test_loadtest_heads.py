"""The heads are timed on what RTP would run: each bundle's own state after a number of events, in turn."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtest.heads import Timing, in_turn, main, table

FIXTURES = Path(__file__).parents[1] / "fixtures"
KINDS = "", "_sketch", "_fields", "_dien"
BUNDLES = [str(FIXTURES / f"bundle_tiny{kind}/tiny{kind.replace('_', '-')}/1") for kind in KINDS]


def test_every_kind_of_bundle_is_timed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*BUNDLES, "--history", "30", "--candidates", "3", "--rounds", "2"]) == 0
    printed = capsys.readouterr().out
    assert all(path in printed for path in BUNDLES)


def test_a_bundle_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(FIXTURES / "nothing")]) == 1
    assert "no bundle at" in capsys.readouterr().err


def test_calls_take_turns() -> None:
    called: list[str] = []
    in_turn({name: lambda name=name: called.append(name) for name in "ab"}, rounds=2)  # type: ignore[misc]
    turns = [name for name, before in zip(called, ["", *called], strict=False) if name != before]
    assert turns == ["a", "b", "a", "b", "a", "b"]


def test_ratios_are_to_the_first() -> None:
    rows = table([Timing("one", 0.002, 0.001, 0.003), Timing("other", 0.1, 0.1, 0.1)]).splitlines()
    assert rows[2] == "| one | 2.000 | 1.000 to 3.000 | 1.0 |"
    assert rows[3].endswith("| 50.0 |")
