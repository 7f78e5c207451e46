"""What a launcher does about signals, so that no process it started keeps running after it."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from process.interruption import handled

ENDING = (signal.SIGTERM, signal.SIGHUP)
"""What ends a launcher from outside: `timeout`, a canceled job, a closed terminal. Ctrl-C raises KeyboardInterrupt."""

End = Callable[[], object]
_started: dict[End, int] = {}
"""How to end each process that must end with this one, oldest first → the pid of the process that started it."""


@contextlib.contextmanager
def signals_unwind() -> Iterator[None]:
    """Make SIGTERM and SIGHUP leave the body by an exception, as Ctrl-C does, so that what it started is taken down."""

    def leave(number: int, _: FrameType | None) -> None:
        sys.exit(128 + number)

    # A signal that our parent has switched off (`nohup`) stays off.
    with handled({sign: leave for sign in ENDING if signal.getsignal(sign) is not signal.SIG_IGN}):
        yield


@contextlib.contextmanager
def signals_wait() -> Iterator[None]:
    """Delay signals until the body has ended: an exception between a process's start and our record of its pid would
    leave it running.
    """
    came: list[int] = []
    # Handlers, and not a mask, which a started process would inherit.
    heard = [s for s in (signal.SIGINT, *ENDING) if callable(signal.getsignal(s))]
    try:
        with handled({sign: lambda number, _: came.append(number) for sign in heard}):
            yield
    finally:
        for number in came:
            signal.raise_signal(number)


def end_with_us(end: End) -> None:
    """Call `end` before SIGTERM or SIGHUP ends this process, unless the program handles that signal itself.

    This is for launchers without `signals_unwind`: a load run, a test session. They still die of the signal, as their
    parent expects, but their servers are ended first, the newest first.
    """
    _started[end] = os.getpid()
    if threading.current_thread() is threading.main_thread():
        for sign in ENDING:
            if signal.getsignal(sign) is signal.SIG_DFL:
                signal.signal(sign, _end_all)


def has_ended(end: End) -> None:
    """Forget an `end` given to `end_with_us`."""
    _started.pop(end, None)


def _end_all(number: int, _: FrameType | None) -> None:
    while _started:
        end, owner = _started.popitem()
        if owner == os.getpid():  # a forked child inherits the list, but not the processes
            try:
                end()
            except Exception as failure:  # one that cannot be ended must not save the others
                print(f"localstack: a server could not be ended: {failure}", file=sys.stderr)
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)
