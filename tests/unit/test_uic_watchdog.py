"""A client that reads nothing while records wait is named."""

from __future__ import annotations

from uic.log.watchdog import STALL_S, Watchdog


def test_nothing_read_while_records_wait_is_named() -> None:
    watchdog = Watchdog()
    assert watchdog.progress({1: 10, 2: 20}, 0.0) is None
    assert watchdog.progress({1: 10, 2: 20}, STALL_S - 1) is None
    assert "2 partitions" in str(watchdog.progress({1: 10, 2: 20}, STALL_S))
