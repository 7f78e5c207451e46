"""When requests stop asking a store that does not answer, and when one of them tries again.

Otherwise every request would open a connection to a store that is down, and wait its whole time for one that hangs.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class CircuitBreaker:
    """Counts failures and decides which request may ask. Time is an argument, in seconds of any steady clock.

    Invariant: while paused, `may_ask` says yes at most once every `retry_every_s`.
    """

    failures_to_pause: int
    retry_every_s: float
    _failures: int = field(default=0, init=False)
    _next_try: float = field(default=0.0, init=False)

    @property
    def paused(self) -> bool:
        """Whether requests are to do without the store."""
        return self._failures >= self.failures_to_pause

    def may_ask(self, now: float) -> bool:
        """Whether this request may ask; while paused, saying yes starts the wait until the next."""
        if self._failures < self.failures_to_pause:
            return True
        if now < self._next_try:
            return False
        self._next_try = now + self.retry_every_s
        return True

    def answered(self) -> None:
        """The store answered, if only with an error."""
        self._failures = 0

    def late(self, now: float) -> None:
        """No reply in time."""
        self._failures += 1
        if self.paused:
            self._next_try = now + self.retry_every_s

    def away(self, now: float) -> None:
        """No connection: pause at once."""
        self._failures = max(self._failures + 1, self.failures_to_pause)
        self._next_try = now + self.retry_every_s
