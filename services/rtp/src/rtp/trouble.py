"""What is tried again and again and fails: logged when failures begin and when they have ended, not each time."""

from __future__ import annotations

from rtp.errors import StoreError


class Trouble:
    """Why the last attempt failed. All failures of the store are one trouble, whatever their words: in an outage it is
    late, away and loading by turns."""

    def __init__(self) -> None:
        self.reason: str | None = None
        """Why, for people; None if it did not fail."""
        self._kind: object = None

    def begins(self, error: Exception, reason: str) -> bool:
        """Record a failure. Returns whether it is a new one."""
        kind = StoreError if isinstance(error, StoreError) else reason
        new = kind != self._kind
        self.reason, self._kind = reason, kind
        return new

    def ends(self) -> bool:
        """Record a success. Returns whether it ends a failure."""
        ended = self._kind is not None
        self.reason = self._kind = None
        return ended
