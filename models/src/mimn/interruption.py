"""How a command ends at Ctrl-C where it does not say so itself, as while it imports its modules: quietly, with 130."""

from __future__ import annotations

import signal
import sys
from types import TracebackType

STATUS = 128 + signal.SIGINT


def quiet_in_main_program() -> None:
    """End at Ctrl-C without a traceback if this process is `python -m mimn...`; in any other program, do nothing.

    Called by the package itself: it is imported before the command's module, whose imports take seconds.
    """
    if sys.argv[0] != "-m":  # so it is only while Python looks for the module that `-m` names
        return
    shown = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            raise SystemExit(STATUS)
        shown(kind, error, trace)

    sys.excepthook = hook
