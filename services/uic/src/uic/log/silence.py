"""For how long no broker has answered a worker, whatever it asked; pure, with no clock of its own.

A worker without partitions, or with quiet ones, waits for nothing, so that silence looks like peace to it. But it takes
nothing over from a worker that ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from uic.core.ports import BrokersSilent

PATIENCE_S: Final = 5.0
"""How long all questions must stay without an answer before it is told: one broker of several may hang or restart, and
another may be asked next."""
SESSIONS: Final = 3
"""After how many of the group's session timeouts a worker counts as out of the group. The group gives its partitions
away after one. But a single broker that restarts takes longer, and its workers are in the group again when it is
back."""

_ALL_IS_WELL: Final = BrokersSilent("")


@dataclass(slots=True)
class Silence:
    """Of all clients of one worker, one after another. Times are monotonic, in seconds."""

    session_s: float
    """The group's session timeout."""
    _answered: float | None = None
    """When a broker answered last, or the first question was not answered; None before."""
    _unanswered: float | None = None
    """When the first question since then was not answered; None if there was none."""
    _told: BrokersSilent = _ALL_IS_WELL

    def answered(self, now: float) -> BrokersSilent | None:
        """A broker answered, if only that it refuses. Returns what is to be told. A worker that was out of the group
        stays so until `is_member`."""
        self._answered, self._unanswered = now, None
        return self._changed(BrokersSilent("", out_of_group=self._told.out_of_group))

    def is_member(self, at: float) -> BrokersSilent | None:
        """The group's coordinator said at `at` that it has this worker, or does not let us ask. Returns what is to be
        told."""
        self._answered = at if self._answered is None else max(at, self._answered)
        if self._unanswered is not None and self._unanswered <= at:
            self._unanswered = None
        return self._changed(BrokersSilent("" if self._unanswered is None else self._told.detail))

    def unanswered(self, why: str, now: float) -> BrokersSilent | None:
        """A question was not answered. Returns what is to be told; `why` may change while it lasts."""
        if self._answered is None:
            self._answered = now
        if self._unanswered is None:
            self._unanswered = now
        if now - self._unanswered < PATIENCE_S:
            return None
        is_out = self._told.out_of_group or now - self._answered >= SESSIONS * self.session_s
        return self._changed(BrokersSilent(why, out_of_group=is_out))

    def _changed(self, found: BrokersSilent) -> BrokersSilent | None:
        if found == self._told:
            return None
        self._told = found
        return found
