"""What a launcher does about signals, so that nothing that it started is left running."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def signals_unwind() -> Iterator[None]:
    """Make SIGTERM and SIGHUP leave the body by an exception, as Ctrl-C does, so that what it started is taken down."""

    def leave(number: int, _: FrameType | None) -> None:
        sys.exit(128 + number)

    # A signal that whoever started us has switched off (`nohup`) stays off.
    heard = [sign for sign in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(sign) is not signal.SIG_IGN]
    before = {sign: signal.signal(sign, leave) for sign in heard}
    try:
        yield
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)


@contextlib.contextmanager
def signals_wait() -> Iterator[None]:
    """Let signals that would leave the body by an exception wait for its end: between a process's start and our knowing
    of it, an exception would leave it to nobody. Only the main thread hears signals; in others there is nothing to do.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    # Handlers, and not a mask, which a started process would inherit.
    heard = [s for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if callable(signal.getsignal(s))]
    before = {sign: signal.signal(sign, lambda number, _: came.append(number)) for sign in heard}
    try:
        yield
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)
        for number in came:
            signal.raise_signal(number)
