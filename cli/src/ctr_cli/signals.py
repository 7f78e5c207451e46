"""What ends `ctr` from outside, and how: at once while it only imports, in order while a command runs.

An exception that comes in the middle of an import may be swallowed there, or leave modules and Python's import lock as
they must not be. Before a command runs there is nothing to put in order, so until then a signal ends the process.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Handler = Callable[[int, FrameType | None], object]


def end_at_once() -> None:
    """From now on, until something else is said, a signal ends the process with 128 + its number."""
    _handle(dict.fromkeys(ENDING, _end))


@contextmanager
def ending_at_once() -> Iterator[None]:
    """As `end_at_once`, within the body."""
    before = _handle(dict.fromkeys(ENDING, _end))
    try:
        yield
    finally:
        _restore(before)


@contextmanager
def raising() -> Iterator[None]:
    """Make signals leave the body by an exception, so that whatever it started is stopped on the way out: Ctrl-C by
    KeyboardInterrupt, the others by SystemExit."""
    before = _handle({signal.SIGINT: signal.default_int_handler, signal.SIGTERM: _leave, signal.SIGHUP: _leave})
    try:
        yield
    finally:
        _restore(before)


def _handle(handlers: dict[signal.Signals, Handler]) -> dict[signal.Signals, Handler | int | None]:
    """Set the handlers of signals that nothing else handles; what they had. One that our parent has switched off
    (`nohup`) stays off."""
    ours = (signal.SIG_DFL, signal.default_int_handler, _end, _leave)
    heard = {sign: handler for sign, handler in handlers.items() if signal.getsignal(sign) in ours}
    return {sign: signal.signal(sign, handler) for sign, handler in heard.items()}


def _restore(before: dict[signal.Signals, Handler | int | None]) -> None:
    for sign, handler in before.items():
        signal.signal(sign, handler)


def _end(number: int, _: FrameType | None) -> None:
    os._exit(128 + number)


def _leave(number: int, _: FrameType | None) -> None:
    sys.exit(128 + number)
