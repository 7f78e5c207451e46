"""As-of times: ask the broker where the log ends and the store what time it is, and say in the store that idle
partitions are caught up. Busy ones say so with their batches.
"""

from __future__ import annotations

from collections.abc import Callable

from mimn.state import encode_progress
from uic.core.advance import CaughtUp, advance, as_of
from uic.core.commit import Commit
from uic.core.ports import Described, Log, StateStore
from uic.core.trouble import Cause, Trouble
from uic.errors import StoreUnavailable
from uic.fold.health import Health
from uic.fold.session import Attempt, Broken, Claiming, Reading, Sessions
from uic.fold.settlement import Settlement
from uic.metrics import Metrics


class AsOf:
    """Owned by the fold thread."""

    def __init__(
        self,
        *,
        store: StateStore,
        event_log: Log,
        sessions: Sessions,
        settlement: Settlement,
        health: Health,
        interval_s: float,
        metrics: Metrics,
    ) -> None:
        """`interval_s`: how often broker and store are asked."""
        self._store = store
        self._log = event_log
        self._sessions = sessions
        self._settlement = settlement
        self._health = health
        self._interval_s = interval_s
        self._metrics = metrics
        self._due = 0.0
        self._told: set[int] = set()
        """All partitions of which it is known where they will be caught up, and perhaps others that were there."""
        self._ahead_ms: int | None = None
        """Our clock less the store's; None until they were compared."""

    def ask(self, now: float, wall_s: Callable[[], float]) -> None:
        """Once an interval, ask the broker where the log ends, and the store for its time and for what the Sentinels
        say. `wall_s` is our clock."""
        if now < self._due:
            return
        self._due = now + self._interval_s
        asked_s = wall_s()
        try:
            stores_ms = self._store.time_ms()
        except StoreUnavailable as error:
            self._health.clock_failed(error, now)
        else:
            self._ahead_ms = round(500 * (asked_s + wall_s())) - stores_ms  # half of the way there and back
            self._health.clock_answered(self._ahead_ms)
            self._metrics.clock_skew.set(self._ahead_ms / 1000)
        self._health.trouble.hear(Trouble(Cause.SENTINELS, self._store.sentinels or ""))
        self._health.trouble.hear(Trouble(Cause.EVICTION, self._store.evicts))
        # Those that do not read yet, or any more, fall behind: their lag is asked for, too.
        asked = {s.partition: s.tag for s in self._sessions if isinstance(s, Reading | Claiming | Broken)}
        if asked:
            self._log.describe(asked)

    def described(self, reading: Reading, message: Described) -> None:
        """The broker answered."""
        if self._ahead_ms is not None:
            self._told.add(reading.partition)
            reading.caught_up = CaughtUp(message.log_end, as_of(message.asked_ms, self._ahead_ms))

    def refresh(self, now: float) -> None:
        """Partitions that are caught up and idle say so in the store."""
        attempts = []
        for partition in sorted(self._told):
            reading = self._sessions.get(partition)
            caught_up = reading.caught_up if isinstance(reading, Reading) else None
            if not isinstance(reading, Reading) or caught_up is None:
                self._told.remove(partition)
                continue
            if reading.position < caught_up.end or not reading.folds or reading.pending or reading.due > now:
                continue
            after = advance(
                reading.progress,
                writer=reading.hold.writer,
                last=None,
                position=reading.position,
                caught_up=caught_up,
            )
            commit = Commit(reading.partition, reading.known, encode_progress(after))
            attempts.append((reading, Attempt(commit, after)))
        self._settlement.advise(self._settlement.commit(attempts, now))
