"""The keys of a running process: read from a file, and read again when the file changes.

The file's content is compared, not its time of change: it is small, and mounted secrets change in ways (a link that is
pointed elsewhere, a clock that stands still) that a time does not show. A file that cannot be used changes nothing: the
keys before it stay, the log says why, and the outcome is reported for a metric.

A file system that hangs (a network mount without its server) blocks whatever opens or reads the file, with any flags.
So each read has a thread of its own, and a read that takes too long counts as a file that cannot be used.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Final

from access.key_file import read_key_file
from access.keys import BadKeys, Key, parse_keys
from access.rules import AccessDecision, Rule, judge

log = logging.getLogger(__name__)

EVERY_S: Final = 1.0
READ_S: Final = 5.0
"""How long a read may take. A local disk needs less than a millisecond, and a network mount less than a second."""
CLOSE_S: Final = 1.0
"""How long `close` waits for a check that is under way. Services have ten seconds to end."""


class KeyRing:
    """The keys in effect. Safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        """Reads the file.

        Raises:
            BadKeys: it cannot be read or used; the message names it.
        """
        self._path = path
        self._reading: Future[str] | None = None
        """A read that has begun and was not taken yet."""
        self._text = self._read(asked=False)
        self._keys: Mapping[bytes, Key] = _parse(path, self._text)
        self._trouble = ""
        self._asked = threading.Event()
        self._ended = False
        self._watcher: threading.Thread | None = None

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def refused(self) -> bool:
        """Whether the file cannot be used, so that keys which were revoked in it may be in effect still."""
        return bool(self._trouble)

    def judge(self, authorization: bytes | None, rule: Rule) -> AccessDecision:
        """See `access.rules.judge`."""
        return judge(self._keys, authorization, rule)

    def look(self, *, asked: bool = False) -> bool | None:
        """Read the file: True if it has changed and its keys are now in effect, False if it cannot be used and the
        earlier keys stay in effect, None if it has not changed (logged if `asked`)."""
        try:
            text = self._read(asked=asked)
            if text == self._text and not self._trouble:
                if asked:
                    log.info("%s has not changed: %d keys", self._path, len(self._keys))
                return None
            self._keys = _parse(self._path, text)
        except BadKeys as error:
            if str(error) == self._trouble and not asked:
                return None
            self._trouble = str(error)
            log.error("%s; the earlier %d keys stay in effect", error, len(self._keys))
            return False
        self._text, self._trouble = text, ""
        log.info("%s was read again: %d keys", self._path, len(self._keys))
        return True

    def watch(self, report: Callable[[bool], None], every_s: float = EVERY_S) -> None:
        """Check the file every `every_s` seconds and on `look_now`, on a thread of its own, until `close`; every change
        is passed to `report`."""

        def run() -> None:
            while True:
                asked = self._asked.wait(every_s)
                self._asked.clear()
                if self._ended:
                    return
                if (taken := self.look(asked=asked)) is not None:
                    report(taken)

        self._watcher = threading.Thread(target=run, name="keys", daemon=True)
        self._watcher.start()

    def look_now(self) -> None:
        """Check the file at once. May be called from a signal handler."""
        self._asked.set()

    def close(self) -> None:
        """End the watch. A check that hangs is left to end with the process."""
        self._ended = True
        self._asked.set()
        if self._watcher is not None:
            self._watcher.join(CLOSE_S)

    def _read(self, *, asked: bool) -> str:
        """The file's text. While a read hangs, another one is begun only if `asked`, so that threads stay few; the
        new one helps if the path leads to another file system by then.

        Raises:
            BadKeys: it cannot be read, or not in time.
        """
        if asked or self._reading is None:
            self._reading = _begin_read(self._path)
        wait([self._reading], READ_S)
        if not self._reading.done():
            raise BadKeys(f"{self._path}: no answer within {READ_S:g} s: does its file system hang?")
        reading, self._reading = self._reading, None
        return reading.result()


def _begin_read(path: Path) -> Future[str]:
    """The file's text, or `BadKeys`, once the read has ended."""
    reading: Future[str] = Future()

    def run() -> None:
        try:
            reading.set_result(_read(path))
        except BaseException as error:
            reading.set_exception(error)

    threading.Thread(target=run, name="keys-read", daemon=True).start()
    return reading


def _read(path: Path) -> str:
    try:
        return read_key_file(path)
    except BadKeys as error:
        raise BadKeys(f"{path}: {error}") from error


def _parse(path: Path, text: str) -> Mapping[bytes, Key]:
    try:
        return parse_keys(text)
    except BadKeys as error:
        raise BadKeys(f"{path}: {error}") from None
