"""A reader of stderr that hangs holds up nobody who logs, and no process that ends; a sound one gets every line."""

from __future__ import annotations

import fcntl
import logging
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from process.log_lines import LogLines

FLOOD = 20_000
SAYS = """
import logging, sys
from {service}.logs import configure
configure("info", "logfmt")
for i in range({lines}):
    logging.getLogger("a").warning("line %d", i)
print("all said", flush=True)
"""


def command(service: str, lines: int) -> list[str]:
    return [sys.executable, "-c", SAYS.format(service=service, lines=lines)]


def record(text: str, *arguments: object) -> logging.LogRecord:
    return logging.LogRecord("a", logging.INFO, __file__, 1, text, arguments, None)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


@pytest.mark.parametrize("service", ["uic", "rtp"])
def test_a_process_whose_stderr_nobody_reads_goes_on_and_ends(service: str, pipe: tuple[int, int]) -> None:
    done = subprocess.run(command(service, FLOOD), stdout=subprocess.PIPE, stderr=pipe[1], timeout=60, check=True)
    assert done.stdout == b"all said\n"


@pytest.mark.parametrize("service", ["uic", "rtp"])
def test_the_last_lines_are_written_before_a_process_ends(service: str) -> None:
    done = subprocess.run(command(service, 2000), capture_output=True, text=True, timeout=60, check=True)
    lines = done.stderr.splitlines()
    assert len(lines) == 2000
    assert 'event="line 1999"' in lines[-1]


def test_what_found_no_room_is_counted_and_told_when_the_reader_reads_again(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    os.write(writing, b"x" * fcntl.fcntl(writing, fcntl.F_GETPIPE_SZ))
    handler = LogLines(writing, room=10)
    for i in range(1000):
        handler.handle(record("line %d of a flood", i))
    dropped = handler.dropped
    assert dropped in (989, 990), "ten wait, and the writer may have one in its hand"
    with os.fdopen(os.dup(reading)) as lines:
        read = [next(lines) for _ in range(1000 - dropped)]
        assert read[-1].startswith("line ")
        assert next(lines).startswith(f"{dropped} log lines were dropped")
        handler.handle(record("all is well"))
        handler.close()
        assert next(lines) == "all is well\n"


def test_a_reader_that_is_gone_stops_nobody() -> None:
    handler = LogLines(-1)
    for _ in range(3):
        handler.handle(record("line"))
        handler.flush()
    assert handler.dropped == 3
