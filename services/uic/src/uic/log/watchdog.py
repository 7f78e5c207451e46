"""Judges by the outcome whether this worker is a working member of its group; pure, with no clock of its own.

Two things go wrong without an error: the coordinator no longer has us as a member while our client waits for nothing,
and a client that is a member reads nothing while its log grows. Both are fixed by a new client that joins from scratch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from uic.log.broker_view import GroupView

LOOK_S: Final = 2.0
"""Between looks at the group."""
LOOK_AGAIN_S: Final = 10.0
"""After a look that no broker answered."""
PATIENCE_S: Final = 5.0
"""How long the coordinator may disagree with us: an answer is never simultaneous with what our client believes."""
STALL_S: Final = 8.0
"""How long nothing may be read while every partition that is read has something to read."""


@dataclass(slots=True)
class Watchdog:
    """For one client; a new client gets a new one. Times are monotonic, in seconds."""

    _disagrees_since: float | None = None
    _stuck: dict[int, tuple[int, float]] = field(default_factory=dict)

    def look(self, view: GroupView | None, member: str, holds: frozenset[int], now: float) -> str | None:
        """Compare the coordinator's view with ours.

        Args:
            view: None if the coordinator does not let us ask.
            member: our id, empty before the first join.
            holds: partitions that our client believes it owns.
            now: when the question was answered.

        Returns: what is wrong, once it has been for `PATIENCE_S`.
        """
        problem = _disagreement(view, member, holds)
        if problem is None:
            if view is not None:
                self._disagrees_since = None
            return None
        if self._disagrees_since is None:
            self._disagrees_since = now
        return problem if now - self._disagrees_since >= PATIENCE_S else None

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


def _disagreement(view: GroupView | None, member: str, holds: frozenset[int]) -> str | None:
    if view is None:
        return None
    if member not in view.members:
        return "the group's coordinator does not know this member"
    if view.stable and view.members[member] != holds:
        return "the group's coordinator says that this member owns other partitions than it reads"
    return None
