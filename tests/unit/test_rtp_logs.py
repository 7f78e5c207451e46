"""What log lines look like, and that a flood of one event is held back and counted."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from rtp.logs import Throttle

SAYS = """
import logging, sys, structlog
from rtp.logs import configure
configure("info", sys.argv[1])
log = structlog.stdlib.get_logger("rtp.doors.predict")
log.debug("below the level")
try:
    1 / 0
except ZeroDivisionError as error:
    log.error("request failed", request_id="trace-7", exc_info=error)
logging.getLogger("access.keys").warning("%d keys", 2)
for _ in range(100):
    logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
"""


def lines(form: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", SAYS, form], capture_output=True, text=True, check=True, timeout=60)
    return done.stderr.splitlines()


def test_json_lines_have_the_same_keys_whoever_wrote_them() -> None:
    failed, library, flood = map(json.loads, lines("json"))
    for line in (failed, library, flood):
        assert {"timestamp", "level", "logger", "event"} <= line.keys()
        assert line["timestamp"].endswith("Z")
    assert (failed["event"], failed["request_id"], failed["level"]) == ("request failed", "trace-7", "error")
    assert failed["logger"] == "rtp.doors.predict"
    assert "ZeroDivisionError" in failed["exception"]
    assert (library["event"], library["level"]) == ("2 keys", "warning")


def test_logfmt_has_one_line_for_each_event_exceptions_included() -> None:
    failed, library, _ = lines("logfmt")
    assert failed.startswith("timestamp=")
    assert 'level=error logger=rtp.doors.predict event="request failed" request_id=trace-7' in failed
    assert "ZeroDivisionError" in failed
    assert 'event="2 keys"' in library


@pytest.mark.parametrize("event", ["a", "b"])
def test_of_a_flood_one_line_a_second_passes_and_the_others_are_counted(event: str) -> None:
    now = 10.0
    throttle = Throttle(lambda: now)
    assert throttle(event) == 0
    assert throttle("another") == 0
    assert [throttle(event) for _ in range(5)] == [None] * 5
    now = 11.0
    assert throttle(event) == 5
    assert throttle(event) is None
    now = 12.5
    assert throttle(event) == 1
