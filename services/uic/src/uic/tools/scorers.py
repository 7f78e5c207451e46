"""The scoring processes of a deployment: those that announce themselves in the store, and those that are named."""

from __future__ import annotations

from typing import Any, Final

from redis.exceptions import NoPermissionError, ResponseError

from mimn.release import (
    Announcement,
    Loaded,
    NotLoaded,
    announcement_key,
    decode_announcement,
    instances_key,
)
from uic.settings import AccessSettings
from uic.store_failures import words_of
from uic.tools.partitions import call

PROBE: Final = "probe"
"""Ends the key of a write that shows whether announcements can be written. No process has this name."""


class Scorers:
    """Reads what RTP processes announce under one key prefix."""

    def __init__(self, client: Any, prefix: str) -> None:
        self._client = client
        self._prefix = prefix

    def announced(self) -> list[Announcement]:
        """The announcements that have not expired, by name. An unreadable one, perhaps of another version, counts as
        following no revision."""
        found = []
        names = self._names()
        said = self._client.mget([announcement_key(self._prefix, name) for name in names]) if names else []
        for name, value in zip(names, said, strict=True):
            if value is None:
                continue
            try:
                found.append(decode_announcement(value))
            except ValueError:
                found.append(Announcement(instance=name, revision=None))
        return found

    def refusal(self) -> str | None:
        """Why no process can announce itself now: what the store says to a write beside their announcements. None if it
        takes one, or if it is our own user who may not write there."""
        try:
            self._client.set(announcement_key(self._prefix, PROBE), b"", px=1)
        except NoPermissionError:
            return None
        except ResponseError as error:
            return f"the store refuses writes ({words_of(error).rstrip('.')})"
        return None

    def forget_ended(self) -> None:
        """Take the names of processes that have ended from the list; one that lives comes back within a second."""
        for name in self._names():
            if not self._client.exists(announcement_key(self._prefix, name)):
                self._client.srem(instances_key(self._prefix), name)

    def _names(self) -> list[str]:
        return sorted(name.decode(errors="replace") for name in self._client.smembers(instances_key(self._prefix)))


def asked(url: str, access: AccessSettings) -> Announcement:
    """What the process with this admin address says.

    Raises:
        uic.tools.partitions.Refused: no answer.
    """
    said = call(url, "GET", "/releases", access)
    loaded = [*said["arms"], *said["shadows"], *said["standby"]]
    return Announcement(
        instance=url,
        revision=said["revision"],
        loaded=tuple(Loaded(one["bundle"], one["manifest"], one["namespace"], one.get("arm", "")) for one in loaded),
        refused=tuple(NotLoaded(one["bundle"], one["reason"]) for one in said["refused"]),
    )
