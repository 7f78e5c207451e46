"""As-of times: ask the broker where the log ends and the store what time it is, and say in the store that idle
partitions are caught up. Busy ones say so with their batches.
"""

from __future__ import annotations

from collections.abc import Callable

from uic.core.advance import CaughtUp, as_of
from uic.core.ports import Described
from uic.core.status import Phase
from uic.core.trouble import Cause, Trouble
from uic.errors import StoreUnavailable
from uic.fold.health import Health
from uic.fold.partition import Partition, Partitions
from uic.fold.rounds import Rounds
from uic.fold.setup import Setup


class AsOf:
    """Owned by the fold thread."""

    def __init__(self, setup: Setup, partitions: Partitions, rounds: Rounds, health: Health) -> None:
        """Nothing is asked yet."""
        self._setup = setup
        self._partitions = partitions
        self._rounds = rounds
        self._health = health
        self._due = 0.0
        self._ahead_ms: int | None = None
        """Our clock less the store's; None until they were compared."""

    def ask(self, now: float, wall_s: Callable[[], float]) -> None:
        """Once an interval, ask the broker where the log ends, and the store for its time and for what the Sentinels
        say. `wall_s` is our clock."""
        if now < self._due:
            return
        self._due = now + self._setup.settings.as_of_interval_s
        store, asked_s = self._setup.ports.store, wall_s()
        try:
            stores_ms = store.time_ms()
        except StoreUnavailable as error:
            self._health.clock_failed(error, now)
        else:
            self._ahead_ms = round(500 * (asked_s + wall_s())) - stores_ms  # half of the way there and back
            self._health.clock_answered(self._ahead_ms)
            self._setup.metrics.clock_skew.set(self._ahead_ms / 1000)
        self._health.trouble.hear(Trouble(Cause.SENTINELS, store.sentinels or ""))
        self._health.trouble.hear(Trouble(Cause.EVICTION, store.evicts))
        # Those that do not read yet, or any more, fall behind: their lag is asked for, too.
        asked = self._partitions.of(Phase.CLAIMING, Phase.VERIFYING, Phase.FOLDING, Phase.BROKEN)
        if asked:
            self._setup.ports.log.describe({partition.number: partition.tag for partition in asked})

    def described(self, partition: Partition, message: Described) -> None:
        """The broker answered."""
        if self._ahead_ms is not None:
            partition.will_be_caught_up(CaughtUp(message.log_end, as_of(message.asked_ms, self._ahead_ms)))

    def refresh(self, now: float) -> None:
        """Partitions that are caught up and idle say so in the store."""
        idle = [(partition, partition.idle_attempt(now)) for partition in self._partitions.of(Phase.FOLDING)]
        attempts = [(partition, attempt) for partition, attempt in idle if attempt is not None]
        self._rounds.advise(self._rounds.commit(attempts, now))
