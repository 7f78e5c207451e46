"""Which reasons of one outage are worth a line in the log. The words of a failure differ by chance from one try to the
next: a server that refuses a certificate says so, or only closes the connection.
"""

from __future__ import annotations

from typing import Final

QUIET_S: Final = 60.0
"""How long a further reason of the same kind is no news."""


class Rarely:
    """Which of many failures of one kind are worth a line: the first, and then one whenever none was for `QUIET_S`."""

    def __init__(self) -> None:
        """None yet."""
        self._logged_at: float | None = None
        self._left_out = 0

    def due(self, now: float) -> int | None:
        """How many failures had no line since the last one that had, if this one is worth a line, which is taken for
        written then; else None. `now` is in monotonic seconds."""
        if self._logged_at is not None and now - self._logged_at < QUIET_S:
            self._left_out += 1
            return None
        left_out, self._left_out, self._logged_at = self._left_out, 0, now
        return left_out


class LogThrottle:
    """What was logged of a server that does not answer, since it was there."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.detail = ""
        """The reason that was logged last; empty if none was."""
        self._logged_at: dict[str, float] = {}
        """By kind."""

    def is_news(self, kind: str, detail: str, now: float) -> bool:
        """Whether a failure is worth a line, which is taken for written then: its reason is not the last one that was
        written, and none of its kind was for `QUIET_S`.

        Args:
            kind:   what failed, in words that are the same at each try.
            detail: the reason.
            now:    monotonic seconds.
        """
        before = self._logged_at.get(kind)
        if detail == self.detail or (before is not None and now - before < QUIET_S):
            return False
        self.detail = detail
        self._logged_at[kind] = now
        return True
