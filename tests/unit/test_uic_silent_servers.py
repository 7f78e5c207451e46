"""A server that kept us waiting is left alone for several times as long, and no longer than some seconds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from uic.silent_servers import LONGEST_S, TIMES, SilentServers


@given(waited_s=st.floats(0.001, 100), later=st.floats(0, 200))
def test_it_is_left_alone_for_a_multiple_of_the_wait_with_a_limit(waited_s: float, later: float) -> None:
    now = [1000.0]
    servers = SilentServers(lambda: now[0])
    servers.gave_no_answer("a:1", "a:1: timed out", waited_s)
    now[0] += later
    pause = min(TIMES * waited_s, LONGEST_S)
    assert servers.why("a:1") == ("a:1: timed out" if now[0] < 1000.0 + pause else "")
    assert servers.why("b:1") == ""


def test_one_that_answers_is_asked() -> None:
    servers = SilentServers(lambda: 0.0)
    servers.gave_no_answer("a:1", "a:1: timed out", 1.0)
    servers.answered("a:1")
    assert servers.why("a:1") == ""
