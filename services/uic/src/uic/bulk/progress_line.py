"""How far a job is and when it will be done, on stderr."""

from __future__ import annotations

import sys
import time

EVERY_S = 5.0


class ProgressLine:
    """Prints how far a job is, every few seconds at most and at the end."""

    def __init__(self, done: str, total: int, what: str) -> None:
        """For example "folded", 20000000, "records"."""
        self._word, self._total, self._what = done, total, what
        self._done = 0
        self._began = self._said = time.monotonic()

    def add(self, count: int) -> None:
        """Note that `count` more are done."""
        self._done += count
        self._total = max(self._total, self._done)  # more may have come since it was counted
        now = time.monotonic()
        if now - self._said < EVERY_S and self._done < self._total:
            return
        self._said = now
        rate = self._done / max(now - self._began, 1e-9)
        left = (self._total - self._done) / rate if rate else 0.0
        print(
            f"{self._word} {self._done:,} of {self._total:,} {self._what}, {rate:,.0f} a second, "
            f"{left / 60:.1f} minutes left",
            file=sys.stderr,
            flush=True,
        )
