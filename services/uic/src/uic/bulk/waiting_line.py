"""That a job waits for others, on stderr: a black hole gives no answer until the client gives up."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

EVERY_S = 5.0


@contextmanager
def says_if_it_waits(whom: str) -> Iterator[None]:
    """Say every few seconds that the body still waits.

    Args:
        whom: for whom, for example "the brokers".
    """
    ended = Event()
    began = time.monotonic()

    def say() -> None:
        while not ended.wait(EVERY_S):
            print(f"waiting for {whom}, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)

    saying = Thread(target=say, daemon=True)
    saying.start()
    try:
        yield
    finally:
        ended.set()
        saying.join()
