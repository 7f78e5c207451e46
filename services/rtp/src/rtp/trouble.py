"""What is tried again and again and goes wrong: logged when that begins and when it has ended, not each time."""

from __future__ import annotations

from rtp.errors import StoreError


class Trouble:
    """What went wrong the last time. All that the store does is one trouble, whatever the words: during an outage it is
    late, away and loading by turns."""

    def __init__(self) -> None:
        self.reason: str | None = None
        """Why, for people; None if it went well."""
        self._kind: object = None

    def begins(self, error: Exception, reason: str) -> bool:
        """Record a failure. Returns whether it is a new one."""
        kind = StoreError if isinstance(error, StoreError) else reason
        news = kind != self._kind
        self.reason, self._kind = reason, kind
        return news

    def ends(self) -> bool:
        """Record a success. Returns whether it ends a failure."""
        news = self._kind is not None
        self.reason = self._kind = None
        return news
