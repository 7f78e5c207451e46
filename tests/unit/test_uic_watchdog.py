"""The watchdog names a worker that is no working member, in bounded time, and leaves working ones alone."""

from __future__ import annotations

from uic.log.broker_view import GroupView
from uic.log.watchdog import PATIENCE_S, STALL_S, Watchdog

ME, OTHER = "me", "other"
MINE = frozenset({0, 1})


def group(members: dict[str, frozenset[int]], *, stable: bool = True) -> GroupView:
    return GroupView(stable, members)


def judged(view: GroupView | None, holds: frozenset[int] = MINE, *, before: GroupView | None = None) -> str | None:
    """What is said after `PATIENCE_S` of `view`."""
    watchdog = Watchdog()
    assert watchdog.look(view, ME, holds, 0.0) is None
    if before is not None:
        assert watchdog.look(before, ME, holds, PATIENCE_S / 2) is None
    return watchdog.look(view, ME, holds, PATIENCE_S)


def test_a_member_that_the_coordinator_does_not_know_is_named() -> None:
    for view in (group({OTHER: MINE}), group({}), group({OTHER: frozenset()}, stable=False)):
        assert "does not know" in str(judged(view))


def test_a_member_that_reads_other_partitions_than_the_coordinator_says_is_named() -> None:
    assert "other partitions" in str(judged(group({ME: frozenset({0})})))
    assert "other partitions" in str(judged(group({ME: MINE}), frozenset()))


def test_a_working_member_is_left_alone() -> None:
    assert judged(group({ME: MINE, OTHER: frozenset({2})})) is None
    assert judged(group({ME: frozenset()}), frozenset()) is None  # more workers than partitions


def test_a_rebalance_or_a_broker_without_an_answer_proves_nothing() -> None:
    assert judged(group({ME: frozenset()}, stable=False)) is None
    assert judged(None) is None


def test_nothing_read_while_records_wait_is_named() -> None:
    watchdog = Watchdog()
    assert watchdog.progress({1: 10, 2: 20}, 0.0) is None
    assert watchdog.progress({1: 10, 2: 20}, STALL_S - 1) is None
    assert "2 partitions" in str(watchdog.progress({1: 10, 2: 20}, STALL_S))
