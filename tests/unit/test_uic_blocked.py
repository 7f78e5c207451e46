"""When a worker says that its poll thread is blocked, and from when on it counts as out of its group."""

from __future__ import annotations

import pytest

from uic.core.ports import LogBlocked
from uic.log.blocked import Blocked
from uic.log.silence import SESSIONS

BOUND_S = 20.0
SESSION_S = 10.0
OUT_S = SESSIONS * SESSION_S
LOOK = "see whether x hangs"


@pytest.fixture
def blocked() -> Blocked:
    made = Blocked(BOUND_S, SESSION_S, LOOK)
    made.goes_on(100.0)
    return made


def told(seconds: int, *, out: bool = False) -> LogBlocked:
    return LogBlocked(f"the thread that reads the log has been blocked for {seconds} s: {LOOK}", out_of_group=out)


def test_a_thread_that_is_blocked_is_told_with_how_long_and_once_a_second(blocked: Blocked) -> None:
    assert blocked.judge(100.0 + BOUND_S) == told(20)
    assert blocked.judge(100.1 + BOUND_S) is None
    assert blocked.judge(101.0 + BOUND_S) == told(21)
    blocked.goes_on(122.0)
    assert blocked.judge(122.0) == LogBlocked("")
    assert blocked.judge(123.0) is None


def test_what_the_group_said_before_is_no_proof_that_it_has_the_worker_after(blocked: Blocked) -> None:
    assert blocked.judge(100.0 + OUT_S) == told(30, out=True)
    blocked.goes_on(131.0)
    blocked.is_member(101.0)  # a heartbeat that was answered before its thread was blocked, and is seen only now
    assert blocked.judge(131.0) == LogBlocked("", out_of_group=True)
    blocked.is_member(131.5)
    blocked.is_member(101.0)
    assert blocked.judge(132.0) == LogBlocked("")


def test_a_process_that_was_stopped_as_a_whole_has_no_thread_that_is_blocked(blocked: Blocked) -> None:
    assert blocked.judge(101.0) is None
    assert blocked.judge(125.0) is None, "the fold thread was not there to look, either"
    for second in range(126, 126 + int(BOUND_S)):
        found = blocked.judge(float(second))
    assert found == told(20, out=True), "it has not gone on since"
