"""Log lines on stderr: an event's name and its fields, as logfmt or JSON. No field holds a user, a key or a value.

Every line has `timestamp` (ISO 8601, UTC), `level`, `logger` and `event`, and `request_id` within a gRPC call. RTP's
lines have the same form. Lines of libraries, and of `logging` itself, pass through the same processors.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, MutableMapping
from typing import Any, Literal

import structlog

from process.log_lines import to_stderr

_FIELDS = "uic_fields"
ORDER = ("timestamp", "level", "logger", "event", "request_id")
REPEAT_S = 10.0
"""How often a line of kafka-python may appear again."""
KINDS = 1000
"""Most lines that are told apart at a time."""
_NUMBERS = re.compile(r"[0-9a-fA-F]*[0-9][0-9a-fA-F]*")
_REASON = re.compile(r"\w+Error\b.*?(?=$| \(backoff )")
"""Why a connection is broken, in the half a dozen lines that kafka-python has for each."""


def say(logger: logging.Logger, level: int, name: str, /, *, exc_info: bool = False, **fields: Any) -> None:
    """Log the event `name` with `fields`."""
    if logger.isEnabledFor(level):
        logger.log(level, name, extra={_FIELDS: fields}, exc_info=exc_info)


def formatter(form: Literal["json", "logfmt"]) -> logging.Formatter:
    """What renders each record as one line."""
    renderer: structlog.types.Processor = structlog.processors.LogfmtRenderer(bool_as_flag=False)
    if form == "json":
        renderer = structlog.processors.JSONRenderer(default=str)
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            _fields,
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
        ],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            _in_order,
            renderer,
        ],
    )


class Repeats(logging.Filter):
    """Leaves out what kafka-python says again within `REPEAT_S`, and says with the next such line how often that was.

    While a broker is away, each of its clients says the same at each try to connect, a dozen lines a second. Lines that
    differ by more than numbers (ports, addresses, ids, times) are different lines, but those about connections that are
    broken for the same reason are one.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._lock = threading.Lock()
        self._said: dict[tuple[str, ...], tuple[float, int]] = {}
        """When a line was last let pass, and how many like it were not since."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line appears."""
        if not record.name.startswith("kafka."):
            return True
        try:
            text = record.getMessage()
        except (TypeError, ValueError):  # arguments that do not fit: the handler says so
            return True
        kind: tuple[str, ...] = record.name, record.levelname, _NUMBERS.sub("#", text)
        if record.name.startswith("kafka.net.") and (reason := _REASON.search(text)):
            kind = ("kafka.net", _NUMBERS.sub("#", reason[0].rstrip(")")))
        now = self._clock()
        with self._lock:
            at, left_out = self._said.get(kind, (now - REPEAT_S, 0))
            if now - at < REPEAT_S:
                self._said[kind] = at, left_out + 1
                return False
            if len(self._said) >= KINDS:
                self._said.clear()
            self._said[kind] = now, 0
        if left_out:
            setattr(record, _FIELDS, {"left_out": left_out})
        return True


def configure(level: str, form: Literal["json", "logfmt"]) -> None:
    """Send everything of `level` and above to stderr, but of kafka-python warnings and above only, without what it
    repeats, and of uvicorn errors only: its one warning for each malformed request would let anyone flood the log."""
    handler = to_stderr()
    handler.setFormatter(formatter(form))
    handler.addFilter(Repeats())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.getLogger("kafka").setLevel(max(logging.WARNING, root.level))
    logging.getLogger("uvicorn").setLevel(logging.ERROR)


def _fields(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Add the fields that `say` was given."""
    event.update(getattr(event["_record"], _FIELDS, {}))
    return event


def _in_order(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Put the common keys first."""
    return {name: event[name] for name in ORDER if name in event} | dict(event)
