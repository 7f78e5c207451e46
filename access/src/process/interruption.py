"""How a process hears signals; a command at once while it imports, in order while it works, at once the second time."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Handler = Callable[[int, FrameType | None], Any]


@contextmanager
def handled(handlers: Mapping[signal.Signals, Handler]) -> Iterator[None]:
    """Within it, signals have these handlers; behind it, those that they had. Only the main thread receives signals; in
    other threads this does nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {sign: signal.signal(sign, handler) for sign, handler in handlers.items()}
    try:
        yield
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)


@contextmanager
def ends_at_once() -> Iterator[None]:
    """Within it, Ctrl-C, SIGTERM and SIGHUP end the process, with 128 + their number. For imports, before there is
    anything to put in order: an exception in the middle of one may be dropped there, or leave Python's import lock
    held, for which other threads wait. A signal that is switched off (`nohup`) stays off; all other handlers,
    the calling program's too, are replaced."""
    with handled({s: _end for s in ENDING if signal.getsignal(s) not in (signal.SIG_IGN, None)}):
        yield


@contextmanager
def ends_in_order() -> Iterator[None]:
    """Within it, Ctrl-C raises KeyboardInterrupt. The next one ends the process as the system does it: whatever the
    first one did, also where code that Python does not see has dropped it, or where the way out waits for something.
    Nothing changes where Ctrl-C is switched off, or the program that calls us handles it."""

    def first(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        signal.default_int_handler(number, frame)

    pythons = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with handled({signal.SIGINT: first} if pythons else {}):
        yield


def _end(number: int, _: FrameType | None) -> None:
    os._exit(128 + number)
