"""Ends producers that owe a verdict: what became of a record whose time is over.

A producer reports each record within its delivery timeout, also to a caller that has given up by then. One that does
not, as while it looks for brokers that it may send to, would send the record whenever it finds one, perhaps minutes
after the caller was answered. A thread looks after them, which lives no longer than there is something owed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from kafka import KafkaProducer


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
        self._looking = False
        self._closed = threading.Event()

    def expect(self, producer: KafkaProducer, futures: Sequence[Any], within_s: float) -> None:
        """Give `producer` up if one of `futures` is not done in `within_s` seconds."""
        with self._lock:
            self._owed.append(_Owed(time.monotonic() + within_s, producer, futures))
            if not self._looking:
                self._looking = True
                threading.Thread(target=self._look, name="verdicts", daemon=True).start()

    def close(self) -> None:
        """Look no more; the producers are closed."""
        self._closed.set()

    def _look(self) -> None:
        while (wait_s := self._next()) is not None and not self._closed.wait(wait_s):
            pass

    def _next(self) -> float | None:
        """Give up the producers that are late; the seconds until the next verdict is due, None if there is none."""
        with self._lock:
            self._owed = [one for one in self._owed if not all(future.is_done for future in one.futures)]
            late = [one for one in self._owed if one.by <= time.monotonic()]
        for one in late:
            self._give_up(one.producer)
        with self._lock:
            self._owed = [one for one in self._owed if one not in late]
            self._looking = bool(self._owed)
            return max(0.0, min(one.by for one in self._owed) - time.monotonic()) if self._owed else None
