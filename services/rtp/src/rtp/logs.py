"""Log lines on stderr: an event's name and its fields, as JSON or logfmt. Never a user id, key or body.

Every line has `timestamp` (ISO 8601, UTC), `level`, `logger` and `event`, and `request_id` where it is about a request.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic
from typing import Literal

import structlog
from structlog.typing import Processor

from process.log_lines import to_stderr

Format = Literal["json", "logfmt"]


class Throttle:
    """Lets one line a second through for each event, and counts the others."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._last: dict[str, float] = {}
        self._held: dict[str, int] = {}

    def __call__(self, event: str) -> int | None:
        """How many lines of `event` were held back since its last line, if one may be written now; else None.

        `event` must be one of a few names: each is remembered.
        """
        now = self._clock()
        if now - self._last.get(event, -1.0) < 1.0:
            self._held[event] = self._held.get(event, 0) + 1
            return None
        self._last[event] = now
        return self._held.pop(event, 0)


class _OneWarningASecond(logging.Filter):
    """For uvicorn, which warns of every malformed request: a client that sends nothing else must not fill the disk."""

    def __init__(self) -> None:
        super().__init__()
        self._throttle = Throttle()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno != logging.WARNING:
            return True
        held = self._throttle(str(record.msg))
        if held:
            record.msg = f"{record.msg} ({held} more since the line before)"
        return held is not None


def configure(level: str, form: Format) -> None:
    """Send everything of `level` and above to stderr in format `form`; uvicorn's own lines only from warning on."""
    shared: list[Processor] = [
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = to_stderr()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_renderers(form)],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    logging.getLogger("uvicorn.error").addFilter(_OneWarningASecond())


def _renderers(form: Format) -> list[Processor]:
    render: Processor = (
        structlog.processors.JSONRenderer(default=str)
        if form == "json"
        else structlog.processors.LogfmtRenderer(
            key_order=["timestamp", "level", "logger", "event"], drop_missing=True, bool_as_flag=False
        )
    )
    return [structlog.processors.format_exc_info, render]
