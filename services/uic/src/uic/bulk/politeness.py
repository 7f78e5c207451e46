"""How fast a load may write, so that requests beside it are answered in time. Pure: times are handed in."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

LEAST_SHARE = 1 / 64
"""Lowest share of the byte budget that a load slows down to."""
WINDOW = 20
"""Probes that are judged together."""
FALL, RISE = 0.5, 1.1


@dataclass
class Politeness:
    """A byte budget that shrinks while the store answers slowly.

    The rate falls by half when the slowest of the last probes took longer than the latency budget, and rises by a tenth
    when none did (additive-increase schemes are slower to use a store that is idle again).
    """

    bytes_per_s: float
    latency_s: float
    share: float = 1.0
    """Share of the byte budget that is used now."""
    _due: float = 0.0
    _probes: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))

    def wait_s(self, size: int, now: float) -> float:
        """How long to wait before `size` more bytes are sent; they count as sent then.

        Time in which nothing was sent is not made up for.
        """
        begin = max(self._due, now)
        self._due = begin + size / (self.bytes_per_s * self.share)
        return begin - now

    def probed(self, seconds: float) -> None:
        """The store took this long to answer a read."""
        self._probes.append(seconds)
        if seconds > self.latency_s:
            self.share = max(LEAST_SHARE, self.share * FALL)
            self._probes.clear()
        elif len(self._probes) == WINDOW:
            self.share = min(1.0, self.share * RISE)
            self._probes.clear()
