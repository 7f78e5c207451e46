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
_ALL_IS_WELL: Final = BrokersSilent("")


@dataclass(slots=True)
class Silence:
    """Of all clients of one worker, one after another. Times are monotonic, in seconds."""

    _unanswered: float | None = None
    """When the first question since then was not answered; None if there was none."""
    _told: BrokersSilent = _ALL_IS_WELL

    def answered(self) -> BrokersSilent | None:
        """A broker answered, if only that it refuses. Returns what is to be told."""
        self._unanswered = None
        return self._changed(_ALL_IS_WELL)

    def unanswered(self, why: str, now: float) -> BrokersSilent | None:
        """A question was not answered. Returns what is to be told; `why` may change while it lasts."""
        if self._unanswered is None:
            self._unanswered = now
        return self._changed(BrokersSilent(why)) if now - self._unanswered >= PATIENCE_S else None

    def _changed(self, found: BrokersSilent) -> BrokersSilent | None:
        if found == self._told:
            return None
        self._told = found
        return found
