"""Attempts at one thing, begun one after the other, of which the first success counts."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any, Final

from kafka.errors import KafkaConnectionError, KafkaTimeoutError, NodeNotReadyError, RequestTimedOutError
from kafka.future import Future
from kafka.net.manager import KafkaConnectionManager

SILENT_S: Final = 0.5
"""How long a server may be silent before the next one is asked, too."""
_NO_ANSWER: Final = (KafkaConnectionError, KafkaTimeoutError, NodeNotReadyError, RequestTimedOutError)


class Race:
    """Attempts at one thing, of which the first success counts. The next one begins, too, when one has failed or has
    given no sign for a moment."""

    def __init__(self, manager: KafkaConnectionManager, size: int, deadline: float | None) -> None:
        self._manager = manager
        self._size = size
        self._deadline = deadline
        self._moved = Future()
        self._won = Future() if size else Future().success(False)
        self.answer: Any = None
        """Of the attempt that has succeeded."""
        self._failed: list[BaseException] = []

    async def joined_by(self, attempt: Future) -> bool:
        """Whether the race has ended, a moment after one more attempt has begun."""
        self._moved = Future()
        attempt.add_callback(self._succeed).add_errback(self._fail).add_both(self.move_on)
        with suppress(KafkaTimeoutError):
            await self._manager.wait_for(self._moved, ms_until(self._deadline, SILENT_S * 1000))
        return bool(self._won.is_done)

    def move_on(self, *_: object) -> None:
        """There is no reason to wait before the next attempt."""
        if not self._moved.is_done:
            self._moved.success(None)

    async def is_won(self) -> bool:
        """Whether an attempt succeeds before all have failed and before time is over."""
        with suppress(KafkaTimeoutError):
            return bool(await self._manager.wait_for(self._won, ms_until(self._deadline)))
        return False

    def refusal(self) -> BaseException | None:
        """The first error that is not only the lack of an answer. It is not kept: an error that a frame of its own
        traceback refers to stays until the collector of cycles runs."""
        failed, self._failed = self._failed, []
        return next((error for error in failed if not isinstance(error, _NO_ANSWER)), None)

    def _succeed(self, answer: Any) -> None:
        if not self._won.is_done:
            self.answer = answer
            self._won.success(True)

    def _fail(self, error: BaseException) -> None:
        self._failed.append(error)
        if len(self._failed) == self._size and not self._won.is_done:
            self._won.success(False)


def ms_until(at: float | None, most_ms: float | None = None) -> float | None:
    """The time that is left, up to `most_ms`; None is without a limit."""
    left_ms = None if at is None else max(0.0, (at - time.monotonic()) * 1000)
    return min((ms for ms in (left_ms, most_ms) if ms is not None), default=None)
