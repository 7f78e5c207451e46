"""Log lines on stderr: an event's name and its fields, as logfmt or JSON. No field holds a user, a key or a value.

Every line has `timestamp` (ISO 8601, UTC), `level`, `logger` and `event`, and `request_id` within a gRPC call. RTP's
lines have the same form. Lines of libraries, and of `logging` itself, pass through the same processors.
"""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import Any, Literal

import structlog

from process.log_lines import to_stderr

_FIELDS = "uic_fields"
ORDER = ("timestamp", "level", "logger", "event", "request_id")


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


def configure(level: str, form: Literal["json", "logfmt"]) -> None:
    """Send everything of `level` and above to stderr, and of two libraries less: of kafka-python nothing above `debug`,
    because it logs each try to connect as an error, and what matters of it is in our lines; of uvicorn errors only,
    because its warning for each malformed request would let anyone flood the log."""
    handler = to_stderr()
    handler.setFormatter(formatter(form))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.getLogger("kafka").setLevel(logging.WARNING if level == "debug" else logging.CRITICAL)
    logging.getLogger("uvicorn").setLevel(logging.ERROR)


def _fields(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Add the fields that `say` was given."""
    event.update(getattr(event["_record"], _FIELDS, {}))
    return event


def _in_order(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Put the common keys first."""
    return {name: event[name] for name in ORDER if name in event} | dict(event)
