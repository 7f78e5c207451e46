"""When a worker says that its poll thread is blocked."""

from __future__ import annotations

import pytest

from uic.core.ports import LogBlocked
from uic.log.blocked import Blocked

BOUND_S = 20.0
LOOK = "see whether x hangs"


@pytest.fixture
def blocked() -> Blocked:
    made = Blocked(BOUND_S, LOOK)
    made.goes_on(100.0)
    return made


def told(seconds: int) -> LogBlocked:
    return LogBlocked(f"the thread that reads the log has been blocked for {seconds} s: {LOOK}")


def test_a_thread_that_is_blocked_is_told_with_how_long_and_once_a_second(blocked: Blocked) -> None:
    assert blocked.judge(100.0 + BOUND_S) == told(20)
    assert blocked.judge(100.1 + BOUND_S) is None
    assert blocked.judge(101.0 + BOUND_S) == told(21)
    blocked.goes_on(122.0)
    assert blocked.judge(122.0) == LogBlocked("")
    assert blocked.judge(123.0) is None


def test_a_process_that_was_stopped_as_a_whole_has_no_thread_that_is_blocked(blocked: Blocked) -> None:
    assert blocked.judge(101.0) is None
    assert blocked.judge(125.0) is None, "the fold thread was not there to look, either"
    for second in range(126, 126 + int(BOUND_S)):
        found = blocked.judge(float(second))
    assert found == told(20), "it has not gone on since"
