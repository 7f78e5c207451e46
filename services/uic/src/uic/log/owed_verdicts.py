"""Ends producers that owe a verdict: what became of a record whose time is over.

A producer reports each record within its delivery timeout, also to a caller that has given up by then. One that does
not, as while it looks for brokers that it may send to, would send the record whenever it finds one, perhaps minutes
after the caller was answered. A thread looks after them, which lives no longer than there is something owed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from kafka import KafkaProducer

from uic.log.on_demand_thread import OnDemandThread

AGAIN_S: Final = 5.0
"""Until a producer is given up again whose end failed unexpectedly."""


class _Owed(NamedTuple):
    by: float
    """Monotonic time, in seconds."""
    producer: KafkaProducer
    futures: Sequence[Any]


class OwedVerdicts:
    """What is owed by the producers of one log."""

    def __init__(self, give_up: Callable[[KafkaProducer], None]) -> None:
        """`give_up` ends a producer; it is called on a thread of our own, and may be called twice."""
        self._give_up = give_up
        self._lock = threading.Lock()
        self._owed: list[_Owed] = []
        self._thread = OnDemandThread("verdicts", self._look)

    def expect(self, producer: KafkaProducer, futures: Sequence[Any], within_s: float) -> None:
        """Give `producer` up if one of `futures` is not done in `within_s` seconds."""
        with self._lock:
            self._owed.append(_Owed(time.monotonic() + within_s, producer, futures))
        self._thread.ensure_running()

    def close(self) -> None:
        """Look no more; the producers are closed."""
        self._thread.close()

    def _look(self) -> float | None:
        """Give up the producer that is late for longest, if one is. Returns the seconds until the next verdict is due,
        None if nothing is owed."""
        with self._lock:
            self._owed = [one for one in self._owed if not all(future.is_done for future in one.futures)]
            if not self._owed:
                return None
            first = min(self._owed, key=lambda one: one.by)
            now = time.monotonic()
            if first.by > now:
                return first.by - now
            # If this fails, it keeps no other producer waiting.
            self._owed = [one._replace(by=now + AGAIN_S) if one is first else one for one in self._owed]
        self._give_up(first.producer)
        with self._lock:
            self._owed = [one for one in self._owed if one.producer is not first.producer]
        return 0.0
