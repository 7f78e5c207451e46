"""Judges by the outcome whether this worker's client reads; pure, with no clock of its own.

A client may read nothing while its log grows, without an error. Another client does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

STALL_S: Final = 8.0
"""How long nothing may be read while every partition that is read has something to read."""


@dataclass(slots=True)
class Watchdog:
    """For one client; a new client gets a new one. Times are monotonic, in seconds."""

    _stuck: dict[int, tuple[int, float]] = field(default_factory=dict)

    def progress(self, behind: Mapping[int, int], now: float) -> str | None:
        """Compare how far the client has read with the last call.

        Args:
            behind: tag → position, of what is being read and has records beyond its position.
            now: when the log's ends were told.

        Returns: what is wrong, once nothing at all has moved for `STALL_S`.
        """
        before, self._stuck = self._stuck, {}
        for tag, position in behind.items():
            since = before.get(tag)
            self._stuck[tag] = since if since is not None and since[0] == position else (position, now)
        if self._stuck and all(now - since >= STALL_S for _, since in self._stuck.values()):
            return f"nothing was read for {STALL_S:.0f} s of {len(behind)} partitions that have records waiting"
        return None
