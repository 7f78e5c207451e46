"""Log lines on their way to stderr, through a bounded queue, so that logging never blocks.

If the reader of a pipe hangs, the pipe takes 64 KiB and then blocks its writers: RTP's event loop, or UIC's fold. Here
one thread writes, and lines are dropped and counted while the queue is full. The queue is a `SimpleQueue`, because a
signal handler may use it while the interrupted thread is using it.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from logging.handlers import QueueHandler, QueueListener
from queue import SimpleQueue
from typing import Any, Final

ROOM: Final = 4096
"""Lines that may wait."""
FLUSH_S: Final = 0.5
"""How long `LogLines.flush`, and so the end of a process, waits for the reader of stderr."""


class LogLines(QueueHandler):
    """Formats records where they are logged, and has them written by a thread of its own."""

    def __init__(self, descriptor: int, room: int = ROOM) -> None:
        """Writes to the open file `descriptor`."""
        self.waiting: SimpleQueue[Any] = SimpleQueue()
        super().__init__(self.waiting)
        self._room = room
        self.dropped = 0
        """Lines that found no room, or that the system refused to write."""
        _Writer(self, descriptor).start()

    def prepare(self, record: logging.LogRecord) -> str:
        """The line."""
        return self.format(record)

    def enqueue(self, record: Any) -> None:
        """Hand a line to the writer, or drop it."""
        if self.waiting.qsize() >= self._room:
            self.dropped += 1
        else:
            self.waiting.put(record)

    def flush(self) -> None:
        """Wait until all that was logged is written, or `FLUSH_S`. Python calls it as the process ends."""
        written = threading.Event()
        self.waiting.put(written)
        written.wait(FLUSH_S)


class _Writer(QueueListener):
    """The thread. It holds no lock while it writes, and uses no file of Python's, whose lock the end would wait for."""

    def __init__(self, lines: LogLines, descriptor: int) -> None:
        super().__init__(lines.waiting)
        self._lines = lines
        self._descriptor = descriptor
        self._told = 0

    def handle(self, record: Any) -> None:
        """Write a line, or say that all lines before are written."""
        if isinstance(record, threading.Event):
            record.set()
            return
        try:
            self._write(record)
            if self._lines.dropped > self._told and self._lines.waiting.empty():
                self._tell()
        except OSError:  # nobody reads any more
            self._lines.dropped += 1

    def _tell(self) -> None:
        """Say how many lines were dropped since this was last said."""
        dropped = self._lines.dropped
        text, more = "%d log lines were dropped: stderr was not read in time", dropped - self._told
        self._write(self._lines.format(logging.LogRecord(__name__, logging.WARNING, __file__, 0, text, (more,), None)))
        self._told = dropped

    def _write(self, line: str) -> None:
        left = f"{line}\n".encode(errors="backslashreplace")
        while left:
            left = left[os.write(self._descriptor, left) :]


def to_stderr() -> logging.Handler:
    """Writes to stderr."""
    try:
        return LogLines(sys.stderr.fileno())
    except (AttributeError, OSError):  # it is closed, or replaced by an object in memory, which cannot hang
        return logging.StreamHandler(sys.stderr)


def dropped() -> int:
    """Lines that this process has dropped."""
    return sum(handler.dropped for handler in _in_use())


def flush() -> None:
    """Wait as `LogLines.flush` does, for who ends the process at once."""
    for handler in _in_use():
        handler.flush()


def _in_use() -> list[LogLines]:
    return [handler for handler in logging.getLogger().handlers if isinstance(handler, LogLines)]
