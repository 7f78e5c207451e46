"""The scoring processes of a deployment: those that announce themselves in the store, and those that are named."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
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
from mimn.release.announcement import LASTS_S
from uic.settings import AccessSettings
from uic.store_failures import words_of
from uic.tools.partitions import call

PROBE: Final = "probe"
"""Ends the key of a write that shows whether announcements can be written. No process has this name."""
PAUSE_S: Final = 0.25


class Scorers:
    """Reads what RTP processes announce under one key prefix."""

    def __init__(self, client: Any, prefix: str, sleep: Callable[[float], None] = time.sleep) -> None:
        self._client = client
        self._prefix = prefix
        self._sleep = sleep

    def announced(self) -> list[Announcement]:
        """The announcements that have not expired, by name. An unreadable one, perhaps of another version, counts as
        following no revision."""
        found = []
        for name, value in self._said():
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
            self._probe()
        except NoPermissionError:
            return None
        except ResponseError as error:
            return f"the store refuses writes ({words_of(error).rstrip('.')})"
        return None

    def settle(self) -> str | None:
        """Tell processes that have ended from those that a store which refused writes has silenced, before one asks who
        is there. One that lives announces itself within a second once the store takes writes: wait until each process
        of the list has, but not longer than `LASTS_S`. Then the others have ended, and their names leave the list.

        Returns:
            As `refusal`, which decides: while the store refuses writes, nothing is waited for and no name goes.
        """
        left_s = LASTS_S
        while (why := self.refusal()) is None:
            silent = [name for name, value in self._said() if value is None]
            if not silent:
                return None
            if left_s <= 0:
                with suppress(NoPermissionError):  # as with `refusal`: they stay, and are waited for again
                    self._client.srem(instances_key(self._prefix), *silent)
                return None
            self._sleep(PAUSE_S)
            left_s -= PAUSE_S
        return why

    def require(self) -> None:
        """As `settle`, where nothing can go on while the store refuses writes.

        Raises:
            redis.ResponseError: it does; what the store says.
        """
        while self.settle() is not None:
            self._probe()  # if the store takes it by now, those that it had silenced are waited for

    def _probe(self) -> None:
        self._client.set(announcement_key(self._prefix, PROBE), b"", px=1)

    def _said(self) -> list[tuple[str, bytes | None]]:
        """The processes of the list by name, and what each announces; None if that has expired."""
        names = self._names()
        said = self._client.mget([announcement_key(self._prefix, name) for name in names]) if names else []
        return list(zip(names, said, strict=True))

    def _names(self) -> list[str]:
        return sorted(name.decode(errors="replace") for name in self._client.smembers(instances_key(self._prefix)))


def asked(url: str, access: AccessSettings) -> Announcement:
    """What the process with this admin address says; one of an earlier version leaves out what that did not know.

    Raises:
        uic.tools.partitions.Refused: no answer.
    """
    said = call(url, "GET", "/releases", access)
    loaded = [*said["arms"], *said["shadows"], *said["standby"]]
    return Announcement(
        instance=url,
        revision=said["revision"],
        unread=said.get("unread"),
        loaded=tuple(Loaded(one["bundle"], one["manifest"], one["namespace"], one.get("arm", "")) for one in loaded),
        refused=tuple(NotLoaded(one["bundle"], one["reason"], one.get("passes", False)) for one in said["refused"]),
    )
