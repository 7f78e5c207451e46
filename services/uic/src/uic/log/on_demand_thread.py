"""A thread that is there while there is something to do, and survives what it does not expect."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final

from uic.logs import say

log = logging.getLogger("uic.log.on_demand_thread")

RETRY_S: Final = 1.0
"""Until a task that failed unexpectedly is called again."""


class OnDemandThread:
    """Calls a task again and again on a thread of its own, which ends when the task has nothing to do any more."""

    def __init__(self, name: str, task: Callable[[], float | None]) -> None:
        """No thread yet.

        Args:
            name: the thread's.
            task: is called by one thread at a time; returns the seconds until it is to be called again, or None if
                there is nothing to do.
        """
        self._name = name
        self._task = task
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._requested = False
        """Whether `ensure_running` was called since the task was called last."""
        self._closed = threading.Event()

    def ensure_running(self) -> None:
        """There is something to do. The task is called soon if there is no thread, and else when it is due."""
        with self._lock:
            self._requested = True
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Call the task no more. Does not wait for a call that has begun."""
        self._closed.set()

    def _run(self) -> None:
        wait_s = 0.0
        while not self._closed.wait(wait_s):
            with self._lock:
                self._requested = False
            due_s = self._call()
            with self._lock:
                if due_s is None and not self._requested:
                    self._thread = None
                    return
            wait_s = due_s or 0.0

    def _call(self) -> float | None:
        try:
            return self._task()
        except Exception as error:
            say(log, logging.ERROR, "a background task failed", task=self._name, detail=repr(error), exc_info=True)
            return RETRY_S
