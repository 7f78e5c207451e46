"""The keys of a running process: read from a file, and read again when the file changes.

The file's content is compared, not its time of change: it is small, and mounted secrets change in ways (a link that is
pointed elsewhere, a clock that stands still) that a time does not show. A file that cannot be used changes nothing: the
keys before it stay, the log says why, and the outcome is reported for a metric.
"""

from __future__ import annotations

import logging
import os
import stat
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from access.keys import MAX_FILE_BYTES, BadKeys, Key, parse_keys
from access.rules import AccessDecision, Rule, judge

log = logging.getLogger(__name__)

EVERY_S: Final = 1.0


class KeyRing:
    """The keys in effect. Safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        """Reads the file.

        Raises:
            BadKeys: it cannot be read or used; the message names it.
        """
        self._path = path
        self._content = _read(path)
        self._keys: Mapping[bytes, Key] = _parse(path, self._content)
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
            content = _read(self._path)
            if content == self._content and not self._trouble:
                if asked:
                    log.info("%s has not changed: %d keys", self._path, len(self._keys))
                return None
            self._keys = _parse(self._path, content)
        except BadKeys as error:
            if str(error) == self._trouble and not asked:
                return None
            self._trouble = str(error)
            log.error("%s; the earlier %d keys stay in effect", error, len(self._keys))
            return False
        self._content, self._trouble = content, ""
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
        """End the watch."""
        self._ended = True
        self._asked.set()
        if self._watcher is not None:
            self._watcher.join()


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & stat.S_IWOTH:
                raise BadKeys(f"{path}: every user can write to it, and so add a key: chmod o-w {path}")
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise BadKeys(f"{path}: cannot be read ({error.strerror or error})") from error
    if len(content) > MAX_FILE_BYTES:
        raise BadKeys(f"{path}: larger than {MAX_FILE_BYTES} bytes")
    return content


def _parse(path: Path, content: bytes) -> Mapping[bytes, Key]:
    try:
        return parse_keys(content.decode())
    except UnicodeDecodeError:
        raise BadKeys(f"{path}: is not text") from None
    except BadKeys as error:
        raise BadKeys(f"{path}: {error}") from None
