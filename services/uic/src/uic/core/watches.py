"""What health the gRPC port shows, and which open streams have not been told it yet.

A stream is one entry, whatever name it asks about. Nothing is kept of a name that UIC does not serve.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable
from enum import StrEnum
from typing import Generic, TypeVar


class Health(StrEnum):
    """As the gRPC health protocol names it."""

    SERVING = "SERVING"
    NOT_SERVING = "NOT_SERVING"
    UNKNOWN = "SERVICE_UNKNOWN"
    """No service has the name, and none ever will."""


Stream = TypeVar("Stream", bound=Hashable)


class Watches(Generic[Stream]):
    """The health of a fixed set of names, which is the same for all of them, and the streams that follow it."""

    def __init__(self, names: Collection[str], most: int) -> None:
        """`most`: how many streams may follow at once."""
        self._names = tuple(names)
        self._most = most
        self._health = Health.NOT_SERVING
        self._ended = False
        self._told: dict[Stream, Health | None] = {}
        """What each stream was told last; None while it is told something."""

    def show(self, serving: bool) -> None:
        """The health from now on; without effect after `end`."""
        if not self._ended:
            self._health = Health.SERVING if serving else Health.NOT_SERVING

    def end(self) -> None:
        """NOT_SERVING for good."""
        self.show(False)
        self._ended = True

    def of(self, name: str) -> Health:
        """The health of one name."""
        return self._health if name in self._names else Health.UNKNOWN

    def all(self) -> dict[str, Health]:
        """The health of each name that is served."""
        return dict.fromkeys(self._names, self._health)

    def join(self, stream: Stream, name: str) -> Health | None:
        """What a new stream is to be told first; `told` says that it was. None if `most` streams follow already; then
        it is not added."""
        if len(self._told) >= self._most:
            return None
        self._told[stream] = None
        return self.of(name)

    def tell(self, stream: Stream) -> Health | None:
        """What the stream is told from now on, until `told` says that it was; None if nothing."""
        health = self.owed(stream)
        if health is not None:
            self._told[stream] = None
        return health

    def told(self, stream: Stream, health: Health) -> None:
        """The stream was told this. Without effect if it has left meanwhile."""
        if stream in self._told:
            self._told[stream] = health

    def owed(self, stream: Stream) -> Health | None:
        """What the stream is to be told next; None if nothing, or if it is told something."""
        last = self._told.get(stream)
        return None if last in (None, Health.UNKNOWN, self._health) else self._health

    def waiting(self) -> list[Stream]:
        """The streams that are told something, or are to be, in the order in which they came."""
        return [stream for stream, last in self._told.items() if last is None or self.owed(stream)]

    def leave(self, stream: Stream) -> None:
        """The stream no longer follows. Without effect if it has left already."""
        self._told.pop(stream, None)

    def __len__(self) -> int:
        return len(self._told)

    def streams(self) -> list[Stream]:
        """All that follow."""
        return list(self._told)
