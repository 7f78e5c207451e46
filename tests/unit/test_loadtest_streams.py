"""What the budgets read off the peer that runs Kafka Streams, and what they say where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtest.budgets import Sizes
from loadtest.budgets.fold import Folded
from loadtest.budgets.fold_against_streams import STREAMS_PEER, fold_against_streams, streams
from loadtest.stacks import NotMeasured

SAID = """users 61
at_least_once memory cache=0: folded 300 in 0.01 s = 46000/s; to last commit 45000/s; cpu us/event 15.0
exactly_once_v2 memory cache=0: folded 300 in 0.01 s = 31000/s; to last commit 30100/s; cpu us/event 31.5
exactly_once_v2 memory cache=134217728: folded 300 in 0.01 s = 49000/s; to last commit 47200/s; cpu us/event 20.3
"""


def script(folder: Path, body: str) -> str:
    path = folder / "peer"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o700)
    return str(path)


def test_the_exactly_once_runs_are_read_by_whether_they_cache(tmp_path: Path) -> None:
    peer = script(tmp_path, f"[ $2 = 300 ] && cat <<'END'\n{SAID}END")
    assert dict(streams(peer, 300)) == {"no cache": Folded(30100, 31.5), "cached": Folded(47200, 20.3)}


def test_a_peer_that_fails_is_not_a_figure(tmp_path: Path) -> None:
    with pytest.raises(NotMeasured, match=r"status 3: no Java here"):
        dict(streams(script(tmp_path, "echo no Java here >&2; exit 3"), 300))


def test_without_a_peer_it_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(STREAMS_PEER, raising=False)
    with pytest.raises(NotMeasured, match=STREAMS_PEER):
        fold_against_streams.measure(Sizes())
