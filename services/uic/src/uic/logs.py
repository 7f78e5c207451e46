"""Log lines: an event's name and its fields, as logfmt or JSON, on stderr. No field holds a user, a key or a value."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Literal

_FIELDS = "uic_fields"


def say(logger: logging.Logger, level: int, name: str, /, *, exc_info: bool = False, **fields: Any) -> None:
    """Log the event `name` with `fields`."""
    if logger.isEnabledFor(level):
        logger.log(level, name, extra={_FIELDS: fields}, exc_info=exc_info)


class Formatter(logging.Formatter):
    """One line a record; libraries' own lines get their text as the name."""

    def __init__(self, form: Literal["json", "logfmt"]) -> None:
        super().__init__()
        self._json = form == "json"

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **getattr(record, _FIELDS, {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if self._json:
            return json.dumps(line, default=str)
        return " ".join(f"{name}={_quoted(value)}" for name, value in line.items())


def configure(level: str, form: Literal["json", "logfmt"]) -> None:
    """Send everything of `level` and above to stderr; kafka-python's own lines only from warning on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Formatter(form))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.getLogger("kafka").setLevel(max(logging.WARNING, root.level))


def _quoted(value: object) -> str:
    text = str(value)
    return json.dumps(text) if not text or any(c in text for c in ' "=\n') else text
